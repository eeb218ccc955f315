//! A seed's schedule of faults, the calm after it, and what must be true then.

mod checks;

use super::announcer::{Announcer, SETTINGS};
use super::sight::Delays;
use super::store::Store;
use super::totals::AnnounceTotals;
use crate::clock::Moment;
use crate::endpoint::{Key, Since};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long faults are injected, before everything has to settle.
const FAULT_PHASE: Duration = Duration::from_secs(60);
/// Between two faults, at most.
const PAUSE: Duration = Duration::from_millis(1500);
/// A deadline, a late request, a dead process's TTL and an audit, one after the other.
const SETTLING: Duration = Duration::from_secs(40);
/// Several intervals in which nothing may be written.
const CALM: Duration = Duration::from_secs(30);
/// From a holder's end to the key of the container that stood by: a delete, a late event of the watch, a
/// put.
const SUCCESSION: Duration = Duration::from_secs(5);

/// A container, and the clock on the wall of its machine.
#[derive(Debug, Default)]
struct Container {
    up: Option<Since>,
    last: Option<Since>,
    /// A stop of its present life has begun.
    stops: bool,
    /// When it really started last.
    started: Moment,
    /// So many seconds is the clock ahead, or behind.
    wrong_by: i64,
}

pub(crate) struct AnnounceWorld {
    pub(crate) now: Moment,
    pub(crate) rng: fastrand::Rng,
    pub(crate) store: Store,
    pub(crate) announcers: Vec<Announcer>,
    containers: BTreeMap<String, Container>,
    keys: Vec<Key>,
    latest: Option<Since>,
    is_calm: bool,
    pub(crate) totals: AnnounceTotals,
}

