//! How it stands, in one line for `systemctl status`. Pure.

use super::exchange::Standing;
use super::rules::Verdict;
use crate::clock::Moment;
use crate::endpoint::Key;
use std::time::Duration;

/// An etcd that doesn't answer for so long is worth the line; a shorter failover isn't.
const WORTH_TELLING: Duration = Duration::from_secs(1);

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
    if let Some(lost) = etcd_lost_since.map(|since| now.saturating_sub(since))
        && lost >= WORTH_TELLING
    {
        return format!("etcd unreachable for {} s, retrying", lost.as_secs());
    }
    let instance = key.instance();
    let line = match (verdict, standing) {
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
