//! The checker's rules for deaths that the kernel tells, and for hand-overs, held against small histories.

use super::{EARLY, History, LATE, quiet};
use crate::logs::{BY_EVENTS, BY_KERNEL};
use crate::record::{Log, What};

impl History {
    /// The first sidekick holds pidfds.
    fn by_kernel(mut self) -> History {
        self.0.by_kernel.insert(0);
        self
    }

    /// The last turn was no death: a pause, or another name.
    fn without_a_death(mut self) -> History {
        self.0.turns.iter_mut().for_each(|turn| turn.died = false);
        self
    }
}

/// The container dies, and its key stands until so long after that.
fn death(history: History, stands: i64) -> History {
    history.turns(0, 20_000, None).deletes(20_100 + stands)
}

#[test]
fn whoever_goes_by_the_kernel_knows_a_death_under_a_frozen_engine() {
    for what in [What::Engine, What::Docker(0)] {
        let away = || quiet().trouble(what, 19_000, 30_000);
        death(away(), 5_000).keeps_all();
        death(away().by_kernel(), 5_000).breaks(1);
        death(away().by_kernel(), 1_400).keeps_all();
        away().by_kernel().turns(0, 20_000, None).breaks(1);
    }
}

#[test]
fn a_life_that_the_kernel_ended_comes_back_by_no_word_of_the_engines() {
    let away = |history: History| death(history.trouble(What::Engine, 19_000, 30_000), 50);
    let back = |history: History| history.puts(24_000, 0, EARLY, 1).deletes(29_000);
    back(away(quiet())).keeps_all();
    back(away(quiet().by_kernel())).breaks(1);
    let next = away(quiet().by_kernel()).turns(0, 30_000, Some(LATE));
    next.puts(30_150, 0, LATE, 1).keeps_all();
}

#[test]
fn what_is_no_death_is_known_by_events_alone() {
    let paused = |history: History| {
        let away = history.trouble(What::Engine, 19_000, 30_000);
        death(away, 5_000).without_a_death()
    };
    paused(quiet()).keeps_all();
    paused(quiet().by_kernel()).keeps_all();
}

#[test]
fn a_pidfd_counts_once_an_inspect_has_confirmed_it() {
    // The engine was away from the start on, or for the sidekick's whole life, or came back just before the death.
    let away = |from, to| quiet().by_kernel().trouble(What::Engine, from, to);
    death(away(0, 30_000), 5_000).keeps_all();
    death(away(0, 19_000).trouble(What::Engine, 19_500, 30_000), 5_000).keeps_all();
    death(away(0, 10_000).trouble(What::Engine, 19_500, 30_000), 5_000).breaks(1);
    for down in [What::Client(0), What::HandOver(0)] {
        let away = || away(9_000, 40_000);
        death(away().trouble(down, 9_500, 10_000), 5_000).keeps_all();
        // It was there before, and still is.
        death(away().trouble(down, 5_000, 5_500), 5_000).breaks(1);
    }
}

#[test]
fn the_kernel_tells_a_sidekick_that_tells_etcd() {
    let away = || quiet().by_kernel().trouble(What::Engine, 19_000, 40_000);
    let no_majority = |history: History| {
        let one = history.trouble(What::Member(0), 19_000, 25_000);
        one.trouble(What::Member(1), 19_000, 25_000)
    };
    death(no_majority(away()), 6_000).keeps_all();
    death(no_majority(away()), 9_000).breaks(1);
    let frozen = || away().trouble(What::Client(0), 19_500, 22_000);
    death(frozen(), 3_000).keeps_all();
    // Killed later, when the key was overdue.
    let killed = away().trouble(What::Client(0), 25_000, 26_000);
    death(killed, 8_000).breaks(1);
}

/// Of two sidekicks on one container the one that goes by events may have put what stands.
#[test]
fn a_rival_that_goes_by_events_is_excused_as_ever() {
    let shared = |history: History| {
        let mut history = death(history.trouble(What::Engine, 19_000, 30_000), 5_000);
        for claim in &mut history.0.claims {
            claim.container = 0;
        }
        history
    };
    shared(quiet().by_kernel()).keeps_all();
    let mut both = shared(quiet().by_kernel());
    both.0.by_kernel.insert(1);
    both.breaks(1);
}

