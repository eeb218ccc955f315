//! Looks at a HAProxy, and what the agent says after each.

use super::drain_state::*;
use crate::agent::haproxy::last_speaker::LastSpeaker;
use crate::agent::haproxy::server_state::{DRAIN, RunningServers, ServerState};
use crate::agent::haproxy::session_list::{Endpoints, Session, WorkerSessions};
use crate::clock::Moment;
use crate::endpoint::control::{DrainWord, InstanceName};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// An idle session with that server of `redis`.
pub(super) fn session(id: u64, address: &str) -> Session {
    let ends = Endpoints {
        local: "10.0.0.9:40000".parse().unwrap(),
        remote: address.parse().unwrap(),
    };
    Session {
        pointer: format!("0x{id}"),
        id,
        backend: "redis".to_owned(),
        server: Some("a::1".to_owned()),
        to_server: Some(ends),
        to_client: None,
        from_client: 6,
        from_server: 5,
    }
}

fn name() -> InstanceName {
    InstanceName::parse("redis/a@1").unwrap()
}

const A: &str = "10.0.0.1:6379";

fn target(address: &str, alone: bool) -> DrainTarget {
    let address: SocketAddr = address.parse().unwrap();
    DrainTarget {
        word: DrainWord {
            host: address.ip().to_string().parse().unwrap(),
            port: address.port().try_into().unwrap(),
            since: None,
            alone,
        },
        address: Some(address),
    }
}

struct Stage {
    state: DrainState,
    now: Moment,
    look: Look,
    speaker: LastSpeaker,
}

impl Stage {
    /// a drains in the current worker, which has these sessions.
    fn new(sessions: &[Session]) -> Stage {
        let mut stage = Stage {
            state: DrainState::default(),
            now: Moment::from_secs(100),
            look: Look {
                current: 10,
                ..Look::default()
            },
            speaker: LastSpeaker::Server,
        };
        stage.drains(true);
        stage.has(10, sessions);
        stage.follows(Some(target(A, false)));
        stage
    }

    fn drains(&mut self, drains: bool) {
        let state = ServerState {
            address: A.parse().ok(),
            admin: if drains { DRAIN } else { 0 },
            weight: u32::from(!drains),
            check: 6,
            down: false,
            since: 0,
        };
        let servers = BTreeMap::from([("a::1".to_owned(), state)]);
        self.look.running = RunningServers::from([("redis".to_owned(), servers)]);
    }

    fn has(&mut self, worker: u32, sessions: &[Session]) {
        let sessions = WorkerSessions {
            ours: true,
            sessions: sessions.to_vec(),
            has_gap: false,
        };
        self.look.workers.insert(worker, sessions);
    }

    fn follows(&mut self, target: Option<DrainTarget>) {
        let targets: DrainTargets = target.into_iter().map(|it| (name(), it)).collect();
        self.state.follow(&targets, |_, _| None, self.now);
    }

    /// The pointers of the sessions to end.
    fn looks(&mut self) -> Vec<String> {
        self.now += LOOK_INTERVAL;
        let speaker = self.speaker;
        let took = Duration::from_millis(1);
        let (to_end, _) = self.state.look(&self.look, self.now, took, |_| speaker);
        let ended = to_end.into_values().flatten().map(|it| it.pointer);
        let ended: Vec<_> = ended.collect();
        for worker in self.look.workers.values_mut() {
            worker.sessions.retain(|it| !ended.contains(&it.pointer));
        }
        ended
    }

    fn has_word(&self) -> bool {
        self.state.words().next().is_some()
    }
}

#[test]
fn the_word_follows_two_looks_without_a_session() {
    let mut stage = Stage::new(&[]);
    assert!(!stage.has_word());
    stage.looks();
    assert!(!stage.has_word());
    stage.looks();
    assert!(stage.has_word());
}

#[test]
fn a_list_with_a_gap_gives_no_word_and_takes_none_back() {
    let mut stage = Stage::new(&[session(1, A)]);
    let gap = |stage: &mut Stage, has_gap| {
        let worker = stage.look.workers.get_mut(&10).unwrap();
        worker.has_gap = has_gap;
    };
    gap(&mut stage, true);
    stage.looks();
    assert_eq!(stage.looks(), ["0x1"], "what it has is ended all the same");
    for has_gap in [true, true, false, true, false] {
        gap(&mut stage, has_gap);
        stage.looks();
        assert!(!stage.has_word());
    }
    stage.looks();
    assert!(stage.has_word());
    gap(&mut stage, true);
    stage.looks();
    assert!(stage.has_word());
    stage.has(10, &[session(2, A)]);
    gap(&mut stage, true);
    stage.looks();
    assert!(!stage.has_word());
}