impl AnnounceWorld {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        // One, a few, and now and then so many that they travel in several batches.
        let count = match rng.u8(0..32) {
            0 => rng.usize(65..150),
            1..9 => 3,
            _ => 1,
        };
        let keys: Vec<Key> = (1..=count)
            .map(|i| format!("/services/redis/redis@{i}").parse().expect("a key"))
            .collect();
        // One to three; now and then two of them watch the same container.
        let count = rng.usize(1..=3);
        let twins = rng.u8(0..3) == 0;
        let announcers: Vec<_> = (0..count)
            .map(|i| {
                let id = if twins && i > 0 { i - 1 } else { i };
                Announcer::new(format!("{:012x}", 0xa0 + id), keys.clone(), &mut rng)
            })
            .collect();
        let containers = announcers.iter().map(|a| {
            let wrong_by = if rng.bool() { rng.i64(-3..=3) } else { 0 };
            let container = Container {
                wrong_by,
                ..Container::default()
            };
            (a.container.clone(), container)
        });
        Self {
            now: Duration::from_secs(1000),
            containers: containers.collect(),
            rng,
            store: Store::new(SETTINGS.ttl),
            announcers,
            keys,
            latest: None,
            is_calm: false,
            totals: AnnounceTotals::default(),
        }
    }

    pub(crate) fn run(mut self) -> Result<AnnounceTotals, String> {
        let end = self.now + FAULT_PHASE;
        while self.now < end {
            let next = self.now + PAUSE.mul_f64(self.rng.f64());
            self.pass(next.min(end), false)?;
            self.fault();
        }
        self.calm_down();
        self.must_settle()?;
        // Whoever can't see its container has kept quiet, too.
        let blind: Vec<_> = (0..self.announcers.len())
            .filter(|i| self.announcers[*i].blind)
            .collect();
        if !blind.is_empty() {
            self.totals.blind += 1;
            for i in blind {
                self.see_again(i);
            }
            self.must_settle()?;
        }
        self.one_has_a_fast_clock()?;
        self.holders_with_fast_clocks_go()?;
        self.one_hands_over()?;
        self.one_leaves_by_a_drain()?;
        self.check_notes()?;
        self.totals.granted_before = self.store.granted_before;
        self.totals.rejections = self.store.rejections;
        self.totals.takeovers = self.store.takeovers;
        self.totals.clears = self.store.clears;
        for announcer in &self.announcers {
            self.totals.count_sight(&announcer.sight);
        }
        Ok(self.totals)
    }

    /// Without any fault it becomes as it ought to be, and then nothing is written any more.
    pub(crate) fn must_settle(&mut self) -> Result<(), String> {
        let sleepers = self.announcers.iter().map(|a| a.asleep_until);
        let awake = sleepers.max().unwrap_or_default().max(self.now);
        self.pass(awake + SETTLING, true)?;
        self.check_beliefs()?;
        self.check_end()?;
        let (revision, takeovers) = (self.store.revision, self.store.takeovers);
        self.pass(self.now + CALM, true)?;
        self.check_end()?;
        if (self.store.revision, self.store.takeovers) == (revision, takeovers) {
            return Ok(());
        }
        Err(format!(
            "written in the calm: {:?}",
            self.store.history.last()
        ))
    }

    /// A container starts on a machine whose clock is fast, and then another one on one whose clock is
    /// right.
    fn one_has_a_fast_clock(&mut self) -> Result<(), String> {
        let alive = self.announcers.iter().filter(|a| a.alive);
        let ids: BTreeSet<_> = alive.map(|a| a.container.clone()).collect();
        let mut ids = ids.into_iter();
        let (Some(fast), Some(right)) = (ids.next(), ids.next()) else {
            return Ok(());
        };
        let ahead = self.rng.i64(10..7200);
        for (id, wrong_by) in [(fast, ahead), (right, 0)] {
            if self.containers[&id].up.is_some() {
                self.turn(&id);
                self.pass(self.now + SUCCESSION, true)?;
            }
            self.containers.get_mut(&id).expect("it is one").wrong_by = wrong_by;
            self.turn(&id);
            self.pass(self.now + SUCCESSION, true)?;
        }
        self.must_settle()
    }

    /// While a holder whose clock is fast lives, a container that started after it waits, and no announcer
    /// writes (that was the calm). Once it goes, the key is the other's without delay.
    fn holders_with_fast_clocks_go(&mut self) -> Result<(), String> {
        while let Some(holder) = self.keeps_a_newer_one_out() {
            self.totals.kept_out += 1;
            self.turn(&holder);
            self.pass(self.now + SUCCESSION, true)?;
            let went = |why| format!("{holder} went, and {why}");
            self.check_holders().map_err(went)?;
            // Of two that stood by, the older may have had the key in between: it deletes its further key once its watch has told
            // it that it was overtaken, which is a second event that may be late.
            self.pass(self.now + SUCCESSION, true)?;
            self.check_end().map_err(went)?;
        }
        Ok(())
    }

    /// A container that holds a key which one that really started later waits for.
    fn keeps_a_newer_one_out(&self) -> Option<String> {
        let up = |a: &&Announcer| a.alive && a.since.is_some();
        self.keys.iter().find_map(|key| {
            let claimants = self.announcers.iter().filter(up);
            let claimants: Vec<_> = claimants.filter(|a| !a.unclaimed.contains(key)).collect();
            let holder = claimants
                .iter()
                .max_by_key(|a| (a.since, a.container.clone()))?;
            let started = |a: &Announcer| self.containers[&a.container].started;
            let newest = claimants.iter().map(|a| started(a)).max()?;
            (newest > started(holder)).then(|| holder.container.clone())
        })
    }

    /// Everything that happens until `end`.
    pub(crate) fn pass(&mut self, end: Moment, calm: bool) -> Result<(), String> {
        while self.now < end {
            let due = self.announcers.iter().map(|a| a.due(&self.store));
            let due = due.chain(self.store.next_end()).min().unwrap_or(end);
            let jitter = Duration::from_millis(self.rng.u64(1..60));
            self.now = due.max(self.now).min(end) + jitter;
            self.store.expire(self.now);
            for announcer in &mut self.announcers {
                announcer.run(&mut self.store, self.now, &mut self.rng, calm)?;
            }
        }
        Ok(())
    }

    /// What the clock on that container's machine shows.
    fn since(&mut self, container: &str) -> Since {
        // Now and then two containers start in the same nanosecond, though never the same one twice.
        if let Some(latest) = self.latest
            && self.containers[container].last != Some(latest)
            && self.rng.u8(0..5) == 0
        {
            return latest;
        }
        let wrong_by = self.containers[container].wrong_by;
        let now = i128::try_from(self.now.as_nanos()).expect("a moment");
        let shown = 1_790_000_000_000_000_000 + now + i128::from(wrong_by) * 1_000_000_000;
        *self
            .latest
            .insert(Since::from_unix_nanos(shown).expect("a moment"))
    }

    /// The container starts, or stops; all who can see it do.
    fn turn(&mut self, id: &str) {
        let starts = self.containers[id].up.is_none();
        let up = starts.then(|| self.since(id));
        let container = self.containers.get_mut(id).expect("a container");
        (container.up, container.stops) = (up, false);
        if starts {
            self.totals.backwards += usize::from(container.last > up);
            container.last = up;
            container.started = self.now;
        }
        let delays = &mut Delays {
            now: self.now,
            rng: &mut self.rng,
            is_calm: self.is_calm,
        };
        for announcer in self.announcers.iter_mut().filter(|a| a.container == id) {
            match up {
                Some(since) => announcer.sight.starts(id, since, delays),
                None => announcer.sight.ends(delays),
            }
        }
    }

    /// A stop of the container begins, if it runs.
    fn stop(&mut self, id: &str) {
        let container = self.containers.get_mut(id).expect("a container");
        if container.up.is_none() {
            return;
        }
        container.stops = true;
        let delays = &mut Delays {
            now: self.now,
            rng: &mut self.rng,
            is_calm: self.is_calm,
        };
        for announcer in self.announcers.iter_mut().filter(|a| a.container == id) {
            announcer.sight.stops(delays);
        }
    }

    fn see_again(&mut self, which: usize) {
        let delays = &mut Delays {
            now: self.now,
            rng: &mut self.rng,
            is_calm: self.is_calm,
        };
        self.announcers[which].blind = false;
        self.announcers[which].sight.reconnects(delays);
    }

    pub(crate) fn crash(&mut self, which: usize) {
        let delays = &mut Delays {
            now: self.now,
            rng: &mut self.rng,
            is_calm: self.is_calm,
        };
        self.announcers[which].crash(&self.store, delays);
    }

    /// One key, or several.
    fn some_keys(&mut self) -> BTreeSet<Key> {
        let count = self.rng.usize(1..=8).min(self.keys.len());
        let any = |rng: &mut fastrand::Rng| self.keys[rng.usize(0..self.keys.len())].clone();
        (0..count).map(|_| any(&mut self.rng)).collect()
    }

    fn fault(&mut self) {
        self.totals.faults += 1;
        self.start_next_processes();
        let which = self.rng.usize(0..self.announcers.len());
        let back_at = self.now + Duration::from_millis(self.rng.u64(0..3000));
        match self.rng.u32(0..44) {
            roll @ (8..=13 | 21 | 22 | 25..=27 | 35) => self.etcd_fault(roll, which, back_at),
            roll => self.announcer_fault(roll, which, back_at),
        }
    }

    /// Something happens to etcd, or by hand to a key.
    fn etcd_fault(&mut self, roll: u32, which: usize, back_at: Moment) {
        match roll {
            8 | 9 => {
                for key in self.some_keys() {
                    self.store.delete_by_hand(&key);
                }
            }
            10 | 11 => {
                for key in self.some_keys() {
                    let junk: &[u8] = match self.rng.bool() {
                        true => b"\xffjunk",
                        false => br#"{"host":"10.9.9.9","port":1}"#,
                    };
                    self.store.put_by_hand(&key, junk);
                }
            }
            12 | 13 => {
                if let Some(lease) = self.announcers[which].registrar.lease() {
                    self.store.revoke(lease);
                }
            }
            21 => {
                // What stands there already, made permanent.
                for key in self.some_keys() {
                    let stands = self.store.entries.get(&key).map(|e| e.value.clone());
                    if let Some(value) = stands {
                        self.store.put_by_hand(&key, &value);
                    }
                }
            }
            25 | 26 => {
                for key in self.some_keys() {
                    if !self.store.denied.remove(&key) {
                        self.store.denied.insert(key);
                    }
                }
            }
            27 => self.store.full = !self.store.full,
            _ => {
                let cluster = self.store.cluster + u64::from(self.rng.bool());
                self.store.wipe(cluster);
                for announcer in &mut self.announcers {
                    announcer.break_watch(&self.store, back_at);
                }
            }
        }
    }

    /// Something happens to a container, to its sidekick or to their machine.
    fn announcer_fault(&mut self, roll: u32, which: usize, back_at: Moment) {
        let id = self.announcers[which].container.clone();
        match roll {
            0..8 => self.turn(&id),
            38 | 39 => self.stop(&id),
            14 | 15 => self.announcers[which].break_watch(&self.store, back_at),
            16 | 17 => {
                self.announcers[which].asleep_until = back_at;
                self.crash(which);
            }
            18 => {
                let long = match self.rng.u8(0..20) {
                    0 => 7200,
                    1..4 => 300,
                    _ => 20,
                };
                let time = Duration::from_secs(self.rng.u64(1..long));
                let stands_still = self.rng.bool();
                self.announcers[which].sleep(self.now, time, stands_still);
            }
            19 | 43 => self.leave(which),
            41 => self.restart(which),
            // At once again, or hardly at all.
            42 => (0..2).for_each(|_| self.turn(&id)),
            36 | 37 => self.turn_wish(&id),
            20 | 40 if !self.announcers[which].alive => {
                self.announcers[which].alive = true;
                self.crash(which);
            }
            23 | 24 => {
                let keys = self.some_keys();
                for announcer in &mut self.announcers {
                    if announcer.container == id {
                        announcer.turn_claims(&keys);
                    }
                }
            }
            28 => self.announcers[which].harm_until = self.now + Duration::from_secs(5),
            29 => {
                self.totals.leaps += 1;
                let longest = if self.rng.bool() { 20 } else { 7200 };
                let by = Duration::from_secs(self.rng.u64(1..longest));
                self.announcers[which].leap(by);
            }
            30 | 31 => {
                let longest = if self.rng.bool() { 10 } else { 7200 };
                let step = self.rng.i64(-longest..=longest);
                if let Some(container) = self.containers.get_mut(&id) {
                    container.wrong_by += step;
                }
            }
            32..=34 => {
                if self.announcers[which].blind {
                    self.see_again(which);
                } else {
                    self.announcers[which].blind = true;
                }
            }
            _ => {}
        }
    }

    fn calm_down(&mut self) {
        self.is_calm = true;
        self.store.full = false;
        self.store.denied.clear();
    }
}