#[test]
fn whoever_goes_by_another_source_than_it_is_to_is_found() {
    let says = |mut history: History, words: &str| {
        history.0.logs.push(Log {
            name: "sidekick0".to_owned(),
            starts: 1,
            lines: vec![format!("INFO {words}: the engine is elsewhere")],
        });
        history
    };
    says(quiet(), BY_EVENTS).keeps_all();
    says(quiet().by_kernel(), BY_EVENTS).breaks(1);
    says(quiet().by_kernel(), BY_KERNEL).keeps_all();
    says(quiet(), BY_KERNEL).breaks(1);
}

/// The process leaves its key on lease 2, and the next one has it on lease 3.
fn handed_over() -> History {
    quiet()
        .trouble(What::HandOver(0), 20_000, 21_000)
        .puts(20_050, 0, EARLY, 2)
}

#[test]
fn a_hand_over_is_two_puts_and_no_gap() {
    handed_over().puts(21_100, 0, EARLY, 3).keeps_all();
    // Nothing of it is expected otherwise.
    quiet().puts(20_050, 0, EARLY, 2).breaks(5);
}

#[test]
fn a_key_that_goes_in_a_hand_over_is_a_violation() {
    let gap = |at| handed_over().deletes(at).puts(at + 20, 0, EARLY, 3);
    gap(20_100).breaks(14);
    gap(21_000).breaks(14);
    // The next process is too late.
    gap(26_500).breaks(14);
    // It withdrew it instead.
    let withdrawn = quiet().trouble(What::HandOver(0), 20_000, 21_000);
    withdrawn
        .deletes(20_050)
        .puts(21_100, 0, EARLY, 3)
        .breaks(14);
    // Another sidekick's is no excuse.
    let others = quiet().trouble(What::HandOver(1), 20_000, 21_000);
    others.deletes(20_050).puts(20_070, 0, EARLY, 1).breaks(2);
}

#[test]
fn a_hand_over_is_excused_by_an_etcd_that_does_not_do_it() {
    let gap = |history: History| history.deletes(25_900).puts(26_000, 0, EARLY, 3);
    for what in [What::Wire(0, 0), What::Login, What::NoSpace] {
        gap(handed_over().trouble(what, 20_500, 24_000)).keeps_all();
        gap(handed_over().trouble(what, 10_000, 15_000)).breaks(14);
    }
    gap(handed_over().trouble(What::Wire(1, 0), 20_500, 24_000)).breaks(14);
    // One member of three.
    gap(handed_over().trouble(What::Member(0), 20_500, 24_000)).breaks(14);
    let two = handed_over().trouble(What::Member(0), 20_500, 24_000);
    gap(two.trouble(What::Member(1), 20_500, 24_000)).keeps_all();
    gap(handed_over().trouble(What::Docker(0), 20_500, 24_000)).keeps_all();
    gap(handed_over().trouble(What::Docker(1), 20_500, 24_000)).breaks(14);
}

#[test]
fn a_container_that_dies_in_a_hand_over_loses_its_key_to_the_next_process() {
    let died = || handed_over().turns(0, 20_200, None);
    died().deletes(21_200).keeps_all();
    died().deletes(23_400).keeps_all();
    died().deletes(25_200).breaks(1);
    died().breaks(1);
}

#[test]
fn a_container_that_starts_in_a_hand_over_is_announced_by_the_next_process() {
    let started = |at| {
        quiet()
            .turns(0, 10_000, None)
            .deletes(10_050)
            .trouble(What::HandOver(0), 20_000, 23_000)
            .turns(0, 20_200, Some(LATE))
            .puts(at, 0, LATE, 3)
    };
    started(25_400).keeps_all();
    started(27_500).breaks(2);
}

#[test]
fn a_hand_over_drains_nothing() {
    let drained = handed_over().drains(20_060);
    drained.puts(21_100, 0, EARLY, 3).breaks(13);
}