#[test]
fn an_idle_session_is_ended_at_the_second_look_and_one_in_flight_is_waited_for() {
    let mut stage = Stage::new(&[session(1, A), session(2, "10.0.0.2:6379")]);
    assert_eq!(stage.looks(), [""; 0]);
    assert_eq!(stage.looks(), ["0x1"]);
    stage.looks();
    assert!(!stage.has_word());
    stage.looks();
    assert!(stage.has_word());

    let mut stage = Stage::new(&[session(1, A)]);
    stage.speaker = LastSpeaker::Client;
    for _ in 0..50 {
        assert_eq!(stage.looks(), [""; 0]);
        assert!(!stage.has_word());
    }
    stage.has(10, &[]);
    stage.looks();
    stage.looks();
    assert!(stage.has_word());
}

#[test]
fn a_session_of_an_old_worker_counts_and_so_does_one_that_has_no_server_there_yet() {
    let mut stage = Stage::new(&[]);
    stage.speaker = LastSpeaker::Client;
    stage.has(9, &[session(1, A)]);
    let unassigned = Session {
        server: None,
        to_server: None,
        ..session(2, A)
    };
    for _ in 0..3 {
        stage.looks();
        assert!(!stage.has_word());
    }
    stage.has(9, std::slice::from_ref(&unassigned));
    for _ in 0..3 {
        assert_eq!(stage.looks(), [""; 0]);
        assert!(!stage.has_word());
    }
    // The current worker drains the instance, and never chooses it.
    stage.look.workers.clear();
    stage.has(10, &[unassigned]);
    stage.looks();
    stage.looks();
    assert!(stage.has_word());
}

#[test]
fn the_word_is_taken_back_when_the_server_takes_connections_or_has_a_session() {
    let mut stage = Stage::new(&[]);
    stage.looks();
    stage.looks();
    stage.drains(false);
    stage.looks();
    assert!(!stage.has_word());
    stage.drains(true);
    stage.looks();
    assert!(!stage.has_word());
    stage.looks();
    assert!(stage.has_word());
    stage.has(10, &[session(3, A)]);
    stage.looks();
    assert!(!stage.has_word());
    // A look that failed says nothing.
    stage.has(10, &[]);
    stage.looks();
    stage.state.look_failed();
    stage.looks();
    assert!(!stage.has_word());
    stage.looks();
    stage.state.look_failed();
    assert!(stage.has_word());
}

#[test]
fn the_word_is_about_one_address_and_goes_when_the_instance_goes_or_serves_again() {
    let mut stage = Stage::new(&[]);
    stage.looks();
    stage.looks();
    stage.follows(Some(target(A, false)));
    assert!(stage.has_word());
    stage.follows(Some(target("10.0.0.8:6379", false)));
    assert!(!stage.has_word());
    stage.looks();
    stage.looks();
    assert!(stage.has_word());
    stage.follows(None);
    assert!(!stage.has_word());
    assert_eq!(stage.state.pause(stage.now), None);
}

#[test]
fn the_last_one_that_is_up_is_not_drained_and_has_its_word_at_once() {
    let mut stage = Stage::new(&[session(1, A)]);
    stage.drains(false);
    stage.follows(Some(target(A, true)));
    let words: Vec<_> = stage.state.words().map(|(_, word)| word.alone).collect();
    assert_eq!(words, [true]);
    assert_eq!(stage.state.pause(stage.now), None);
    for _ in 0..3 {
        assert_eq!(stage.looks(), [""; 0]);
        assert!(stage.has_word());
    }
    // Another one is up: it drains, and that word is no longer true.
    stage.follows(Some(target(A, false)));
    assert!(!stage.has_word());
}

#[test]
fn an_instance_whose_key_a_younger_container_has_overtaken_is_waited_for() {
    let mut stage = Stage::new(&[session(1, A)]);
    stage.speaker = LastSpeaker::Client;
    stage.looks();
    let until = stage.now + Duration::from_secs(1);
    let follow = |stage: &mut Stage| {
        let none = DrainTargets::new();
        stage.state.follow(&none, |_, _| Some(until), stage.now);
    };
    follow(&mut stage);
    stage.look.running.clear();
    stage.looks();
    assert!(!stage.has_word());
    stage.has(10, &[]);
    stage.looks();
    stage.looks();
    follow(&mut stage);
    assert!(stage.has_word());
    stage.now = until;
    follow(&mut stage);
    assert!(!stage.has_word());
}

#[test]
fn looks_are_close_while_an_instance_drains_and_far_apart_where_they_take_long() {
    let mut stage = Stage::new(&[session(1, A)]);
    stage.speaker = LastSpeaker::Client;
    stage.looks();
    assert_eq!(stage.state.pause(stage.now), Some(LOOK_INTERVAL));
    let later = stage.now + Duration::from_secs(20);
    assert_eq!(stage.state.pause(later), Some(Duration::from_millis(500)));
    let took = Duration::from_millis(300);
    stage
        .state
        .look(&stage.look, stage.now, took, |_| LastSpeaker::Client);
    assert_eq!(
        stage.state.pause(stage.now),
        Some(Duration::from_millis(1200))
    );
    stage.has(10, &[]);
    stage.looks();
    stage.looks();
    assert_eq!(stage.state.pause(later), Some(Duration::from_secs(1)));
}
