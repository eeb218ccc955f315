use super::*;
use proptest::prelude::*;

#[test]
fn container_ports_are_written_as_docker_writes_them() {
    for (text, shown) in [
        ("6379", "6379/tcp"),
        ("53/udp", "53/udp"),
        ("9/sctp", "9/sctp"),
        ("1/tcp", "1/tcp"),
    ] {
        assert_eq!(text.parse::<ContainerPort>().unwrap().to_string(), shown);
    }
    for text in [
        "",
        "0",
        "65536",
        "-1",
        "+1",
        "x",
        "80/",
        "/tcp",
        "80/icmp",
        "80/tcp/udp",
        " 80",
        "8 0",
        "1e3",
    ] {
        assert!(text.parse::<ContainerPort>().is_err(), "{text:?}");
    }
}

fn seen(second: i128, state: ContainerState) -> Observation {
    Observation::Present(Arc::new(ContainerSnapshot {
        id: "aa".to_owned(),
        name: "redis1".to_owned(),
        state,
        health: ContainerHealth::Good,
        started_at: Since::from_unix_nanos(second * 1_000_000_000),
        pid: NonZeroI32::new(4711),
        stop: StopSettings::default(),
        host_network: false,
        ports: BTreeMap::new(),
        labels: BTreeMap::new(),
        refusal: None,
        addresses: Vec::new(),
    }))
}

#[test]
fn a_death_ends_its_container_whatever_the_clocks_say() {
    let death = |id: &str| {
        let id = id.to_owned();
        [Death { id, code: 137 }]
    };
    let ended = seen(10, ContainerState::Exited(137));
    assert_eq!(seen(10, ContainerState::Running).after(&death("aa")), ended);
    assert_eq!(seen(10, ContainerState::Paused).after(&death("aa")), ended);
    let restarting = seen(10, ContainerState::Restarting);
    assert_eq!(restarting.clone().after(&death("aa")), restarting);
    let other = seen(10, ContainerState::Running);
    assert_eq!(other.clone().after(&death("bb")), other);
    assert_eq!(other.clone().after(&[]), other);
}

#[test]
fn a_pause_is_dated_only_where_the_same_life_was_seen_running() {
    let at = Moment::from_secs;
    let look = |observation, before: Option<&ContainerView>, second| {
        ContainerView::seen(observation, None, before, at(second))
    };
    let running = look(seen(10, ContainerState::Running), None, 1);
    let paused = look(seen(10, ContainerState::Paused), Some(&running), 2);
    assert_eq!(paused.paused_since, Some(at(2)));
    let still = look(seen(10, ContainerState::Paused), Some(&paused), 3);
    assert_eq!(still.paused_since, Some(at(2)));
    for (before, second) in [(None, 10), (Some(&running), 11), (Some(&paused), 11)] {
        let unknown = look(seen(second, ContainerState::Paused), before, 4);
        assert_eq!(unknown.paused_since, None);
    }
    let over = look(seen(10, ContainerState::Running), Some(&still), 5);
    assert_eq!(over.paused_since, None);
    // Five commits in a row were one pause of their whole length.
    let mut between = still;
    assert!(between.unpaused() && !between.unpaused());
    let again = look(seen(10, ContainerState::Paused), Some(&between), 6);
    assert_eq!(again.paused_since, Some(at(6)));
}

#[test]
fn a_death_by_the_kernel_outranks_every_answer_about_that_life_and_no_other() {
    let look = |observation, before: Option<&ContainerView>| {
        ContainerView::seen(observation, None, before, Moment::ZERO)
    };
    let mut view = look(seen(10, ContainerState::Running), None);
    let first = seen(10, ContainerState::Running).first_process().unwrap();
    let later = seen(11, ContainerState::Running).first_process().unwrap();
    assert!(!view.process_died(&later.life), "another life");
    assert!(view.process_died(&first.life) && !view.process_died(&first.life));
    let stuck = look(seen(10, ContainerState::Running), Some(&view));
    assert_eq!(stuck.ended, Some(first.life.clone()));
    let again = look(seen(11, ContainerState::Running), Some(&stuck));
    assert_eq!(again.ended, None);
    assert_eq!(look(Observation::Absent, Some(&stuck)).ended, None);
    let mut unasked = ContainerView::unasked(Moment::ZERO);
    assert!(!unasked.process_died(&first.life));
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in any::<String>()) {
        if let Ok(port) = text.parse::<ContainerPort>() {
            prop_assert_eq!(port.to_string().parse(), Ok(port));
        }
    }
}
