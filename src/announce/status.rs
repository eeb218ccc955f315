//! How it stands, in one line for `systemctl status`. Pure.

use super::claims::{Judged, Outranked};
use super::exchange::{Standing, Standings};
use super::ownership::Holder;
use super::reason::Reason;
use super::rules::Verdict;
use crate::clock::Moment;
use crate::endpoint::{Key, Since};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

/// An etcd that doesn't answer for so long is worth the line; a shorter failover isn't.
const WORTH_TELLING: Duration = Duration::from_secs(1);

/// So many of those that aren't announced are named; systemd shows one line.
const NAMED: usize = 3;

/// What is known beside the verdicts.
#[derive(Debug, Clone, Copy)]
pub struct Outlook<'a> {
    /// How it stands in etcd.
    pub standings: &'a Standings,
    /// Since when etcd can't be asked.
    pub etcd_lost_since: Option<Moment>,
    /// Since when Docker can't be asked.
    pub docker_lost_since: Option<Moment>,
    /// Now.
    pub now: Moment,
}

impl Outlook<'_> {
    /// The line for one container with one key.
    #[must_use]
    pub fn of_one(&self, judged: &Judged) -> String {
        let claims = judged.claims.iter();
        let lines = claims.map(|claim| {
            line(
                &claim.key,
                &claim.verdict,
                self.standings.get(&claim.key),
                self.etcd_lost_since,
                self.docker_lost_since,
                self.now,
            )
        });
        lines.collect::<Vec<_>>().join("; ")
    }

    /// The line for many: `announcing 12 of 14 containers; redis1 is paused; …`. Containers that
    /// have ended are none of them.
    #[must_use]
    pub fn of_all(&self, all: &BTreeMap<String, Judged>, outranked: &Outranked) -> String {
        if let Some(line) = etcd_lost(self.etcd_lost_since, self.now) {
            return line;
        }
        let there = all.iter().filter(|(_, judged)| !judged.is_over());
        let problems: Vec<_> = there
            .clone()
            .filter_map(|(id, judged)| self.problem(id, judged, outranked))
            .collect();
        let count = there.count();
        let announced = count - problems.len();
        let mut line = match (count, announced) {
            (0, _) => "waiting: no container has a label of ours".to_owned(),
            (1, 1) => "announcing 1 container".to_owned(),
            (all, some) if all == some => format!("announcing {all} containers"),
            (all, some) => format!("announcing {some} of {all} containers"),
        };
        for problem in problems.iter().take(NAMED) {
            let _ = write!(line, "; {problem}");
        }
        if problems.len() > NAMED {
            let _ = write!(line, "; and {} more", problems.len() - NAMED);
        }
        if let Some(since) = self.docker_lost_since {
            let lost = self.now.saturating_sub(since).as_secs();
            let _ = write!(line, " (Docker unreachable for {lost} s)");
        }
        line
    }

    /// Why not all that the container claims is announced.
    fn problem(&self, id: &str, judged: &Judged, outranked: &Outranked) -> Option<String> {
        let about = |words: String| match words.starts_with(&judged.name) {
            true => words,
            false => format!("{}: {words}", judged.name),
        };
        if let Some(reason) = &judged.refused {
            return Some(about(reason.to_string()));
        }
        judged.claims.iter().find_map(|claim| {
            let key = &claim.key;
            if let Some(winner) = outranked.get(&(id.to_owned(), key.clone())) {
                let (key, winner) = (key.clone(), winner.clone());
                return Some(about(Reason::Outranked { key, winner }.to_string()));
            }
            match (&claim.verdict, self.standings.get(key)) {
                (Verdict::Withdraw(reason), _) => Some(about(reason.to_string())),
                (_, Some(Standing::Announced(_))) => None,
                (_, Some(Standing::StandingBy(holder))) => {
                    Some(about(format!("{} is held by {holder}", key.instance())))
                }
                (_, Some(Standing::Refused)) => {
                    Some(about(format!("etcd refuses {}", key.instance())))
                }
                _ => Some(about(format!("{} is about to be put", key.instance()))),
            }
        })
    }
}

/// How far in the future a container's start may seem to be before the clocks are doubted.
const CLOCKS_DIFFER: Duration = Duration::from_secs(1);

