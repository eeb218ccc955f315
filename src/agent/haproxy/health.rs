//! Which servers HAProxy's health checks have down, and since when. Pure.
//!
//! etcd says which instances are registered; only HAProxy knows which ones get connections.

use crate::agent::haproxy::render::proxy_name;
use crate::agent::haproxy::server_state::{DRAIN, MAINTENANCE, RunningServers, ServerState};
use crate::clock::Moment;
use crate::log_throttle::LogThrottle;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// The shortest pause between two polls of the servers.
const MIN_POLL_PAUSE: Duration = Duration::from_secs(1);

/// The pause is so many times what the last poll took: with many servers HAProxy and the agent spend at most
/// 2 % of a core on polling.
const PAUSE_FACTOR: u32 = 50;

/// The longest pause.
const MAX_POLL_PAUSE: Duration = Duration::from_secs(10);

/// How many lines one poll may log; further servers are counted.
const MAX_LINES: usize = 10;

/// A server's state, for `sidekick list`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ServerHealth {
    state: CheckState,
    /// In seconds, in that state.
    seconds: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum CheckState {
    Up,
    /// By HAProxy's health check.
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

/// The state of that instance, if HAProxy has it.
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

/// A server that went down, is still down, or came back, and is worth a log line.
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

/// What one poll has to log.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct HealthChanges {
    pub(crate) logged: Vec<HealthChange>,
    /// How many more changed.
    pub(crate) more: usize,
}

/// The health checks' recent past.
#[derive(Debug, Default)]
pub(crate) struct HealthMonitor {
    /// Servers that are down, or recently were.
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
    /// When the servers are polled next.
    pub(crate) const fn next(&self) -> Moment {
        self.next
    }

    /// A poll that began at `began` is over, whether or not HAProxy answered.
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

    /// Compares the servers with the last poll. A server that HAProxy no longer has is forgotten.
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
        if changes.logged.len() == MAX_LINES {
            changes.more += 1;
            return;
        }
        changes.logged.push(HealthChange {
            server,
            address: live.address,
            down: live.down,
            lasted: lasted.unwrap_or_default(),
            times: history.times,
        });
    }
}

impl ServerHistory {
    /// Whether it has been up for so long that its next failure counts as the first.
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
        let [change] = changes.logged.as_slice() else {
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
        assert!(!changes.logged[0].down);
        assert_eq!(changes.logged[0].lasted, Duration::from_secs(7));
        assert_eq!(health.down(), 0);
    }

    #[test]
    fn an_hour_of_flapping_is_a_handful_of_lines() {
        let mut health = HealthMonitor::default();
        let change = |second: u64| servers(&[second % 6 < 3], 0);
        let lines: usize = (0..3_600)
            .map(|second| health.observe(&change(second), at(second)).logged.len())
            .sum();
        assert!((5..=40).contains(&lines), "{lines}");
    }

    #[test]
    fn many_at_once_are_ten_lines_and_a_number() {
        let mut health = HealthMonitor::default();
        let changes = health.observe(&servers(&[true; 300], 0), at(0));
        assert_eq!((changes.logged.len(), changes.more), (MAX_LINES, 290));
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
