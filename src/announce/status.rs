//! The status in one line, for `systemctl status`. Pure.

use super::lease::protocol::{KeyStatus, KeyStatuses};
use super::policy::claims::{Evaluation, Outranked};
use super::policy::eligibility::Verdict;
use super::policy::reason::Reason;
use crate::clock::Moment;
use crate::endpoint::Key;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

/// An etcd that doesn't answer for this long is shown; a shorter failover isn't.
const WORTH_TELLING: Duration = Duration::from_secs(1);

/// The most containers that are named with their problem; systemd shows one line.
const NAMED: usize = 3;

/// What the status is made of, beside the evaluations.
#[derive(Debug, Clone, Copy)]
pub struct AnnounceStatus<'a> {
    /// The status of each key.
    pub statuses: &'a KeyStatuses,
    /// Since when etcd is unreachable.
    pub etcd_lost_since: Option<Moment>,
    /// Since when Docker is unreachable.
    pub docker_lost_since: Option<Moment>,
    /// Now.
    pub now: Moment,
}

impl AnnounceStatus<'_> {
    /// The line for one container with one key.
    #[must_use]
    pub fn of_one(&self, judged: &Evaluation) -> String {
        let claims = judged.claims.iter();
        let lines = claims.map(|claim| {
            line(
                &claim.key,
                &claim.verdict,
                self.statuses.get(&claim.key),
                self.etcd_lost_since,
                self.docker_lost_since,
                self.now,
            )
        });
        lines.collect::<Vec<_>>().join("; ")
    }

    /// The line for many containers: `announcing 12 of 14 containers; redis1 is paused; …`. Containers that have
    /// ended don't count.
    #[must_use]
    pub fn of_all(&self, all: &BTreeMap<String, Evaluation>, outranked: &Outranked) -> String {
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
            (0, _) => "waiting: no container has a sidekick label".to_owned(),
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

    /// Why not all of the container's claims are announced.
    fn problem(&self, id: &str, judged: &Evaluation, outranked: &Outranked) -> Option<String> {
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
            match (&claim.verdict, self.statuses.get(key)) {
                (Verdict::Withdraw(reason), _) => Some(about(reason.to_string())),
                (_, Some(KeyStatus::Announced(endpoint))) => endpoint
                    .is_draining()
                    .then(|| about(format!("{} is draining", key.instance()))),
                (_, Some(KeyStatus::StandingBy(holder))) => {
                    Some(about(format!("{} is held by {holder}", key.instance())))
                }
                (_, Some(KeyStatus::Rejected)) => {
                    Some(about(format!("etcd refuses {}", key.instance())))
                }
                _ => Some(about(format!("{} has not been put yet", key.instance()))),
            }
        })
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
    status: Option<&KeyStatus>,
    etcd_lost_since: Option<Moment>,
    docker_lost_since: Option<Moment>,
    now: Moment,
) -> String {
    if let Some(line) = etcd_lost(etcd_lost_since, now) {
        return line;
    }
    let instance = key.instance();
    let line = match (verdict, status) {
        (_, Some(KeyStatus::Rejected)) => format!("etcd refuses {instance}; retrying"),
        (Verdict::Withdraw(reason), Some(KeyStatus::Announced(_) | KeyStatus::Pending)) => {
            format!("withdrawing {instance}: {reason}")
        }
        (Verdict::Withdraw(reason), _) => format!("waiting: {reason}"),
        (_, Some(KeyStatus::Announced(endpoint))) if endpoint.is_draining() => {
            format!("draining {instance} = {endpoint}")
        }
        (_, Some(KeyStatus::Announced(endpoint))) => format!("announcing {instance} = {endpoint}"),
        (_, Some(KeyStatus::StandingBy(holder))) => {
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
    use crate::announce::lease::ownership::Holder;
    use crate::announce::policy::reason::Reason;
    use crate::endpoint::Endpoint;

    const NOW: Moment = Duration::from_secs(100);

    fn shown(
        verdict: &Verdict,
        status: Option<KeyStatus>,
        etcd: Option<u64>,
        docker: Option<u64>,
    ) -> String {
        let key = "/services/redis/redis@1".parse().unwrap();
        let at = |s: Option<u64>| s.map(Duration::from_secs);
        line(&key, verdict, status.as_ref(), at(etcd), at(docker), NOW)
    }

    fn endpoint() -> Endpoint {
        Endpoint::decode(br#"{"host":"ip-172-31-24-253","port":6379}"#).unwrap()
    }

    #[test]
    fn the_line_says_what_the_design_wants_it_to_say() {
        let announced = KeyStatus::Announced(std::sync::Arc::new(endpoint()));
        let keep = Verdict::Keep(None);
        let draining = KeyStatus::Announced(std::sync::Arc::new(endpoint().draining()));
        assert_eq!(
            shown(&keep, Some(draining), None, None),
            "draining redis@1 = ip-172-31-24-253:6379"
        );
        assert_eq!(
            shown(&keep, Some(announced.clone()), None, Some(90)),
            "announcing redis@1 = ip-172-31-24-253:6379 (Docker unreachable for 10 s)"
        );
        let paused = Verdict::Withdraw(Reason::Absent("redis1".to_owned()));
        assert_eq!(
            shown(&paused, Some(KeyStatus::Withdrawn), None, None),
            "waiting: there is no container redis1"
        );
        assert!(shown(&paused, Some(announced), None, None).starts_with("withdrawing redis@1: "));
        let by = KeyStatus::StandingBy(Holder::from(&endpoint()));
        assert!(
            shown(&keep, Some(by), None, None)
                .starts_with("standing by: redis@1 is held by ip-172")
        );
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
