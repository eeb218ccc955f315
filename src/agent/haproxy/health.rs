//! What HAProxy's checks have taken out, and since when. Pure.
//!
//! etcd says who is registered; only HAProxy knows whom it sends clients to.

use crate::agent::haproxy::render::proxy_name;
use crate::agent::haproxy::runtime::{DRAIN, Live, MAINTENANCE, Running};
use crate::clock::Moment;
use crate::log_throttle::LogThrottle;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// The servers are looked at so often at least.
const EVERY: Duration = Duration::from_secs(1);

/// Between two looks lies so many times what the last one took: of many servers HAProxy and the agent spend
/// 2 % of a core on them at most.
const REST: u32 = 50;

/// And never more than this.
const AT_MOST: Duration = Duration::from_secs(10);

/// So many lines of one look; more servers than those are a number.
const LINES: usize = 10;

/// What HAProxy says of one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Seen {
    state: State,
    /// For so long.
    seconds: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Up,
    /// By HAProxy's checks.
    Down,
    Drain,
    Maint,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Up => "up",
            State::Down => "down",
            State::Drain => "drain",
            State::Maint => "maint",
        };
        write!(f, "{state} {}s", self.seconds)
    }
}

/// What is said of that instance, if HAProxy has it.
#[must_use]
pub fn seen(running: &Running, service: &str, instance: &str) -> Option<Seen> {
    let live = running
        .get(&proxy_name(service))?
        .get(&proxy_name(instance))?;
    let state = match live {
        live if live.down => State::Down,
        live if live.admin & MAINTENANCE != 0 => State::Maint,
        live if live.admin & DRAIN != 0 => State::Drain,
        _ => State::Up,
    };
    Some(Seen {
        state,
        seconds: live.since,
    })
}

/// One server that went down, is down still, or came back, and that is worth a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Turn {
    /// Backend and server, as HAProxy has them.
    pub(crate) server: (String, String),
    pub(crate) address: Option<SocketAddr>,
    /// Whether it is down.
    pub(crate) down: bool,
    /// How long it has been, or was, down.
    pub(crate) lasted: Duration,
    /// How often it went down lately.
    pub(crate) times: u64,
}

/// All that is worth a line.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Turns {
    pub(crate) told: Vec<Turn>,
    /// So many more went down or came back.
    pub(crate) more: usize,
}

/// What was seen of the servers.
#[derive(Debug, Default)]
pub(crate) struct Health {
    /// Those that are down, or were lately.
    past: BTreeMap<(String, String), Past>,
    next: Moment,
}

#[derive(Debug, Default)]
struct Past {
    outage: LogThrottle,
    /// When it went down, if it is down.
    since: Option<Moment>,
    times: u64,
}

impl Health {
    /// When HAProxy is to be asked next.
    pub(crate) const fn next(&self) -> Moment {
        self.next
    }

    /// A look at the servers that began at `began` is over, and HAProxy was asked or couldn't be.
    pub(crate) fn looked(&mut self, began: Moment, now: Moment) {
        let took = now.saturating_sub(began);
        self.next = now + (took * REST).clamp(EVERY, AT_MOST);
    }

    /// How many are down.
    pub(crate) fn down(&self) -> usize {
        let down = self.past.values().filter(|past| past.since.is_some());
        down.count()
    }

    /// The servers as HAProxy has them now. One that HAProxy has no longer is forgotten.
    pub(crate) fn observe(&mut self, running: &Running, now: Moment) -> Turns {
        let has = |(backend, name): &(String, String)| {
            running
                .get(backend)
                .is_some_and(|servers| servers.contains_key(name))
        };
        self.past
            .retain(|server, past| has(server) && !past.is_over(now));
        let mut turns = Turns::default();
        for (backend, servers) in running {
            for (name, live) in servers {
                self.observe_one(backend, name, live, now, &mut turns);
            }
        }
        turns
    }

