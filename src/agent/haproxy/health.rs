//! What HAProxy's checks have taken out, and since when. Pure.
//!
//! etcd says who is registered; only HAProxy knows whom it sends clients to.

use crate::agent::haproxy::render::proxy_name;
use crate::agent::haproxy::runtime::{DRAIN, MAINTENANCE, RunningServers, ServerState};
use crate::clock::Moment;
use crate::log_throttle::LogThrottle;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// The servers are looked at so often at least.
const MIN_POLL_PAUSE: Duration = Duration::from_secs(1);

/// Between two looks lies so many times what the last one took: of many servers HAProxy and the agent spend
/// 2 % of a core on them at most.
const PAUSE_FACTOR: u32 = 50;

/// And never more than this.
const MAX_POLL_PAUSE: Duration = Duration::from_secs(10);

/// So many lines of one look; more servers than those are a number.
const MAX_LINES: usize = 10;

/// What HAProxy says of one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ServerHealth {
    state: CheckState,
    /// For so long.
    seconds: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum CheckState {
    Up,
    /// By HAProxy's checks.
    Down,
    Drain,
    Maint,
}

impl fmt::Display for ServerHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            CheckState::Up => "up",
            CheckState::Down => "down",
            CheckState::Drain => "drain",
            CheckState::Maint => "maint",
        };
        write!(f, "{state} {}s", self.seconds)
    }
}

/// What is said of that instance, if HAProxy has it.
#[must_use]
pub fn server_health(
    running: &RunningServers,
    service: &str,
    instance: &str,
) -> Option<ServerHealth> {
    let live = running
        .get(&proxy_name(service))?
        .get(&proxy_name(instance))?;
    let state = match live {
        live if live.down => CheckState::Down,
        live if live.admin & MAINTENANCE != 0 => CheckState::Maint,
        live if live.admin & DRAIN != 0 => CheckState::Drain,
        _ => CheckState::Up,
    };
    Some(ServerHealth {
        state,
        seconds: live.since,
    })
}

/// One server that went down, is down still, or came back, and that is worth a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HealthChange {
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
pub(crate) struct HealthChanges {
    pub(crate) told: Vec<HealthChange>,
    /// So many more went down or came back.
    pub(crate) more: usize,
}

/// What was seen of the servers.
#[derive(Debug, Default)]
pub(crate) struct HealthMonitor {
    /// Those that are down, or were lately.
    history: BTreeMap<(String, String), ServerHistory>,
    next: Moment,
}

#[derive(Debug, Default)]
struct ServerHistory {
    throttle: LogThrottle,
    /// When it went down, if it is down.
    since: Option<Moment>,
    times: u64,
}

impl HealthMonitor {
    /// When HAProxy is to be asked next.
    pub(crate) const fn next(&self) -> Moment {
        self.next
    }

    /// A look at the servers that began at `began` is over, and HAProxy was asked or couldn't be.
    pub(crate) fn polled(&mut self, began: Moment, now: Moment) {
        let took = now.saturating_sub(began);
        self.next = now + (took * PAUSE_FACTOR).clamp(MIN_POLL_PAUSE, MAX_POLL_PAUSE);
    }

    /// How many are down.
    pub(crate) fn down(&self) -> usize {
        let down = self
            .history
            .values()
            .filter(|history| history.since.is_some());
        down.count()
    }

    /// The servers as HAProxy has them now. One that HAProxy has no longer is forgotten.
    pub(crate) fn observe(&mut self, running: &RunningServers, now: Moment) -> HealthChanges {
        let has = |(backend, name): &(String, String)| {
            running
                .get(backend)
                .is_some_and(|servers| servers.contains_key(name))
        };
        self.history
            .retain(|server, history| has(server) && !history.is_removed(now));
        let mut changes = HealthChanges::default();
        for (backend, servers) in running {
            for (name, live) in servers {
                self.observe_one(backend, name, live, now, &mut changes);
            }
        }
        changes
    }

    fn observe_one(
        &mut self,
        backend: &str,
        name: &str,
        live: &ServerState,
        now: Moment,
        changes: &mut HealthChanges,
    ) {
        // Nearly all are up, and have no past.
        if !live.down && self.history.is_empty() {
            return;
        }
        let server = (backend.to_owned(), name.to_owned());
        let history = if live.down {
            self.history.entry(server.clone()).or_default()
        } else {
            match self.history.get_mut(&server) {
                Some(history) => history,
                None => return,
            }
        };
        let said = if live.down {
            history.times += u64::from(history.since.is_none());
            history.since = Some(now.saturating_sub(Duration::from_secs(live.since)));
            history.throttle.failed(now).is_some()
        } else {
            history.throttle.recovered(now).is_some()
        };
        let lasted = history.since.map(|since| now.saturating_sub(since));
        if !live.down {
            history.since = None;
        }
        if !said {
            return;
        }
        if changes.told.len() == MAX_LINES {
            changes.more += 1;
            return;
        }
        changes.told.push(HealthChange {
            server,
            address: live.address,
            down: live.down,
            lasted: lasted.unwrap_or_default(),
            times: history.times,
        });
    }
}

impl ServerHistory {
    /// It was up for so long that the next time is the first again.
    fn is_removed(&self, now: Moment) -> bool {
        self.since.is_none() && self.throttle.is_forgotten(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> Moment {
        Duration::from_secs(1_000 + second)
    }

    fn servers(down: &[bool], since: u64) -> RunningServers {
        let live = |down| ServerState {
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
        let mut health = HealthMonitor::default();
        assert_eq!(
            health.observe(&servers(&[false, false], 9), at(0)),
            HealthChanges::default()
        );
        let changes = health.observe(&servers(&[false, true], 3), at(1));
        let [change] = changes.told.as_slice() else {
            panic!("{changes:?}")
        };
        assert_eq!((change.server.1.as_str(), change.down), ("w::1", true));
        assert_eq!((change.lasted, change.times), (Duration::from_secs(3), 1));
        assert_eq!(health.down(), 1);
        assert_eq!(
            health.observe(&servers(&[false, true], 4), at(2)),
            HealthChanges::default()
        );
        let changes = health.observe(&servers(&[false, false], 0), at(5));
        assert!(!changes.told[0].down);
        assert_eq!(changes.told[0].lasted, Duration::from_secs(7));
        assert_eq!(health.down(), 0);
    }

    #[test]
    fn an_hour_of_flapping_is_a_handful_of_lines() {
        let mut health = HealthMonitor::default();
        let change = |second: u64| servers(&[second % 6 < 3], 0);
        let lines: usize = (0..3_600)
            .map(|second| health.observe(&change(second), at(second)).told.len())
            .sum();
        assert!((5..=40).contains(&lines), "{lines}");
    }

    #[test]
    fn many_at_once_are_ten_lines_and_a_number() {
        let mut health = HealthMonitor::default();
        let changes = health.observe(&servers(&[true; 300], 0), at(0));
        assert_eq!((changes.told.len(), changes.more), (MAX_LINES, 290));
        assert_eq!(health.down(), 300);
        health.observe(&RunningServers::new(), at(1));
        assert_eq!((health.down(), health.history.len()), (0, 0));
    }

    #[test]
    fn the_pause_grows_with_what_a_look_takes() {
        let mut health = HealthMonitor::default();
        health.polled(at(0), at(0) + Duration::from_millis(1));
        assert_eq!(health.next(), at(1) + Duration::from_millis(1));
        health.polled(at(0), at(0) + Duration::from_millis(100));
        assert_eq!(health.next(), at(5) + Duration::from_millis(100));
    }
}
