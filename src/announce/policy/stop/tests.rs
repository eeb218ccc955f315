use super::*;
use crate::announce::policy::container::{
    ContainerHealth, ContainerSnapshot, ContainerState, ContainerView, Death, Observation,
};
use crate::announce::policy::eligibility::with_effective_state;
use crate::endpoint::Since;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::num::NonZeroI32;
use std::sync::Arc;

const NOW: Moment = Duration::from_secs(100);
const QUIT: u8 = 3;

fn snapshot(second: i128, state: ContainerState) -> ContainerSnapshot {
    ContainerSnapshot {
        id: "aa".to_owned(),
        name: "nginx".to_owned(),
        state,
        pid: NonZeroI32::new(4711),
        health: ContainerHealth::Good,
        started_at: Since::from_unix_nanos(second * 1_000_000_000),
        stop: StopSettings::of(Some("SIGQUIT"), None),
        host_network: false,
        ports: BTreeMap::new(),
        labels: BTreeMap::new(),
        refusal: None,
        addresses: Vec::new(),
    }
}

fn look(second: i128, state: ContainerState, before: Option<&ContainerView>) -> ContainerView {
    let observation = Observation::Present(Arc::new(snapshot(second, state)));
    ContainerView::seen(observation, None, before, NOW)
}

fn running(second: i128, before: Option<&ContainerView>) -> ContainerView {
    look(second, ContainerState::Running, before)
}

fn state(view: &ContainerView) -> ContainerState {
    let Observation::Present(container) = &view.observation else {
        panic!("no container");
    };
    with_effective_state(container, view, NOW).state.clone()
}

#[test]
fn signals_are_read_as_docker_reads_them() {
    for (text, number) in [
        ("QUIT", Some(3)),
        ("SIGQUIT", Some(3)),
        ("sigquit", Some(3)),
        ("3", Some(3)),
        ("SIGRTMIN+3", Some(37)),
        ("RTMIN", Some(34)),
        ("SIGRTMAX-1", Some(63)),
        ("RTMAX", Some(64)),
        ("SIGWINCH", Some(28)),
        ("37", Some(37)),
        ("0", None),
        ("65", None),
        ("-3", None),
        ("", None),
        ("SIG", None),
        ("SIGNOTHING", None),
        ("RTMIN+31", None),
        ("RTMIN+300", None),
        ("RTMAX-31", None),
        ("RTMIN-1", None),
    ] {
        assert_eq!(parse_signal(text), number, "{text:?}");
    }
    assert_eq!(StopSettings::of(None, None), StopSettings::default());
    assert_eq!(StopSettings::of(Some("?"), Some(-1)).signal, SIGTERM);
    assert_eq!(StopSettings::of(None, Some(-1)).timeout, None);
}

#[test]
fn the_containers_own_stop_signal_drains_it_and_no_other_does() {
    for signal in [1, 2, SIGTERM, 28] {
        let mut view = running(10, None);
        assert!(!view.signalled("aa", signal, NOW), "{signal}");
        assert_eq!(view.stop_progress(NOW), None);
    }
    let mut view = running(10, None);
    assert!(!view.signalled("bb", QUIT, NOW), "another container's");
    assert!(view.signalled("aa", QUIT, NOW));
    assert!(
        !view.signalled("aa", QUIT, NOW + STOP_TIMEOUT),
        "the first one counts"
    );
    assert_eq!(view.stop_progress(NOW), Some(StopProgress::Begun(QUIT)));
    assert_eq!(state(&view), ContainerState::Running, "it lives");
    // Whatever an inspect says of that life.
    let again = running(10, Some(&view));
    assert_eq!(again.stop_progress(NOW), Some(StopProgress::Begun(QUIT)));
}

#[test]
fn sigkill_is_the_end_of_a_life_whatever_the_engine_says_of_it() {
    let mut view = running(10, None);
    view.signalled("aa", QUIT, NOW);
    assert!(view.signalled("aa", SIGKILL, NOW), "after the stop timeout");
    assert!(!view.signalled("aa", QUIT, NOW), "it is dead");
    let late = running(10, Some(&view));
    assert!(late.is_over());
    assert_eq!(state(&late), ContainerState::Ended);
    let next = running(11, Some(&late));
    assert!(!next.is_over());
    assert_eq!(state(&next), ContainerState::Running);
}

#[test]
fn who_outlives_the_stop_timeout_goes_on_draining_and_says_so() {
    let mut view = running(10, None);
    view.signalled("aa", QUIT, NOW);
    let end = NOW + STOP_TIMEOUT + STOP_LATENESS;
    let before = end - Duration::from_nanos(1);
    assert_eq!(view.stop_outlived_at(before), Some(end));
    assert_eq!(view.stop_progress(before), Some(StopProgress::Begun(QUIT)));
    assert_eq!(view.stop_outlived_at(end), None);
    let outlived = view.stop_progress(end).unwrap();
    assert_eq!(outlived, StopProgress::Outlived(QUIT, STOP_TIMEOUT));
    assert!(
        outlived.to_string().contains("until its next start"),
        "{outlived}"
    );
}

#[test]
fn the_next_stop_of_who_outlived_one_begins_anew_and_no_signal_revives_who_got_sigkill() {
    let mut view = running(10, None);
    view.signalled("aa", QUIT, NOW);
    let end = NOW + STOP_TIMEOUT + STOP_LATENESS;
    assert!(!view.signalled("aa", QUIT, end - Duration::from_nanos(1)));
    assert!(view.signalled("aa", QUIT, end));
    assert_eq!(view.stop_progress(end), Some(StopProgress::Begun(QUIT)));
    let next = end + STOP_TIMEOUT + STOP_LATENESS;
    assert_eq!(view.stop_outlived_at(end), Some(next));
    assert!(view.signalled("aa", SIGKILL, next));
    assert!(!view.signalled("aa", QUIT, next + NOW));
    assert!(view.is_over());
}

#[test]
fn a_stop_ends_with_its_life() {
    let mut view = running(10, None);
    view.signalled("aa", QUIT, NOW);
    let exited = look(10, ContainerState::Exited(0), Some(&view));
    let next = running(11, Some(&exited));
    assert_eq!((next.stop_progress(NOW), next.stop), (None, None));
    // An event that is heard late may have been taken for the next life's; the death that follows it sets that right.
    let mut late = running(11, None);
    late.signalled("aa", QUIT, NOW);
    late.died(&Death {
        id: "aa".to_owned(),
        code: 0,
    });
    assert_eq!(running(11, Some(&late)).stop_progress(NOW), None);
}

#[test]
fn a_stop_that_is_heard_before_its_life_was_seen_counts_for_that_life() {
    for signal in [QUIT, SIGKILL] {
        let mut view = look(10, ContainerState::Exited(0), None);
        assert!(view.signalled("aa", signal, NOW));
        assert!(!view.is_over() && view.stop_progress(NOW).is_none());
        let still = look(10, ContainerState::Exited(0), Some(&view));
        let next = running(11, Some(&still));
        assert!(next.stop_progress(NOW).is_some());
        assert_eq!(next.is_over(), signal == SIGKILL);
        assert_eq!(running(12, Some(&next)).stop, None);
    }
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in any::<String>()) {
        if let Some(signal) = parse_signal(&text) {
            prop_assert!((1..=SIGRTMAX).contains(&signal));
        }
    }
}
