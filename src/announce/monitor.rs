//! What the announce loop tells the listener: how many instances are in which state, and whether they stand.

use super::config::AnnounceConfig;
use super::counts::InstanceCounts;
use super::lease::protocol::{DesiredKey, DesiredKeys, KeyStatus, KeyStatuses};
use super::lease::{KeyWait, LeaseMetrics};
use super::policy::claims::Evaluation;
use super::policy::target::Target;
use super::readiness::is_registered;
use crate::clock::{LastTime, Moment};
use crate::etcd::members::Members;
use crate::http::metrics::{Reading, Values, flag, read_at_scrape, registry};
use crate::http::server::{Readiness, Site, bind, serve};
use crate::systemd::Systemd;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::watch;

/// The announce loop's end of the channels to the listener.
#[derive(Debug)]
pub(super) struct AnnounceMonitor {
    /// Counts what the executor does.
    pub(super) lease: LeaseMetrics,
    /// When the engine answered last.
    pub(super) engine_answers: LastTime,
    seen: watch::Sender<AnnounceSeen>,
    readiness: watch::Sender<Readiness>,
}

/// What the loop saw last.
#[derive(Debug, Clone, Default)]
struct AnnounceSeen {
    counts: InstanceCounts,
    engine_up: bool,
}

impl AnnounceMonitor {
    /// Serves at `--listen` from now on, where that is given.
    ///
    /// # Errors
    /// The kernel refuses the address, or gives no thread.
    pub(super) fn new(
        config: &AnnounceConfig,
        members: &Arc<Members>,
        systemd: &Systemd,
    ) -> anyhow::Result<Self> {
        let monitor = Self {
            lease: LeaseMetrics::default(),
            engine_answers: LastTime::default(),
            seen: watch::Sender::default(),
            readiness: watch::Sender::default(),
        };
        if let Some(address) = config.listen {
            serve(bind(address)?, monitor.site(members, systemd))?;
        }
        Ok(monitor)
    }

    fn site(&self, members: &Arc<Members>, systemd: &Systemd) -> Site {
        let mut registry = registry(members.clone());
        self.lease.register(&mut registry);
        let (seen, readiness) = (self.seen.subscribe(), self.readiness.subscribe());
        let (engine, ready) = (self.engine_answers.clone(), readiness.clone());
        read_at_scrape(&mut registry, move || {
            let seen = seen.borrow().clone();
            let mut readings = seen.counts.readings();
            readings.extend([
                flag(
                    "sidekick_ready",
                    "Whether /readyz answers 200",
                    ready.borrow().ready,
                ),
                flag(
                    "sidekick_engine_up",
                    "Whether the Docker Engine answers",
                    seen.engine_up,
                ),
                Reading {
                    name: "sidekick_engine_last_answer_timestamp_seconds",
                    help: "When the Docker Engine last answered a call, as a Unix timestamp; 0: not yet",
                    values: Values::Gauge(engine.unix_seconds()),
                },
            ]);
            readings
        });
        Site {
            registry,
            turns: systemd.turns(),
            readiness,
            page: None,
        }
    }

    /// Whether anything is told to anybody.
    pub(super) fn is_on(&self) -> bool {
        self.readiness.receiver_count() > 0
    }

    /// A container's evaluation went from the first to the second because of what happened at `at`, and the assignment of
    /// keys too: each key that is to come, or to go with its container's life, waits for that.
    pub(super) fn begin_waits(
        &self,
        at: Moment,
        [old, new]: [Option<&Evaluation>; 2],
        assigned: [&DesiredKeys; 2],
        statuses: &KeyStatuses,
    ) {
        let claims = [old, new].into_iter().flatten();
        let claims = claims.flat_map(|judged| judged.claims.iter().flatten());
        let keys: BTreeSet<_> = claims.map(|claim| &claim.key).collect();
        let is_over = new.is_none_or(Evaluation::is_over);
        for key in keys {
            let announces =
                |all: &DesiredKeys| matches!(all.get(key), Some(DesiredKey::Announce(_)));
            let stands = || matches!(statuses.get(key), Some(KeyStatus::Announced(_)));
            match assigned.map(announces) {
                [false, true] => self.lease.begin(key, KeyWait::Put, at),
                [true, false] if is_over && stands() => self.lease.begin(key, KeyWait::Delete, at),
                [true, false] => self.lease.forget(key),
                _ => {}
            }
        }
    }

    /// The loop came round, and this is what it saw.
    pub(super) fn saw(&self, counts: InstanceCounts, engine_up: bool, readiness: Readiness) {
        self.seen.send_replace(AnnounceSeen { counts, engine_up });
        self.readiness.send_replace(readiness);
    }
}

/// Whether the instances stand; `known`: each container has been asked about; `line`: what systemd is told. A lease that could not be renewed for its TTL is gone.
pub(super) fn readiness(
    config: &AnnounceConfig,
    known: bool,
    desired: &DesiredKeys,
    statuses: &KeyStatuses,
    etcd_lost: Option<Moment>,
    now: Moment,
    line: &str,
) -> Readiness {
    let all = matches!(config.target, Target::All { .. });
    let expired = etcd_lost.is_some_and(|since| now.saturating_sub(since) >= config.ttl);
    Readiness {
        ready: !expired && is_registered(all, known, desired, statuses),
        line: line.to_owned(),
    }
}
