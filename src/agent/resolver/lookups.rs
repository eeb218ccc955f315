//! Which host name is looked up next, and how many at once. Pure.
//!
//! A look-up cannot be cancelled: its thread waits in the C library until a silent DNS server has had all
//! its tries, 10 s and more (resolv.conf(5)). So threads are the scarce resource: names that were never
//! tried have slots of their own, and a slow look-up leaves its slot to the next one, as long as there are
//! not too many slow ones.

use crate::clock::Moment;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How often a name that has an address is looked up again.
pub(super) const REFRESH_INTERVAL: Duration = Duration::from_secs(30);

/// How soon a name without an address is looked up again; doubled with each failure, up to
/// [`REFRESH_INTERVAL`].
pub(super) const FIRST_RETRY: Duration = Duration::from_secs(2);

/// A look-up that takes longer counts as slow: one that is answered takes milliseconds.
const SLOW_AFTER: Duration = Duration::from_secs(1);

/// How many look-ups of each kind may run at once, slow ones not counted.
const SLOTS: usize = 16;

/// How many slow look-ups may run besides, of names that were never tried…
const SLOW_SLOTS: usize = 128;
/// … and of others; the sum stays far below the 512 threads of tokio's blocking pool.
const SLOW_SLOTS_AGAIN: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LookupKind {
    /// Never tried before.
    New,
    /// Tried before, with or without an answer.
    Again,
}

/// When a name is due, and after how many failures in a row.
#[derive(Debug, Clone, Copy)]
struct NextLookup {
    due: Moment,
    failures: u32,
}

/// All names that are wanted, and the look-ups that are under way.
#[derive(Debug, Default)]
pub(super) struct Lookups {
    wanted: BTreeMap<String, NextLookup>,
    /// Never tried, the newest last: the newest is tried first, since the others may be many.
    new: Vec<String>,
    /// Tried names that have an address, by when they are due. They go before `missing`.
    known: BTreeSet<(Moment, String)>,
    /// Tried names without an address, by when they are due.
    missing: BTreeSet<(Moment, String)>,
    running: BTreeMap<String, (LookupKind, Moment)>,
}

impl Lookups {
    /// Sets the names to look up, and no others. `has_address` returns whether a name has an address
    /// already.
    pub(super) fn want(
        &mut self,
        names: &BTreeSet<String>,
        has_address: impl Fn(&str) -> bool,
        now: Moment,
    ) {
        self.wanted.retain(|name, _| names.contains(name));
        self.new.retain(|name| names.contains(name));
        for turns in [&mut self.known, &mut self.missing] {
            turns.retain(|(_, name)| names.contains(name));
        }
        for name in names {
            if self.wanted.contains_key(name) {
                continue;
            }
            self.wanted.insert(
                name.clone(),
                NextLookup {
                    due: now,
                    failures: 0,
                },
            );
            if self.running.contains_key(name) {
                // Its look-up is still running; the end of that schedules the next one.
            } else if has_address(name) {
                self.known.insert((now, name.clone()));
            } else {
                self.new.push(name.clone());
            }
        }
    }

    /// The next name to look up now, if a slot is free.
    pub(super) fn next(&mut self, now: Moment) -> Option<String> {
        if self.has_slot(LookupKind::New, now)
            && let Some(name) = self.new.pop()
        {
            self.running.insert(name.clone(), (LookupKind::New, now));
            return Some(name);
        }
        if !self.has_slot(LookupKind::Again, now) {
            return None;
        }
        let due = |turns: &mut BTreeSet<(Moment, String)>| {
            let is_due = turns.first().is_some_and(|(due, _)| *due <= now);
            is_due.then(|| turns.pop_first()).flatten()
        };
        let (_, name) = due(&mut self.known).or_else(|| due(&mut self.missing))?;
        self.running.insert(name.clone(), (LookupKind::Again, now));
        Some(name)
    }

    /// Ends a look-up. `has_address`: from this answer or an earlier one.
    pub(super) fn finished(&mut self, name: &str, answered: bool, has_address: bool, now: Moment) {
        self.running.remove(name);
        let Some(next) = self.wanted.get_mut(name) else {
            return;
        };
        next.failures = if answered { 0 } else { next.failures + 1 };
        let doublings = next.failures.saturating_sub(1).min(8);
        let pause = if has_address {
            REFRESH_INTERVAL
        } else {
            (FIRST_RETRY * (1 << doublings)).min(REFRESH_INTERVAL)
        };
        next.due = now + pause;
        let turns = if has_address {
            &mut self.known
        } else {
            &mut self.missing
        };
        turns.insert((next.due, name.to_owned()));
    }

    /// When [`Lookups::next`] may have another name than now, unless a look-up ends before.
    pub(super) fn next_change(&self, now: Moment) -> Option<Moment> {
        let due = [self.known.first(), self.missing.first()];
        let due = due.into_iter().flatten().map(|(due, _)| *due);
        let slow = self.running.values().map(|(_, since)| *since + SLOW_AFTER);
        due.chain(slow).filter(|at| *at > now).min()
    }

