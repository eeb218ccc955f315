//! The agent's line for `systemctl status`. Pure.

use crate::clock::Moment;
use std::fmt::Write as _;
use std::time::Duration;

/// An outage shorter than this is not shown: a failover to the next member takes less.
const WORTH_TELLING: Duration = Duration::from_secs(1);

/// The numbers in the line.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct StatusCounts {
    pub(crate) listeners: usize,
    pub(crate) servers: usize,
    pub(crate) quarantined: usize,
    pub(crate) refused: usize,
    pub(crate) held: usize,
    pub(crate) down: usize,
    pub(crate) leaving: usize,
    pub(crate) draining: usize,
}

/// The line; each `…_since` is the start of an outage, `None` without one.
pub(crate) fn line(
    counts: &StatusCounts,
    heard: bool,
    etcd_lost_since: Option<Moment>,
    haproxy_lost_since: Option<Moment>,
    now: Moment,
) -> String {
    let StatusCounts {
        listeners,
        servers,
        quarantined,
        refused,
        held,
        down,
        leaving,
        draining,
    } = counts;
    let mut line = if heard || *listeners > 0 {
        format!("serving {listeners} services, {servers} instances")
    } else {
        "waiting for etcd".to_owned()
    };
    for (count, word) in [
        (down, "down by HAProxy's checks"),
        (held, "held"),
        (draining, "draining"),
        (leaving, "leaving"),
        (quarantined, "quarantined"),
        (refused, "refused"),
    ] {
        if *count > 0 {
            let _ = write!(line, ", {count} {word}");
        }
    }
    for (since, who) in [
        (etcd_lost_since, "etcd unreachable"),
        (haproxy_lost_since, "HAProxy out of sync"),
    ] {
        if let Some(lost) = since.map(|since| now.saturating_sub(since))
            && lost >= WORTH_TELLING
        {
            let _ = write!(line, "; {who} for {} s, retrying", lost.as_secs());
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_what_a_person_wants_to_know() {
        let at = Moment::from_secs;
        assert_eq!(
            line(&StatusCounts::default(), false, None, None, at(9)),
            "waiting for etcd"
        );
        let counts = StatusCounts {
            listeners: 2,
            servers: 5,
            quarantined: 1,
            refused: 0,
            held: 3,
            down: 2,
            leaving: 1,
            draining: 4,
        };
        assert_eq!(
            line(&counts, true, Some(at(5)), None, at(17)),
            "serving 2 services, 5 instances, 2 down by HAProxy's checks, 3 held, 4 draining, 1 leaving, 1 quarantined; etcd unreachable for 12 s, retrying"
        );
        assert_eq!(
            line(
                &StatusCounts {
                    held: 0,
                    down: 0,
                    leaving: 0,
                    draining: 0,
                    ..counts
                },
                true,
                Some(at(17)),
                Some(at(17)),
                at(17)
            ),
            "serving 2 services, 5 instances, 1 quarantined"
        );
    }
}
