//! The status in one line, for `systemctl status`. Pure.

use super::lease::protocol::{KeyStatus, KeyStatuses};
use super::policy::claims::{Evaluation, Outranked};
use super::policy::eligibility::Verdict;
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
        let mut counted: Vec<_> = all.iter().collect();
        counted.retain(|(_, judged)| all_over || !judged.is_over());
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
        let problem = |lead: &str, words: String| {
            let lead = lead.to_owned();
            Some(Problem { lead, words })
        };
        let waiting = |words: String| problem("waiting: ", words);
        let claims = match &judged.claims {
            Ok(claims) => claims,
            Err(reason) => return waiting(reason.to_string()),
        };
        claims.iter().find_map(|claim| {
            let (key, instance) = (&claim.key, claim.key.instance());
            if let Some(winner) = outranked.get(&(id.to_owned(), key.clone())) {
                let words = claim.why_outranked(winner).to_string();
                return match claim.verdict {
                    Verdict::Announce(_) => problem("standing by: ", words),
                    Verdict::Withdraw(_) => waiting(words),
                };
            }
            match (&claim.verdict, self.statuses.get(key)) {
                (_, Some(KeyStatus::Rejected)) => {
                    problem("", format!("etcd refuses {instance}; retrying"))
                }
                (Verdict::Withdraw(reason), Some(KeyStatus::Announced(_) | KeyStatus::Pending)) => {
                    let lead = format!("withdrawing {instance}: ");
                    problem(&lead, reason.to_string())
                }
                (Verdict::Withdraw(reason), _) => waiting(reason.to_string()),
                (verdict, Some(KeyStatus::Announced(endpoint))) if endpoint.is_draining() => {
                    match verdict.stop() {
                        Some(stop) => problem(&format!("draining {instance}: "), stop.to_string()),
                        None => problem("", format!("draining {instance} = {endpoint}")),
                    }
                }
                (_, Some(KeyStatus::Announced(_))) => None,
                (_, Some(KeyStatus::StandingBy(holder))) => {
                    problem("standing by: ", format!("{instance} is held by {holder}"))
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

fn etcd_lost(since: Option<Moment>, now: Moment) -> Option<String> {
    let lost = now.saturating_sub(since?);
    (lost >= WORTH_TELLING).then(|| format!("etcd unreachable for {} s, retrying", lost.as_secs()))
}
