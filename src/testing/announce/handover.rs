//! A process that leaves its keys to the next one.

use super::store::{Author, Store};
use super::world::AnnounceWorld;
use crate::announce::lease::protocol::KeyStatus;
use crate::announce::lease::registrar::Registrar;
use std::time::Duration;

/// What an exit without any fault takes at most, and what a start does.
const ONE_STEP: Duration = Duration::from_secs(4);
/// How long most of the requests come to harm, and until when some do.
const HARM: Duration = Duration::from_secs(5);
const TROUBLE: Duration = Duration::from_secs(20);

/// Nothing is left of a process that has ended, but the lease on which it leaves its keys.
pub(crate) fn must_be_gone(
    author: &Author,
    registrar: &Registrar,
    store: &Store,
) -> Result<(), String> {
    let mut leases = author.leases.clone();
    if author.hands_over {
        let (short, left_behind) = (registrar.lease(), registrar.has_left_behind());
        leases.retain(|lease| Some(*lease) != short && !left_behind);
    }
    store.must_have_none_of(&leases)
}

impl AnnounceWorld {
    /// A process hands over in the middle of everything; mostly one that has something to leave.
    pub(crate) fn restart(&mut self, which: usize) {
        let holder = self.holder().filter(|_| self.rng.u8(0..4) > 0);
        let which = holder.map_or(which, |(which, _)| which);
        if self.rng.u8(0..4) == 0 {
            self.announcers[which].harm_until = self.now + HARM;
        }
        self.announcers[which].hand_over();
        self.totals.restarts += usize::from(self.announcers[which].hands_over);
    }

    /// Those that have handed over are mostly followed soon.
    pub(crate) fn start_next_processes(&mut self) {
        for which in 0..self.announcers.len() {
            let announcer = &mut self.announcers[which];
            if !announcer.alive && announcer.hands_over && self.rng.bool() {
                announcer.alive = true;
                self.crash(which);
            }
        }
    }

    /// Without any fault no key is gone from one process to the next, and then each is on the next one's lease.
    pub(crate) fn one_hands_over(&mut self) -> Result<(), String> {
        let Some((which, keys)) = self.holder() else {
            return Ok(());
        };
        let begun = self.store.history.len();
        self.announcers[which].hand_over();
        self.pass(self.now + ONE_STEP, true)?;
        if self.announcers[which].alive {
            return Err("a hand-over without end".to_owned());
        }
        self.announcers[which].alive = true;
        self.crash(which);
        self.pass(self.now + ONE_STEP, true)?;
        let since = self.store.history[begun..].iter();
        if let Some(gap) = since
            .clone()
            .find(|it| it.entry.is_none() && keys.contains(&it.key))
        {
            return Err(format!("{gap:?} in a hand-over"));
        }
        let statuses = self.announcers[which].registrar.statuses();
        // Or another one announces the same life of the same container.
        let has = |status: &KeyStatus| {
            matches!(status, KeyStatus::Announced(_) | KeyStatus::StandingBy(_))
        };
        if let Some(key) = keys.iter().find(|key| !statuses.get(key).is_some_and(has)) {
            return Err(format!(
                "{key} is {:?} after a hand-over",
                statuses.get(key)
            ));
        }
        self.totals.hand_overs += 1;
        self.must_settle()?;
        self.one_hands_over_in_trouble()
    }

    /// Whatever becomes of its requests, no rule of ownership is broken, and the next process puts it right.
    fn one_hands_over_in_trouble(&mut self) -> Result<(), String> {
        let Some((which, _)) = self.holder() else {
            return Ok(());
        };
        self.announcers[which].harm_until = self.now + HARM;
        self.announcers[which].hand_over();
        self.pass(self.now + TROUBLE, false)?;
        self.announcers[which].alive = true;
        self.crash(which);
        self.must_settle()
    }
}