    fn observe_one(
        &mut self,
        backend: &str,
        name: &str,
        live: &Live,
        now: Moment,
        turns: &mut Turns,
    ) {
        // Nearly all are up, and have no past.
        if !live.down && self.past.is_empty() {
            return;
        }
        let server = (backend.to_owned(), name.to_owned());
        let past = if live.down {
            self.past.entry(server.clone()).or_default()
        } else {
            match self.past.get_mut(&server) {
                Some(past) => past,
                None => return,
            }
        };
        let said = if live.down {
            past.times += u64::from(past.since.is_none());
            past.since = Some(now.saturating_sub(Duration::from_secs(live.since)));
            past.outage.failed(now).is_some()
        } else {
            past.outage.recovered(now).is_some()
        };
        let lasted = past.since.map(|since| now.saturating_sub(since));
        if !live.down {
            past.since = None;
        }
        if !said {
            return;
        }
        if turns.told.len() == LINES {
            turns.more += 1;
            return;
        }
        turns.told.push(Turn {
            server,
            address: live.address,
            down: live.down,
            lasted: lasted.unwrap_or_default(),
            times: past.times,
        });
    }
}

impl Past {
    /// It was up for so long that the next time is the first again.
    fn is_over(&self, now: Moment) -> bool {
        self.since.is_none() && self.outage.is_forgotten(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> Moment {
        Duration::from_secs(1_000 + second)
    }

    fn servers(down: &[bool], since: u64) -> Running {
        let live = |down| Live {
            address: "10.0.0.7:80".parse().ok(),
            admin: 0,
            weight: 1,
            check: 6,
            down,
            since,
        };
        let servers = down.iter().enumerate();
        let servers = servers.map(|(n, down)| (format!("w::{n}"), live(*down)));
        BTreeMap::from([("web".to_owned(), servers.collect())])
    }

    #[test]
    fn a_server_that_goes_down_and_comes_back_is_told_once_each() {
        let mut health = Health::default();
        assert_eq!(
            health.observe(&servers(&[false, false], 9), at(0)),
            Turns::default()
        );
        let turns = health.observe(&servers(&[false, true], 3), at(1));
        let [turn] = turns.told.as_slice() else {
            panic!("{turns:?}")
        };
        assert_eq!((turn.server.1.as_str(), turn.down), ("w::1", true));
        assert_eq!((turn.lasted, turn.times), (Duration::from_secs(3), 1));
        assert_eq!(health.down(), 1);
        assert_eq!(
            health.observe(&servers(&[false, true], 4), at(2)),
            Turns::default()
        );
        let turns = health.observe(&servers(&[false, false], 0), at(5));
        assert!(!turns.told[0].down);
        assert_eq!(turns.told[0].lasted, Duration::from_secs(7));
        assert_eq!(health.down(), 0);
    }

    #[test]
    fn an_hour_of_flapping_is_a_handful_of_lines() {
        let mut health = Health::default();
        let turn = |second: u64| servers(&[second % 6 < 3], 0);
        let lines: usize = (0..3_600)
            .map(|second| health.observe(&turn(second), at(second)).told.len())
            .sum();
        assert!((5..=40).contains(&lines), "{lines}");
    }

    #[test]
    fn many_at_once_are_ten_lines_and_a_number() {
        let mut health = Health::default();
        let turns = health.observe(&servers(&[true; 300], 0), at(0));
        assert_eq!((turns.told.len(), turns.more), (LINES, 290));
        assert_eq!(health.down(), 300);
        health.observe(&Running::new(), at(1));
        assert_eq!((health.down(), health.past.len()), (0, 0));
    }

    #[test]
    fn the_pause_grows_with_what_a_look_takes() {
        let mut health = Health::default();
        health.looked(at(0), at(0) + Duration::from_millis(1));
        assert_eq!(health.next(), at(1) + Duration::from_millis(1));
        health.looked(at(0), at(0) + Duration::from_millis(100));
        assert_eq!(health.next(), at(5) + Duration::from_millis(100));
    }
}
