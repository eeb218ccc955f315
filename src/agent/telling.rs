//! What the log says of the agent's doings: each thing once, and of a flood no more than its size.

use super::apply::Report;
use super::layout::Refusal;
use super::presence::Note;
use super::table::Junk;
use crate::backoff::Repeats;
use crate::clock::Moment;
use std::collections::BTreeSet;
use std::time::Duration;
use tracing::{error, info, warn};

/// What was told already.
#[derive(Debug, Default)]
pub(super) struct Telling {
    /// Fronts that can't be, as of the last pass.
    refused: BTreeSet<Refusal>,
    /// Keys that were bad, by what was printed of them.
    junk: Repeats,
    /// Services, by name and by what became of them.
    notes: Repeats,
}

impl Telling {
    /// Keys that went into quarantine.
    pub(super) fn junk(&mut self, junk: &[Junk], now: Moment) {
        for junk in junk {
            match self.junk.happened(&junk.key, now) {
                Some(1) => warn!(key = junk.key, "quarantined: {}", junk.fault),
                Some(n) => warn!(key = junk.key, "quarantined ({n} times): {}", junk.fault),
                None => {}
            }
        }
    }

    /// To be called now and then.
    pub(super) fn floods(&mut self, now: Moment) {
        if let Some(more) = self.junk.flood(now) {
            warn!("quarantined: {more} keys more");
        }
        if let Some(more) = self.notes.flood(now) {
            warn!("{more} times more a service lost instances, or was forgotten");
        }
    }

    /// What became of services whose instances left.
    pub(super) fn notes(&mut self, notes: Vec<Note>, hold: Duration, now: Moment) {
        let hold = hold.as_secs();
        for note in notes {
            let what = match &note {
                Note::Held(service, _) => format!("{service} held"),
                Note::LetGo(service, _) => format!("{service} let go"),
                Note::Displaced(service, _) => format!("{service} displaced"),
                Note::Forgotten(service) => format!("{service} forgotten"),
            };
            let Some(times) = self.notes.happened(&what, now) else {
                continue;
            };
            match note {
                Note::Held(service, count) => error!(
                    service,
                    times,
                    "{count} instances left etcd at a blow: keeping them for {hold} s, HAProxy's checks decide meanwhile"
                ),
                Note::LetGo(service, count) => warn!(
                    service,
                    times, "{count} instances didn't come back: letting them go"
                ),
                Note::Displaced(service, count) => warn!(
                    service,
                    times,
                    "{count} instances that were kept go: other keys announce their addresses now"
                ),
                Note::Forgotten(service) => {
                    info!(
                        service,
                        times, "had no instance for long enough: its front goes"
                    )
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
