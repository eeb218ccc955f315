//! What `announce` tells `/metrics` of its instances: how many stand, and why the others don't. Pure.

use super::lease::protocol::{KeyStatus, KeyStatuses};
use super::policy::claims::{Claim, Evaluation, Outranked};
use super::policy::eligibility::Verdict;
use super::policy::reason::Reason;
use crate::http::metrics::{Reading, Values, gauge};
use std::collections::BTreeMap;

/// How many instances are in which state; an instance is one key that a container claims.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InstanceCounts {
    /// Their keys stand, draining ones too.
    pub announced: usize,
    /// Of those, the ones that drain.
    pub draining: usize,
    /// Another holder has precedence.
    pub standing_by: usize,
    /// They are to be announced, and their puts are not confirmed.
    pub pending: usize,
    /// etcd rejects their keys.
    pub rejected: usize,
    /// They are not to be announced, by the kind of reason.
    pub withheld: BTreeMap<&'static str, usize>,
}

impl InstanceCounts {
    /// Counts the claims. A container that can't tell its claims counts as one.
    #[must_use]
    pub fn of(
        all: &BTreeMap<String, Evaluation>,
        outranked: &Outranked,
        statuses: &KeyStatuses,
    ) -> Self {
        let mut counts = Self::default();
        for (id, judged) in all {
            match &judged.claims {
                Err(reason) => counts.withhold(reason),
                Ok(claims) => {
                    for claim in claims {
                        if outranked.contains_key(&(id.clone(), claim.key.clone())) {
                            *counts.withheld.entry("outranked").or_default() += 1;
                        } else {
                            counts.count(claim, statuses.get(&claim.key));
                        }
                    }
                }
            }
        }
        counts
    }

    fn count(&mut self, claim: &Claim, status: Option<&KeyStatus>) {
        match (&claim.verdict, status) {
            (Verdict::Withdraw(reason), _) => self.withhold(reason),
            (_, Some(KeyStatus::Announced(endpoint))) => {
                self.announced += 1;
                self.draining += usize::from(endpoint.is_draining());
            }
            (_, Some(KeyStatus::StandingBy(_))) => self.standing_by += 1,
            (_, Some(KeyStatus::Rejected)) => self.rejected += 1,
            (_, Some(KeyStatus::Pending | KeyStatus::Withdrawn) | None) => self.pending += 1,
        }
    }

    fn withhold(&mut self, reason: &Reason) {
        *self.withheld.entry(reason.kind()).or_default() += 1;
    }

    /// As `/metrics` tells them.
    #[must_use]
    pub fn readings(&self) -> Vec<Reading> {
        // Each kind, also where it is 0: a series that is not there can't be watched.
        let withheld = Reason::KINDS.iter().map(|kind| {
            let count = self.withheld.get(kind).copied().unwrap_or_default();
            // No count here comes near 2^53.
            #[allow(clippy::cast_precision_loss)]
            let count = count as f64;
            (("reason", (*kind).to_owned()), count)
        });
        vec![
            gauge(
                "sidekick_announce_instances_announced",
                "Instances whose keys stand in etcd, draining ones too",
                self.announced,
            ),
            gauge(
                "sidekick_announce_instances_draining",
                "Instances whose keys say that they drain",
                self.draining,
            ),
            gauge(
                "sidekick_announce_instances_standing_by",
                "Instances whose keys are left to a holder with precedence",
                self.standing_by,
            ),
            gauge(
                "sidekick_announce_instances_pending",
                "Instances whose keys are to stand, and are not confirmed",
                self.pending,
            ),
            gauge(
                "sidekick_announce_instances_rejected",
                "Instances whose keys etcd rejects",
                self.rejected,
            ),
            Reading {
                name: "sidekick_announce_instances_withheld",
                help: "Instances that are not to be announced, by the kind of reason",
                values: Values::Gauges(withheld.collect()),
            },
        ]
    }
}
