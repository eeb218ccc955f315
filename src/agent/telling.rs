//! What the log says of the agent's doings: each thing once, and of a flood no more than its size.

use super::apply::Report;
use super::layout::Refusal;
use super::presence::Note;
use super::table::Junk;
use crate::clock::Moment;
use std::collections::BTreeSet;
use std::time::Duration;
use tracing::{error, info, warn};

/// So many bad keys are told one by one in so long; what a flood has beyond that is told as a number.
const TOLD_ONE_BY_ONE: usize = 500;
const FLOOD: Duration = Duration::from_secs(60);

/// What was told already.
#[derive(Debug, Default)]
pub(super) struct Telling {
    /// Fronts that can't be, as of the last pass.
    refused: BTreeSet<Refusal>,
    /// When this stretch of time began, and how many bad keys it has seen.
    flood: (Moment, usize),
}

impl Telling {
    /// Keys that went into quarantine.
    pub(super) fn junk(&mut self, junk: &[Junk]) {
        for junk in junk {
            self.flood.1 += 1;
            if self.flood.1 <= TOLD_ONE_BY_ONE {
                warn!(key = junk.key, "quarantined: {}", junk.fault);
            }
        }
    }

    /// To be called now and then.
    pub(super) fn floods(&mut self, now: Moment) {
        let (began, seen) = self.flood;
        if now.saturating_sub(began) < FLOOD {
            return;
        }
        let more = seen.saturating_sub(TOLD_ONE_BY_ONE);
        if more > 0 {
            warn!("quarantined: {more} keys more");
        }
        self.flood = (now, 0);
    }

    /// What became of services whose instances left.
    pub(super) fn notes(&self, notes: Vec<Note>, hold: Duration) {
        let hold = hold.as_secs();
        for note in notes {
            match note {
                Note::Held(service, count) => error!(
                    service,
                    "{count} instances left etcd at a blow: keeping them for {hold} s, HAProxy's checks decide meanwhile"
                ),
                Note::LetGo(service, count) => warn!(
                    service,
                    "{count} instances didn't come back: letting them go"
                ),
                Note::Forgotten(service) => {
                    info!(service, "had no instance for long enough: its front goes")
                }
            }
        }
    }

    /// A pass that got through.
    pub(super) fn passed(&mut self, report: &Report) {
        if report.reloaded || report.changes > 0 {
            let how = if report.reloaded {
                "reloaded"
            } else {
                "without a reload"
            };
            info!(
                "{} services, {} instances ({} changes, {how})",
                report.fronts, report.servers, report.changes
            );
        }
        let refused: BTreeSet<_> = report.refusals.iter().cloned().collect();
        for refusal in refused.difference(&self.refused) {
            error!(service = refusal.service, "refused: {}", refusal.why);
        }
        self.refused = refused;
    }
}
