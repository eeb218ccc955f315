//! What happened in the runs, and whether that was enough.

use super::draining::DrainTotals;
use super::sight::Sight;
use crate::announce::lease::protocol::LeaseEvent;

/// What happened in a run, so that the schedule can be seen to do something.
#[derive(Debug, Default)]
pub(crate) struct AnnounceTotals {
    pub(crate) runs: usize,
    pub(crate) faults: usize,
    pub(crate) takeovers: usize,
    pub(crate) clears: usize,
    pub(crate) standbys: usize,
    pub(crate) leases_lost: usize,
    pub(crate) resets: usize,
    pub(crate) heals: usize,
    pub(crate) rejections: usize,
    pub(crate) torn: usize,
    /// Runs that were calm with one who couldn't see its container any more.
    pub(crate) blind: usize,
    /// Containers whose new life is the earlier one, by the clock on the wall.
    pub(crate) backwards: usize,
    pub(crate) leaps: usize,
    /// Grants that were asked for again and had been done.
    pub(crate) granted_before: usize,
    /// Keys that a holder with a fast clock kept from a newer container, until it went.
    pub(crate) kept_out: usize,
    pub(crate) wishes: usize,
    pub(crate) drains: DrainTotals,
    /// Drains without a fault.
    pub(crate) calm_drains: usize,
    /// Hand-overs without a fault; and among all the others.
    pub(crate) hand_overs: usize,
    pub(crate) restarts: usize,
    /// Deaths that the kernel told while the engine still said Running, and that an event told first.
    pub(crate) by_kernel: usize,
    pub(crate) by_engine: usize,
    /// What else became of the kernel's words.
    pub(crate) kernel_late: usize,
    pub(crate) kernel_of_an_earlier_life: usize,
    pub(crate) kernel_missing: usize,
    /// Stops that a sidekick was told of when they began.
    pub(crate) stops: usize,
    /// Further keys that another holder still had.
    pub(crate) further_held: usize,
}

impl AnnounceTotals {
    pub(crate) fn add(&mut self, run: &Self) {
        self.runs += 1;
        self.join(run);
    }

    pub(crate) fn join(&mut self, other: &Self) {
        self.runs += other.runs;
        self.faults += other.faults;
        self.takeovers += other.takeovers;
        self.clears += other.clears;
        self.standbys += other.standbys;
        self.leases_lost += other.leases_lost;
        self.resets += other.resets;
        self.heals += other.heals;
        self.rejections += other.rejections;
        self.torn += other.torn;
        self.blind += other.blind;
        self.backwards += other.backwards;
        self.leaps += other.leaps;
        self.granted_before += other.granted_before;
        self.kept_out += other.kept_out;
        self.wishes += other.wishes;
        self.drains.join(&other.drains);
        self.calm_drains += other.calm_drains;
        self.hand_overs += other.hand_overs;
        self.restarts += other.restarts;
        self.by_kernel += other.by_kernel;
        self.by_engine += other.by_engine;
        self.kernel_late += other.kernel_late;
        self.kernel_of_an_earlier_life += other.kernel_of_an_earlier_life;
        self.kernel_missing += other.kernel_missing;
        self.stops += other.stops;
        self.further_held += other.further_held;
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
            self.torn,
            self.blind,
            self.backwards,
            self.leaps,
            self.granted_before,
            self.kept_out,
            self.wishes,
            self.drains.least(),
            self.calm_drains,
            self.hand_overs,
            self.restarts,
            self.by_kernel,
            self.by_engine,
            self.kernel_late,
            self.kernel_of_an_earlier_life,
            self.kernel_missing,
            self.stops,
        ];
        each.iter().all(|n| *n > self.runs / 20)
    }

    /// What a sidekick was told of its container, and when.
    pub(crate) fn count_sight(&mut self, sight: &Sight) {
        self.by_kernel += sight.by_kernel;
        self.by_engine += sight.by_engine;
        self.kernel_late += sight.kernel_late;
        self.kernel_of_an_earlier_life += sight.kernel_of_an_earlier_life;
        self.kernel_missing += sight.kernel_missing;
        self.stops += sight.told_of_stops;
    }

    pub(crate) fn count(&mut self, events: &[LeaseEvent]) {
        for event in events {
            match event {
                LeaseEvent::StandingBy(..) => self.standbys += 1,
                LeaseEvent::LeaseLost(_) => self.leases_lost += 1,
                LeaseEvent::HistoryReset => self.resets += 1,
                LeaseEvent::Healed { .. } => self.heals += 1,
                LeaseEvent::FurtherKeyHeld(..) => self.further_held += 1,
                LeaseEvent::FurtherKeyRefused(..)
                | LeaseEvent::TookOver { .. }
                | LeaseEvent::Resumed(_)
                | LeaseEvent::BadValue { .. }
                | LeaseEvent::Cleared(_) => {}
            }
        }
    }
}