/// What to add where we stand by for `holder` and its container starts only later than `now`, by this
/// machine's clock: as long as that holder lives, a container that started after it waits.
#[must_use]
pub fn clock_warning(holder: &Holder, now: Since) -> Option<String> {
    let ahead = holder.since?.ahead_of(now)?;
    (ahead >= CLOCKS_DIFFER).then(|| {
        format!(
            "; its start is {} s ahead of this machine's clock: check the clocks of both machines",
            ahead.as_secs()
        )
    })
}

/// How it stood when a stop was asked for, and what came of that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Farewell {
    /// When the stop was asked for.
    pub standings: Standings,
    /// The lease is given up for certain, and the keys with it.
    pub revoked: bool,
}

impl Farewell {
    /// The last line of the log; `deadline` is how long etcd was given.
    #[must_use]
    pub fn line(&self, deadline: Duration) -> String {
        let names = |is: fn(&Standing) -> bool| {
            let keys = self.standings.iter().filter(move |(_, at)| is(at));
            keys.map(|(key, _)| key.instance()).collect::<Vec<_>>()
        };
        let ours = names(|at| matches!(at, Standing::Announced(_)));
        let open = names(|at| matches!(at, Standing::Pending));
        let mut line = match (self.revoked, ours.is_empty(), open.is_empty()) {
            (true, false, _) => format!("stopped; withdrew {}", counted(&ours)),
            (true, true, false) => format!("stopped; withdrew {}, if it was put", counted(&open)),
            (true, true, true) => "stopped; no key was announced".to_owned(),
            (false, true, true) => {
                let seconds = deadline.as_secs_f32();
                format!("stopped; etcd didn't answer within {seconds} s; no key was announced")
            }
            (false, ..) => format!(
                "stopped; etcd didn't answer within {} s: {} can stay until the TTL ends",
                deadline.as_secs_f32(),
                counted(&[ours, open].concat())
            ),
        };
        let mut held = self.standings.iter().filter_map(|(key, at)| match at {
            Standing::StandingBy(holder) => Some((key, holder)),
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

/// One by its name, several by their number.
fn counted(names: &[&str]) -> String {
    match names {
        [one] => (*one).to_owned(),
        several => format!("{} keys", several.len()),
    }
}

fn etcd_lost(since: Option<Moment>, now: Moment) -> Option<String> {
    let lost = now.saturating_sub(since?);
    (lost >= WORTH_TELLING).then(|| format!("etcd unreachable for {} s, retrying", lost.as_secs()))
}

/// The line for one key.
#[must_use]
pub fn line(
    key: &Key,
    verdict: &Verdict,
    standing: Option<&Standing>,
    etcd_lost_since: Option<Moment>,
    docker_lost_since: Option<Moment>,
    now: Moment,
) -> String {
    if let Some(line) = etcd_lost(etcd_lost_since, now) {
        return line;
    }
    let instance = key.instance();
    let line = match (verdict, standing) {
        (_, Some(Standing::Refused)) => format!("etcd refuses {instance}; trying again"),
        (Verdict::Withdraw(reason), Some(Standing::Announced(_) | Standing::Pending)) => {
            format!("withdrawing {instance}: {reason}")
        }
        (Verdict::Withdraw(reason), _) => format!("waiting: {reason}"),
        (_, Some(Standing::Announced(endpoint))) => format!("announcing {instance} = {endpoint}"),
        (_, Some(Standing::StandingBy(holder))) => {
            format!("standing by: {instance} is held by {holder}")
        }
        (Verdict::Announce(decision), _) => {
            format!("about to announce {instance} = {}", decision.endpoint)
        }
        (Verdict::Keep(_), _) => format!("waiting: {instance} is not announced"),
    };
    match (verdict, docker_lost_since) {
        (Verdict::Keep(_), Some(since)) => {
            let lost = now.saturating_sub(since).as_secs();
            format!("{line} (Docker unreachable for {lost} s)")
        }
        _ => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::announce::reason::Reason;
    use crate::endpoint::Endpoint;

    const NOW: Moment = Duration::from_secs(100);

    fn shown(
        verdict: &Verdict,
        standing: Option<Standing>,
        etcd: Option<u64>,
        docker: Option<u64>,
    ) -> String {
        let key = "/services/redis/redis@1".parse().unwrap();
        let at = |s: Option<u64>| s.map(Duration::from_secs);
        line(&key, verdict, standing.as_ref(), at(etcd), at(docker), NOW)
    }

    fn endpoint() -> Endpoint {
        Endpoint::decode(br#"{"host":"ip-172-31-24-253","port":6379}"#).unwrap()
    }

    #[test]
    fn the_line_says_what_the_design_wants_it_to_say() {
        let announced = Standing::Announced(std::sync::Arc::new(endpoint()));
        let keep = Verdict::Keep(None);
        assert_eq!(
            shown(&keep, Some(announced.clone()), None, Some(90)),
            "announcing redis@1 = ip-172-31-24-253:6379 (Docker unreachable for 10 s)"
        );
        let paused = Verdict::Withdraw(Reason::Absent("redis1".to_owned()));
        assert_eq!(
            shown(&paused, Some(Standing::Withdrawn), None, None),
            "waiting: there is no container redis1"
        );
        assert!(shown(&paused, Some(announced), None, None).starts_with("withdrawing redis@1: "));
        let by = Standing::StandingBy(Holder::from(&endpoint()));
        assert!(
            shown(&keep, Some(by), None, None)
                .starts_with("standing by: redis@1 is held by ip-172")
        );
    }

    #[test]
    fn the_last_line_says_what_became_of_which_key() {
        let says = |standings: &[Standing], revoked| {
            let key = |i| format!("/services/redis/redis@{i}").parse().unwrap();
            let standings = standings.iter().enumerate();
            let standings = standings.map(|(i, at)| (key(i + 1), at.clone())).collect();
            Farewell { standings, revoked }.line(Duration::from_millis(4500))
        };
        let ours = Standing::Announced(std::sync::Arc::new(endpoint()));
        let by = Standing::StandingBy(Holder::from(&endpoint()));
        let held = "redis@1 is held by ip-172-31-24-253:6379 (no container named)";
        for (standings, revoked, line) in [
            (vec![ours.clone()], true, "stopped; withdrew redis@1"),
            (
                vec![Standing::Withdrawn],
                true,
                "stopped; no key was announced",
            ),
            (
                vec![Standing::Pending],
                true,
                "stopped; withdrew redis@1, if it was put",
            ),
            (
                vec![ours.clone(), ours.clone(), by.clone(), by.clone()],
                true,
                "stopped; withdrew 2 keys; 2 keys are held by other containers",
            ),
            (
                vec![ours],
                false,
                "stopped; etcd didn't answer within 4.5 s: redis@1 can stay until the TTL ends",
            ),
        ] {
            assert_eq!(says(&standings, revoked), line);
        }
        let stood_by = says(std::slice::from_ref(&by), true);
        assert_eq!(stood_by, format!("stopped; no key was announced; {held}"));
        let mute = "stopped; etcd didn't answer within 4.5 s; no key was announced";
        assert_eq!(says(&[by], false), format!("{mute}; {held}"));
    }

    #[test]
    fn a_holder_whose_start_is_in_the_future_has_its_clock_named_and_no_other() {
        let at = |text| Since::parse(text).unwrap();
        let holder = Holder {
            since: Some(at("2026-11-24T13:00:00Z")),
            ..Holder::from(&endpoint())
        };
        let warning = clock_warning(&holder, at("2026-11-24T12:00:00Z")).unwrap();
        assert!(warning.contains("3600 s ahead"), "{warning}");
        for now in ["2026-11-24T12:59:59.000000001Z", "2026-11-24T13:00:01Z"] {
            assert_eq!(clock_warning(&holder, at(now)), None, "{now}");
        }
        assert!(clock_warning(&holder, at("2026-11-24T12:59:59Z")).is_some());
        let bare = Holder::from(&endpoint());
        assert_eq!(clock_warning(&bare, at("2026-11-24T12:00:00Z")), None);
    }

    #[test]
    fn an_etcd_that_is_away_comes_before_everything_and_a_failover_does_not() {
        let verdict = Verdict::Withdraw(Reason::NeverAsked);
        assert_eq!(
            shown(&verdict, None, Some(88), None),
            "etcd unreachable for 12 s, retrying"
        );
        assert!(shown(&verdict, None, Some(100), None).starts_with("waiting: "));
    }
}
