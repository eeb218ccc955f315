//! A seed's schedule of faults, the calm after it, and what must be true then.

use crate::announcer::{Announcer, SETTINGS};
use crate::store::Store;
use sidekick::announce::exchange::{Note, Standing};
use sidekick::clock::Moment;
use sidekick::endpoint::{Endpoint, Key, Since};
use std::time::Duration;

const STORM: Duration = Duration::from_secs(60);
/// A deadline, a late request, a dead process's TTL and an audit, one after the other.
const SETTLING: Duration = Duration::from_secs(40);
/// Several intervals in which nothing may be written.
const CALM: Duration = Duration::from_secs(30);

/// What happened in a run, so that the schedule can be seen to do something.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    runs: usize,
    faults: usize,
    takeovers: usize,
    clears: usize,
    standbys: usize,
    leases_lost: usize,
    resets: usize,
    heals: usize,
    rejections: usize,
}

impl Totals {
    pub(crate) fn add(&mut self, other: &Self) {
        self.runs += 1;
        self.faults += other.faults;
        self.takeovers += other.takeovers;
        self.clears += other.clears;
        self.standbys += other.standbys;
        self.leases_lost += other.leases_lost;
        self.resets += other.resets;
        self.heals += other.heals;
        self.rejections += other.rejections;
    }

    pub(crate) fn is_thorough(&self) -> bool {
        let each = [
            self.faults,
            self.takeovers,
            self.clears,
            self.standbys,
            self.leases_lost,
            self.resets,
            self.heals,
            self.rejections,
        ];
        each.iter().all(|n| *n > self.runs / 20)
    }

    fn count(&mut self, notes: &[Note]) {
        for note in notes {
            match note {
                Note::StandingBy(..) => self.standbys += 1,
                Note::LeaseLost(_) => self.leases_lost += 1,
                Note::HistoryReset => self.resets += 1,
                Note::Healed(..) => self.heals += 1,
                Note::TookOver(..) | Note::Junk(..) | Note::Cleared(_) => {}
            }
        }
    }
}

