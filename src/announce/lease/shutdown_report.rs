//! The keys at shutdown, in the last line of the log. Pure.

use super::protocol::{KeyStatus, KeyStatuses};
use super::registrar::HANDOVER_TTL;
use std::fmt::Write as _;
use std::time::Duration;

/// The keys when a stop was requested, and whether the lease was revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShutdownReport {
    /// The status of each key when the stop was requested.
    pub statuses: KeyStatuses,
    /// The lease is revoked for certain, and its keys are deleted or handed over.
    pub revoked: bool,
    /// The keys were to be left to the next process.
    pub handed_over: bool,
}

impl ShutdownReport {
    /// The last line of the log; `deadline` is how long etcd was given.
    #[must_use]
    pub fn line(&self, deadline: Duration) -> String {
        let names = |is: fn(&KeyStatus) -> bool| {
            let keys = self.statuses.iter().filter(move |(_, at)| is(at));
            keys.map(|(key, _)| key.instance()).collect::<Vec<_>>()
        };
        let ours = names(|at| matches!(at, KeyStatus::Announced(_)));
        let open = names(|at| matches!(at, KeyStatus::Pending));
        let mut line = match (self.revoked, ours.is_empty(), open.is_empty()) {
            (true, false, _) if self.handed_over => format!(
                "stopped; handed over {}, gone after {} s unless the next process takes over",
                counted(&ours),
                HANDOVER_TTL.as_secs()
            ),
            (true, false, _) => format!("stopped; withdrew {}", counted(&ours)),
            (true, true, false) => format!("stopped; withdrew {}, if it was put", counted(&open)),
            (true, true, true) => "stopped; no key was announced".to_owned(),
            (false, true, true) => {
                let seconds = deadline.as_secs_f32();
                format!("stopped; etcd didn't answer within {seconds} s; no key was announced")
            }
            (false, ..) => format!(
                "stopped; etcd didn't answer within {} s: {} can remain until the TTL ends",
                deadline.as_secs_f32(),
                counted(&[ours, open].concat())
            ),
        };
        let mut held = self.statuses.iter().filter_map(|(key, at)| match at {
            KeyStatus::StandingBy(holder) => Some((key, holder)),
            _ => None,
        });
        match (held.next(), held.count()) {
            (Some((key, holder)), 0) => {
                let _ = write!(line, "; {} is held by {holder}", key.instance());
            }
            (Some(_), more) => {
                let _ = write!(line, "; {} keys are held by other containers", more + 1);
            }
            (None, _) => {}
        }
        line
    }
}

/// One key by its name, several by their number.
fn counted(names: &[&str]) -> String {
    match names {
        [one] => (*one).to_owned(),
        several => format!("{} keys", several.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::announce::lease::ownership::Holder;
    use crate::endpoint::Endpoint;

    fn endpoint() -> Endpoint {
        Endpoint::decode(br#"{"host":"ip-172-31-24-253","port":6379}"#).unwrap()
    }

    #[test]
    fn the_last_line_says_what_became_of_which_key() {
        let says = |statuses: &[KeyStatus], revoked| {
            let key = |i| format!("/services/redis/redis@{i}").parse().unwrap();
            let statuses = statuses.iter().enumerate();
            let statuses = statuses.map(|(i, at)| (key(i + 1), at.clone())).collect();
            let report = ShutdownReport {
                statuses,
                revoked,
                handed_over: false,
            };
            report.line(Duration::from_millis(4500))
        };
        let ours = KeyStatus::Announced(std::sync::Arc::new(endpoint()));
        let by = KeyStatus::StandingBy(Holder::from(&endpoint()));
        let held = "redis@1 is held by ip-172-31-24-253:6379 (no container named)";
        for (statuses, revoked, line) in [
            (vec![ours.clone()], true, "stopped; withdrew redis@1"),
            (
                vec![KeyStatus::Withdrawn],
                true,
                "stopped; no key was announced",
            ),
            (
                vec![KeyStatus::Pending],
                true,
                "stopped; withdrew redis@1, if it was put",
            ),
            (
                vec![ours.clone(), ours.clone(), by.clone(), by.clone()],
                true,
                "stopped; withdrew 2 keys; 2 keys are held by other containers",
            ),
            (
                vec![ours.clone()],
                false,
                "stopped; etcd didn't answer within 4.5 s: redis@1 can remain until the TTL ends",
            ),
        ] {
            assert_eq!(says(&statuses, revoked), line);
        }
        let handed_over = ShutdownReport {
            statuses: [("/services/redis/redis@1".parse().unwrap(), ours)].into(),
            revoked: true,
            handed_over: true,
        };
        assert_eq!(
            handed_over.line(Duration::from_millis(4500)),
            "stopped; handed over redis@1, gone after 10 s unless the next process takes over"
        );
        let stood_by = says(std::slice::from_ref(&by), true);
        assert_eq!(stood_by, format!("stopped; no key was announced; {held}"));
        let mute = "stopped; etcd didn't answer within 4.5 s; no key was announced";
        assert_eq!(says(&[by], false), format!("{mute}; {held}"));
    }
}
