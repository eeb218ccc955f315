//! What the log says of the agent's doings: each thing once, and of a flood no more than its size.

use crate::agent::haproxy::health::Turns;
use crate::agent::haproxy::parse::original_name;
use crate::agent::model::listeners::Refusal;
use crate::agent::model::membership::Note;
use crate::agent::reconcile::Report;
use crate::catalog::Junk;
use crate::clock::Moment;
use crate::log_throttle::{Allowance, Repeats};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tracing::{error, info, warn};

/// What was told already.
#[derive(Debug, Default)]
pub(crate) struct Telling {
    /// Fronts that can't be, as of the last pass.
    refused: BTreeSet<Refusal>,
    /// Keys that were bad, by what was printed of them.
    junk: Repeats,
    /// Services, by name and by what became of them.
    notes: Repeats,
    /// Lines about passes.
    lines: Allowance,
    unsaid: Unsaid,
}

/// Passes that the log said nothing of.
#[derive(Debug, Default)]
struct Unsaid {
    passes: u64,
    changes: usize,
    /// How often each key was put or deleted since the last line, of so many keys.
    keys: BTreeMap<Vec<u8>, u64>,
}

/// Of more keys than these it isn't said which changed most.
const KEYS: usize = 500;

impl Telling {
    /// Keys that went into quarantine.
    pub(crate) fn junk(&mut self, junk: &[Junk], now: Moment) {
        for junk in junk {
            match self.junk.happened(&junk.key, now) {
                Some(1) => warn!(key = junk.key, "quarantined: {}", junk.fault),
                Some(n) => warn!(key = junk.key, "quarantined ({n} times): {}", junk.fault),
                None => {}
            }
        }
    }

    /// To be called now and then.
    pub(crate) fn floods(&mut self, now: Moment) {
        if let Some(more) = self.junk.flood(now) {
            warn!("quarantined: {more} keys more");
        }
        if let Some(more) = self.notes.flood(now) {
            warn!("{more} times more a service lost instances, or was forgotten");
        }
        if self.unsaid.passes > 0 && self.lines.take(now) {
            self.say_unsaid();
        }
    }

    /// A key was put or deleted.
    pub(crate) fn heard(&mut self, key: &[u8]) {
        let keys = &mut self.unsaid.keys;
        if let Some(times) = keys.get_mut(key) {
            *times += 1;
        } else if keys.len() < KEYS {
            keys.insert(key.to_vec(), 1);
        }
    }

    /// Servers that HAProxy's checks took out or brought back.
    pub(crate) fn turns(&self, turns: Turns) {
        for turn in turns.told {
            let (backend, server) = &turn.server;
            let service = original_name(backend).unwrap_or_default();
            let instance = original_name(server).unwrap_or_default();
            let address = turn.address.map(|it| it.to_string()).unwrap_or_default();
            let (seconds, times) = (turn.lasted.as_secs(), turn.times);
            if turn.down {
                warn!(
                    service,
                    instance,
                    address,
                    times,
                    "HAProxy's checks have taken this instance out, {seconds} s ago; no client is sent there until it accepts connections from this machine again"
                );
            } else {
                info!(
                    service,
                    instance,
                    address,
                    times,
                    "HAProxy's checks have brought this instance back after {seconds} s"
                );
            }
        }
        if turns.more > 0 {
            warn!(
                "HAProxy's checks have taken out or brought back {} instances more; `sidekick list` shows which are down",
                turns.more
            );
        }
    }

    /// What became of services whose instances left.
    pub(crate) fn notes(&mut self, notes: Vec<Note>, hold: Duration, now: Moment) {
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
    pub(crate) fn passed(&mut self, report: &Report, now: Moment) {
        if report.reloaded {
            self.say_pass(report, "reloaded");
        } else if report.changes > 0 && self.lines.take(now) {
            self.say_pass(report, "without a reload");
        } else if report.changes > 0 {
            self.unsaid.passes += 1;
            self.unsaid.changes += report.changes;
        }
        let refused: BTreeSet<_> = report.refusals.iter().cloned().collect();
        for refusal in refused.difference(&self.refused) {
            error!(service = refusal.service, "refused: {}", refusal.why);
        }
        self.refused = refused;
    }

    fn say_pass(&mut self, report: &Report, how: &str) {
        self.say_unsaid();
        info!(
            "{} services, {} instances ({} changes, {how})",
            report.fronts, report.servers, report.changes
        );
    }

    fn say_unsaid(&mut self) {
        let unsaid = std::mem::take(&mut self.unsaid);
        if unsaid.passes == 0 {
            return;
        }
        let most = unsaid.keys.into_iter().max_by_key(|(_, times)| *times);
        let (key, times) = most.unwrap_or_default();
        let key = key.escape_ascii().to_string();
        info!(
            key,
            times,
            "{} changes in {} passes, none of them a reload, are not logged one by one; this key changed most often",
            unsaid.changes,
            unsaid.passes
        );
    }
}
