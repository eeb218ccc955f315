//! When systemd's watchdog is fed, and whether a loop is stuck. Pure.
//!
//! systemd's watchdog and the machine's clocks do not agree on what a suspended or a frozen process has
//! slept through. So no clock says that a loop is stuck, but the turns of the loop that feeds: a loop
//! that does not beat while that one goes on turning.

use crate::clock::Moment;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A loop that has not beaten for so long, while the feeding loop turned, is stuck: every await in every
/// loop has a deadline far below this.
const STUCK: Duration = Duration::from_secs(30);

/// The feeding loop turns at least this often while the process runs. What a turn takes beyond that, the
/// process was suspended, frozen or starved, and it counts against no loop.
pub const LONGEST_TURN: Duration = Duration::from_secs(5);

/// How often a loop has come round.
#[derive(Debug, Clone, Default)]
pub struct Pulse(Arc<AtomicU64>);

impl Pulse {
    /// The loop came round.
    pub fn beat(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn beats(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a turn of the feeding loop says about the watchdog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feeding {
    /// It was fed less than half a period ago, or there is none.
    NotYet,
    /// It is to be fed now.
    Due,
    /// It is not fed: the loop of that name is stuck.
    Stuck(&'static str),
}

/// The loops, as seen by the loop that feeds the watchdog.
#[derive(Debug, Default)]
pub struct Watchdog {
    /// Half of systemd's period; `None` where systemd set no watchdog.
    interval: Option<Duration>,
    /// When it is fed next.
    due: Moment,
    turned: Option<Moment>,
    /// For how long the feeding loop has been seen to turn.
    awake: Duration,
    loops: Vec<Loop>,
}

#[derive(Debug)]
struct Loop {
    name: &'static str,
    pulse: Pulse,
    beats: u64,
    /// [`Watchdog::awake`] when it was last seen to have beaten.
    beaten: Duration,
}

impl Watchdog {
    /// systemd's period, as WATCHDOG_USEC has it; `None` where it set no watchdog.
    #[must_use]
    pub fn new(period: Option<Duration>) -> Self {
        Self {
            interval: period.map(|period| period / 2),
            ..Self::default()
        }
    }

    /// A loop that has to beat from now on.
    pub fn pulse(&mut self, name: &'static str) -> Pulse {
        let pulse = Pulse::default();
        self.loops.push(Loop {
            name,
            pulse: pulse.clone(),
            beats: 0,
            beaten: self.awake,
        });
        pulse
    }

    /// The feeding loop turned at `now` (any clock that does not go back).
    pub fn turn(&mut self, now: Moment) -> Feeding {
        let last = self.turned.replace(now).unwrap_or(now);
        self.awake += now.saturating_sub(last).min(LONGEST_TURN);
        for it in &mut self.loops {
            let beats = it.pulse.beats();
            if beats != it.beats {
                (it.beats, it.beaten) = (beats, self.awake);
            }
        }
        let is_stuck = |it: &&Loop| self.awake.saturating_sub(it.beaten) > STUCK;
        if let Some(stuck) = self.loops.iter().find(is_stuck) {
            return Feeding::Stuck(stuck.name);
        }
        match self.interval {
            Some(interval) if now >= self.due => {
                self.due = now + interval;
                Feeding::Due
            }
            _ => Feeding::NotYet,
        }
    }

    /// How long the feeding loop may wait before its next turn.
    #[must_use]
    pub fn pause(&self, now: Moment) -> Duration {
        let due = self.interval.map(|_| self.due.saturating_sub(now));
        // A stuck loop is looked at again soon, not at once.
        let due = due.filter(|due| !due.is_zero());
        due.map_or(LONGEST_TURN, |due| due.min(LONGEST_TURN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn watchdog() -> (Watchdog, Pulse) {
        let mut watchdog = Watchdog::new(Some(secs(30)));
        let pulse = watchdog.pulse("etcd");
        assert_eq!(watchdog.turn(secs(1000)), Feeding::Due);
        (watchdog, pulse)
    }

    #[test]
    fn it_is_fed_once_per_half_period_however_often_the_loop_turns() {
        let (mut watchdog, pulse) = watchdog();
        let fed = (0..60_000_u64).filter(|ms| {
            pulse.beat();
            let now = secs(1000) + Duration::from_millis(*ms);
            watchdog.turn(now) == Feeding::Due
        });
        assert_eq!(fed.collect::<Vec<_>>(), [15_000, 30_000, 45_000]);
    }

    #[test]
    fn a_loop_that_does_not_beat_while_the_other_turns_is_stuck() {
        let (mut watchdog, pulse) = watchdog();
        for n in 0..=30 {
            assert_ne!(watchdog.turn(secs(1000 + n)), Feeding::Stuck("etcd"));
        }
        assert_eq!(watchdog.turn(secs(1031)), Feeding::Stuck("etcd"));
        pulse.beat();
        assert_eq!(watchdog.turn(secs(1032)), Feeding::NotYet);
        assert_eq!(watchdog.turn(secs(1045)), Feeding::Due);
    }

    /// systemd's clock stands still meanwhile, so that nothing is late by it.
    #[test]
    fn an_hour_of_suspend_or_frost_makes_no_loop_stuck_and_the_watchdog_is_fed_at_once() {
        let (mut watchdog, _) = watchdog();
        watchdog.turn(secs(1010));
        // Before any other loop came round.
        assert_eq!(watchdog.turn(secs(4610)), Feeding::Due);
    }

    #[test]
    fn several_freezes_in_a_row_make_no_loop_stuck_that_beats_between_them() {
        let (mut watchdog, pulse) = watchdog();
        for n in 1..100 {
            assert_eq!(watchdog.turn(secs(1000 + 60 * n)), Feeding::Due);
            pulse.beat();
        }
    }

    #[test]
    fn the_loop_is_to_turn_when_the_watchdog_is_due() {
        let (mut watchdog, pulse) = watchdog();
        assert_eq!(watchdog.pause(secs(1000)), LONGEST_TURN);
        assert_eq!(watchdog.pause(secs(1013)), secs(2));
        pulse.beat();
        assert_eq!(watchdog.turn(secs(1015)), Feeding::Due);
        assert_eq!(Watchdog::new(None).pause(secs(1000)), LONGEST_TURN);
    }

    #[test]
    fn where_there_is_no_watchdog_none_is_fed() {
        let mut watchdog = Watchdog::new(None);
        assert_eq!(watchdog.turn(secs(1000)), Feeding::NotYet);
    }
}
