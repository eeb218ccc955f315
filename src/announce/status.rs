//! The status in one line, for `systemctl status`. Pure.

use super::lease::protocol::{KeyStatus, KeyStatuses};
use super::policy::claims::{Evaluation, Outranked};
use super::policy::eligibility::Verdict;
use super::policy::reason::Reason;
use crate::clock::Moment;
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
    /// The line: `announcing redis@1 = 10.0.0.7:6379` or `waiting: redis1 is paused` for a single container,
    /// `announcing 12 of 14 containers; redis1 is paused; …` for several. Containers that have ended count only
    /// where there is no other.
    #[must_use]
    pub fn line(&self, all: &BTreeMap<String, Evaluation>, outranked: &Outranked) -> String {
        if let Some(line) = etcd_lost(self.etcd_lost_since, self.now) {
            return line;
        }
        let all_over = all.values().all(Evaluation::is_over);
        let counted = all
            .iter()
            .filter(|(_, judged)| all_over || !judged.is_over());
        let counted: Vec<_> = counted.collect();
        let problems: Vec<_> = counted
            .iter()
            .filter_map(|(id, judged)| Some((judged, self.problem(id, judged, outranked)?)))
            .collect();
        let mut line = match (counted.as_slice(), problems.as_slice()) {
            ([], _) => "waiting: no container has a sidekick label".to_owned(),
            ([(_, judged)], []) => format!("announcing {}", self.announced(judged)),
            ([_], [(_, Problem { lead, words })]) => format!("{lead}{words}"),
            (all, []) => format!("announcing {} containers", all.len()),
            (all, some) => {
                let announced = all.len() - some.len();
                format!("announcing {announced} of {} containers", all.len())
            }
        };
        if counted.len() > 1 {
            for (judged, Problem { words, .. }) in problems.iter().take(NAMED) {
                let _ = match words.starts_with(&judged.name) {
                    true => write!(line, "; {words}"),
                    false => write!(line, "; {}: {words}", judged.name),
                };
            }
            if problems.len() > NAMED {
                let _ = write!(line, "; and {} more", problems.len() - NAMED);
            }
        }
        if let Some(since) = self.docker_lost_since {
            let lost = self.now.saturating_sub(since).as_secs();
            let _ = write!(line, " (Docker unreachable for {lost} s)");
        }
        line
    }

    /// `redis@1 = 10.0.0.7:6379` for each of the container's keys.
    fn announced(&self, judged: &Evaluation) -> String {
        let shown = judged.claims.iter().flatten().filter_map(|claim| {
            let Some(KeyStatus::Announced(endpoint)) = self.statuses.get(&claim.key) else {
                return None;
            };
            Some(format!("{} = {endpoint}", claim.key.instance()))
        });
        shown.collect::<Vec<_>>().join(", ")
    }

    /// Why not all of the container's claims are announced.
    fn problem(&self, id: &str, judged: &Evaluation, outranked: &Outranked) -> Option<Problem> {
        let waiting = |words: String| Some(Problem::new("waiting: ", words));
        let claims = match &judged.claims {
            Ok(claims) => claims,
            Err(reason) => return waiting(reason.to_string()),
        };
        claims.iter().find_map(|claim| {
            let (key, instance) = (&claim.key, claim.key.instance());
            if let Some(winner) = outranked.get(&(id.to_owned(), key.clone())) {
                let (key, winner) = (key.clone(), winner.clone());
                let words = Reason::Outranked { key, winner }.to_string();
                return Some(Problem::new("standing by: ", words));
            }
            match (&claim.verdict, self.statuses.get(key)) {
                (_, Some(KeyStatus::Rejected)) => {
                    let words = format!("etcd refuses {instance}; retrying");
                    Some(Problem::new("", words))
                }
                (Verdict::Withdraw(reason), Some(KeyStatus::Announced(_) | KeyStatus::Pending)) => {
                    let lead = format!("withdrawing {instance}: ");
                    Some(Problem::new(&lead, reason.to_string()))
                }
                (Verdict::Withdraw(reason), _) => waiting(reason.to_string()),
                (_, Some(KeyStatus::Announced(_))) => None,
                (_, Some(KeyStatus::StandingBy(holder))) => {
                    let words = format!("{instance} is held by {holder}");
                    Some(Problem::new("standing by: ", words))
                }
                _ => waiting(format!("{instance} has not been put yet")),
            }
        })
    }
}

/// Why a container is not announced.
struct Problem {
    /// What a line about this container alone begins with.
    lead: String,
    words: String,
}

impl Problem {
    fn new(lead: &str, words: String) -> Self {
        let lead = lead.to_owned();
        Self { lead, words }
    }
}

fn etcd_lost(since: Option<Moment>, now: Moment) -> Option<String> {
    let lost = now.saturating_sub(since?);
    (lost >= WORTH_TELLING).then(|| format!("etcd unreachable for {} s, retrying", lost.as_secs()))
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