    /// How many look-ups are under way.
    #[cfg(test)]
    pub(super) fn running(&self) -> usize {
        self.running.len()
    }

    fn has_slot(&self, kind: LookupKind, now: Moment) -> bool {
        let of_kind = self.running.values().filter(|(it, _)| *it == kind);
        let (mut slow, mut quick) = (0, 0);
        for (_, since) in of_kind {
            let count = if now.saturating_sub(*since) >= SLOW_AFTER {
                &mut slow
            } else {
                &mut quick
            };
            *count += 1;
        }
        let most = match kind {
            LookupKind::New => SLOW_SLOTS,
            LookupKind::Again => SLOW_SLOTS_AGAIN,
        };
        quick + usize::saturating_sub(slow, most) < SLOTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a silent DNS server takes: two tries of 5 s.
    const SILENT: Duration = Duration::from_secs(10);

    /// Names at a silent server are running until then; the others are answered at once. Plays until
    /// `name` has been started, and tells how long that took.
    struct Play {
        lookups: Lookups,
        names: BTreeSet<String>,
        hanging: Vec<(Moment, String)>,
        now: Moment,
        most: usize,
    }

    impl Play {
        fn new() -> Self {
            Self {
                lookups: Lookups::default(),
                names: BTreeSet::new(),
                hanging: Vec::new(),
                now: Moment::from_secs(1000),
                most: 0,
            }
        }

        fn want(&mut self, names: impl IntoIterator<Item = String>) {
            self.names.extend(names);
            self.lookups.want(&self.names, |_| false, self.now);
        }

        /// Which names were started in the next step of 50 ms.
        fn step(&mut self) -> Vec<String> {
            let mut started = Vec::new();
            let (over, on): (Vec<_>, Vec<_>) = self
                .hanging
                .drain(..)
                .partition(|(until, _)| *until <= self.now);
            self.hanging = on;
            for (_, name) in over {
                self.lookups.finished(&name, false, false, self.now);
            }
            while let Some(name) = self.lookups.next(self.now) {
                if name.starts_with("dead") {
                    self.hanging.push((self.now + SILENT, name.clone()));
                } else {
                    self.lookups.finished(&name, true, true, self.now);
                }
                started.push(name);
            }
            self.most = self.most.max(self.lookups.running());
            self.now += Duration::from_millis(50);
            started
        }

        fn until_started(&mut self, name: &str) -> Duration {
            let began = self.now;
            while !self.step().iter().any(|it| it == name) {
                assert!(
                    self.now < began + Duration::from_secs(600),
                    "{name} is never looked up"
                );
            }
            self.now - began
        }
    }

    #[test]
    fn an_honest_name_beside_400_at_a_silent_server_is_looked_up_soon_at_any_time() {
        let mut play = Play::new();
        play.want((0..400).map(|n| format!("dead{n}")));
        for n in 0..100 {
            play.now += Duration::from_millis(1);
            let name = format!("honest{n}");
            play.want([name.clone()]);
            let took = play.until_started(&name);
            assert!(took <= Duration::from_secs(3), "{name}: {took:?}");
            for _ in 0..n % 30 {
                play.step();
            }
        }
        assert!(
            play.most <= 2 * SLOTS + SLOW_SLOTS + SLOW_SLOTS_AGAIN,
            "{}",
            play.most
        );
    }

    #[test]
    fn a_known_name_is_looked_up_every_30_s_whatever_hangs() {
        let mut play = Play::new();
        play.want(["honest".to_owned()]);
        play.until_started("honest");
        play.want((0..2_000).map(|n| format!("dead{n}")));
        for _ in 0..10 {
            let took = play.until_started("honest");
            assert!(took <= REFRESH_INTERVAL + SILENT, "{took:?}");
        }
    }

    #[test]
    fn a_name_that_fails_is_tried_at_growing_pauses_and_forgotten_when_it_is_not_wanted() {
        let mut lookups = Lookups::default();
        let names = BTreeSet::from(["gone".to_owned()]);
        let mut now = Moment::from_secs(1000);
        lookups.want(&names, |_| false, now);
        let mut pauses = Vec::new();
        for _ in 0..7 {
            assert_eq!(lookups.next(now).as_deref(), Some("gone"));
            assert_eq!(lookups.next(now), None);
            lookups.finished("gone", false, false, now);
            let next = lookups.next_change(now).unwrap();
            pauses.push((next - now).as_secs());
            now = next;
        }
        assert_eq!(pauses, [2, 4, 8, 16, 30, 30, 30]);
        lookups.want(&BTreeSet::new(), |_| false, now);
        assert_eq!((lookups.next(now), lookups.next_change(now)), (None, None));
        assert!(lookups.wanted.is_empty() && lookups.missing.is_empty());
    }
}
