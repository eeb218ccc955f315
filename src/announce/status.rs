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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::announce::ownership::Holder;
    use crate::announce::rules::Reason;
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
        let announced = Standing::Announced(Box::new(endpoint()));
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
    fn an_etcd_that_is_away_comes_before_everything_and_a_failover_does_not() {
        let verdict = Verdict::Withdraw(Reason::NeverAsked);
        assert_eq!(
            shown(&verdict, None, Some(88), None),
            "etcd unreachable for 12 s, retrying"
        );
        assert!(shown(&verdict, None, Some(100), None).starts_with("waiting: "));
    }
}