pub(crate) struct World {
    now: Moment,
    rng: fastrand::Rng,
    store: Store,
    announcers: Vec<Announcer>,
    keys: Vec<Key>,
    starts: i128,
    totals: Totals,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        // One, a few, and now and then so many that they travel in several batches.
        let count = match rng.u8(0..128) {
            0 => 140,
            1..33 => 3,
            _ => 1,
        };
        let keys: Vec<Key> = (1..=count)
            .map(|i| format!("/services/redis/redis@{i}").parse().expect("a key"))
            .collect();
        // One to three; now and then two of them watch the same container.
        let count = rng.usize(1..=3);
        let twins = rng.u8(0..3) == 0;
        let announcers = (0..count)
            .map(|i| {
                let id = if twins && i > 0 { i - 1 } else { i };
                Announcer::new(format!("{:012x}", 0xa0 + id), keys.clone())
            })
            .collect();
        Self {
            now: Duration::from_secs(1000),
            rng,
            store: Store::new(SETTINGS.ttl),
            announcers,
            keys,
            starts: 0,
            totals: Totals::default(),
        }
    }

    pub(crate) fn run(mut self) -> Result<Totals, String> {
        let end = self.now + STORM;
        while self.now < end {
            self.step(false)?;
            if self.rng.u32(0..100) < 4 {
                self.fault();
            }
        }
        self.calm_down();
        let end = self.now + SETTLING;
        while self.now < end {
            self.step(true)?;
        }
        self.check_end()?;
        let (revision, takeovers) = (self.store.revision, self.store.takeovers);
        let end = self.now + CALM;
        while self.now < end {
            self.step(true)?;
        }
        self.check_end()?;
        if (self.store.revision, self.store.takeovers) != (revision, takeovers) {
            return Err(format!(
                "written in the calm: {:?}",
                self.store.history.last()
            ));
        }
        self.check_notes()?;
        self.totals.rejections = self.store.rejections;
        self.totals.takeovers = self.store.takeovers;
        self.totals.clears = self.store.clears;
        Ok(self.totals)
    }

    fn step(&mut self, calm: bool) -> Result<(), String> {
        self.now += Duration::from_millis(self.rng.u64(1..60));
        self.store.expire(self.now);
        for announcer in &mut self.announcers {
            announcer.run(&mut self.store, self.now, &mut self.rng, calm)?;
        }
        Ok(())
    }

    fn since(&mut self) -> Since {
        // Now and then two containers start in the same nanosecond.
        self.starts += i128::from(self.rng.u8(0..5) > 0);
        Since::from_unix_nanos(1_790_000_000_000_000_000 + self.starts).expect("a moment")
    }

    /// Of two sidekicks on one container both see the same.
    fn twins_of(&self, container: &str) -> Vec<usize> {
        let all = self.announcers.iter().enumerate();
        all.filter(|(_, a)| a.container == container)
            .map(|(i, _)| i)
            .collect()
    }

    fn fault(&mut self) {
        self.totals.faults += 1;
        let which = self.rng.usize(0..self.announcers.len());
        let key = self.keys[self.rng.usize(0..self.keys.len())].clone();
        let back_at = self.now + Duration::from_millis(self.rng.u64(0..3000));
        match self.rng.u32(0..28) {
            0..8 => {
                let twins = self.twins_of(&self.announcers[which].container.clone());
                let since = self.announcers[which].since.is_none().then(|| self.since());
                for i in twins {
                    match since {
                        Some(since) => self.announcers[i].start_container(since),
                        None => self.announcers[i].stop_container(),
                    }
                }
            }
            8 | 9 => self.store.delete_by_hand(&key),
            10 => self.store.put_by_hand(&key, b"\xffjunk"),
            11 => self
                .store
                .put_by_hand(&key, br#"{"host":"10.9.9.9","port":1}"#),
            12 | 13 => {
                if let Some(lease) = self.announcers[which].registrar.lease() {
                    self.store.revoke(lease);
                }
            }
            14 | 15 => self.announcers[which].break_watch(&self.store, back_at),
            16 | 17 => {
                self.announcers[which].asleep_until = back_at;
                self.announcers[which].crash(&self.store);
            }
            // A suspended machine: nothing runs, the lease does.
            18 => {
                self.announcers[which].asleep_until =
                    self.now + Duration::from_secs(self.rng.u64(1..20))
            }
            23 | 24 => {
                let twins = self.twins_of(&self.announcers[which].container.clone());
                for i in twins {
                    self.announcers[i].turn_claim(&key);
                }
            }
            25 | 26 => {
                if !self.store.denied.remove(&key) {
                    self.store.denied.insert(key);
                }
            }
            27 => self.store.full = !self.store.full,
            19 => self.announcers[which].registrar.leave(),
            21 => {
                // What stands there already, made permanent.
                let stands = self.store.entries.get(&key).map(|e| e.value.clone());
                if let Some(value) = stands {
                    self.store.put_by_hand(&key, &value);
                }
            }
            20 => {
                let stopped = &mut self.announcers[which];
                if !stopped.alive {
                    stopped.alive = true;
                    stopped.crash(&self.store);
                }
            }
            _ => {
                let cluster = self.store.cluster + u64::from(self.rng.bool());
                self.store.wipe(cluster);
                for announcer in &mut self.announcers {
                    announcer.break_watch(&self.store, back_at);
                }
            }
        }
    }

    fn calm_down(&mut self) {
        self.store.full = false;
        self.store.denied.clear();
        for announcer in &mut self.announcers {
            announcer.asleep_until = announcer.asleep_until.min(self.now);
        }
    }

    /// The one with the best right holds each key, alone, on a living lease of its own.
    fn check_end(&self) -> Result<(), String> {
        let up = |a: &&Announcer| a.alive && a.since.is_some();
        for key in &self.keys {
            let claimants = self.announcers.iter().filter(up);
            let best = claimants
                .filter(|a| !a.unclaimed.contains(key))
                .max_by_key(|a| (a.since, a.container.clone()));
            let entry = self.store.entries.get(key);
            let Some(best) = best else {
                match entry {
                    // Put by hand, without a lease, and nobody is there who might mind.
                    Some(entry) if entry.lease != 0 => {
                        return Err(format!("{entry:?} outlived its container"));
                    }
                    _ => continue,
                }
            };
            let entry =
                entry.ok_or_else(|| format!("{key} is missing; {} is up", best.container))?;
            let wanted = best.endpoint(best.since.ok_or("up without since")?);
            if Endpoint::decode(&entry.value).as_ref() != Ok(&wanted) {
                return Err(format!("{key} is {entry:?}, not {wanted:?}"));
            }
            let holders = self.announcers.iter().filter(|a| {
                a.alive
                    && a.registrar.lease() == Some(entry.lease)
                    && matches!(
                        a.registrar.standings().get(key),
                        Some(Standing::Announced(_))
                    )
            });
            if holders.count() != 1 {
                return Err(format!(
                    "{key}: {entry:?} is not held by exactly one living announcer"
                ));
            }
        }
        Ok(())
    }

    /// Standing by is told once for every holder, and a holder changes only by a fault.
    fn check_notes(&mut self) -> Result<(), String> {
        let limit = (self.totals.faults + 2) * self.keys.len() * 2;
        for announcer in &self.announcers {
            self.totals.count(&announcer.notes);
            if announcer.notes.len() > limit {
                return Err(format!(
                    "{} notes for {} faults",
                    announcer.notes.len(),
                    self.totals.faults
                ));
            }
        }
        Ok(())
    }
}
