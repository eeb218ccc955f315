//! Which verdicts are logged: each once, and the reasons that a starting container passes through only where they
//! last. Pure.

use super::policy::eligibility::Verdict;
use crate::clock::Moment;
use crate::endpoint::Key;
use std::collections::BTreeMap;
use std::time::Duration;

/// While a container isn't announced a new reason is logged after it has held for this long: a start goes from
/// "was never started" by "no port is published" to a key within milliseconds, and within 2 s where the engine
/// is busy. The status shows it at once.
const PASSING: Duration = Duration::from_secs(3);

/// A container's id (or name) and a key that it claims.
pub(super) type At = (String, Key);

/// The verdict that was logged last of each container at each key, and those that are not logged yet.
#[derive(Debug, Default)]
pub(super) struct VerdictLog {
    told: BTreeMap<At, Verdict>,
    /// Verdicts that are not logged yet, and since when they hold.
    waiting: BTreeMap<At, (Verdict, Moment)>,
}

impl VerdictLog {
    /// Whether the verdict is logged now; then it counts as logged. An announcement, and its end, is logged at
    /// once; but an end whose status the engine is about to tell only where the engine doesn't.
    pub(super) fn is_due(&mut self, at: &At, verdict: &Verdict, now: Moment) -> bool {
        let told = self.told.get(at);
        if told == Some(verdict) {
            self.waiting.remove(at);
            return false;
        }
        let was_announced = matches!(told, Some(Verdict::Announce(_)));
        if matches!(verdict, Verdict::Withdraw(reason) if !was_announced || reason.is_passing()) {
            let fresh = || (verdict.clone(), now);
            let waiting = self.waiting.entry(at.clone()).or_insert_with(fresh);
            if waiting.0 != *verdict {
                *waiting = fresh();
            }
            if now < waiting.1.saturating_add(PASSING) {
                return false;
            }
        }
        self.waiting.remove(at);
        self.told.insert(at.clone(), verdict.clone());
        true
    }

    /// The verdicts that have held for long enough.
    pub(super) fn overdue(&self, now: Moment) -> Vec<(At, Verdict)> {
        let waiting = self.waiting.iter();
        waiting
            .filter(|(_, (_, since))| now >= since.saturating_add(PASSING))
            .map(|(at, (verdict, _))| (at.clone(), verdict.clone()))
            .collect()
    }

    /// When the next verdict has held for long enough.
    pub(super) fn next(&self) -> Option<Moment> {
        let since = self.waiting.values().map(|(_, since)| *since);
        since.min().map(|since| since.saturating_add(PASSING))
    }

    /// Forgets the keys that the container no longer claims.
    pub(super) fn retain(&mut self, id: &str, is_claimed: impl Fn(&Key) -> bool) {
        let stays = |(of, key): &At| of != id || is_claimed(key);
        self.told.retain(|at, _| stays(at));
        self.waiting.retain(|at, _| stays(at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::announce::policy::container::{ContainerPort, ContainerState};
    use crate::announce::policy::eligibility::Decision;
    use crate::announce::policy::host_source::HostSource;
    use crate::announce::policy::reason::Reason;
    use crate::endpoint::Endpoint;
    use std::sync::Arc;

    fn at() -> At {
        let key = "/services/redis/redis@1".parse().unwrap();
        ("redis1".to_owned(), key)
    }

    fn announce() -> Verdict {
        let endpoint = Endpoint::decode(br#"{"host":"worker-1","port":6379}"#).unwrap();
        Verdict::Announce(Box::new(Decision {
            endpoint: Arc::new(endpoint),
            host_source: HostSource::Option,
            container_port: "6379".parse::<ContainerPort>().unwrap(),
            binding: None,
            caveat: None,
            stop: None,
        }))
    }

    fn state(state: ContainerState) -> Verdict {
        let name = "redis1".to_owned();
        Verdict::Withdraw(Reason::NotRunning { name, state })
    }

    #[test]
    fn a_death_and_a_start_are_told_at_once_and_what_lies_between_is_not() {
        let (mut log, at) = (VerdictLog::default(), at());
        let mut now = Moment::from_secs(100);
        let mut told = Vec::new();
        for verdict in [
            state(ContainerState::Created),
            Verdict::Withdraw(Reason::NothingPublished),
            announce(),
            state(ContainerState::Exited(0)),
            state(ContainerState::Restarting),
            announce(),
        ] {
            now += Duration::from_millis(400);
            if log.is_due(&at, &verdict, now) {
                told.push(verdict);
            }
        }
        assert_eq!(
            told,
            [announce(), state(ContainerState::Exited(0)), announce()]
        );
        assert_eq!(log.next(), None);
    }

    #[test]
    fn a_death_by_the_kernel_is_told_with_the_engines_status_or_after_a_while_without() {
        let (mut log, at) = (VerdictLog::default(), at());
        let now = Moment::from_secs(100);
        assert!(log.is_due(&at, &announce(), now));
        assert!(!log.is_due(&at, &state(ContainerState::Ended), now));
        assert!(log.is_due(&at, &state(ContainerState::Exited(137)), now));
        assert_eq!(log.next(), None);
        assert!(log.is_due(&at, &announce(), now));
        let ended = state(ContainerState::Ended);
        assert!(!log.is_due(&at, &ended, now));
        assert_eq!(log.overdue(now + PASSING), [(at.clone(), ended.clone())]);
        assert!(log.is_due(&at, &ended, now + PASSING));
    }

    #[test]
    fn a_reason_that_stands_is_told_once() {
        let (mut log, at) = (VerdictLog::default(), at());
        let (now, reason) = (Moment::from_secs(100), state(ContainerState::Created));
        assert!(!log.is_due(&at, &reason, now));
        assert_eq!(log.next(), Some(now + PASSING));
        assert_eq!(log.overdue(now + PASSING - Duration::from_nanos(1)), []);
        assert_eq!(log.overdue(now + PASSING), [(at.clone(), reason.clone())]);
        assert!(log.is_due(&at, &reason, now + PASSING));
        assert!(!log.is_due(&at, &reason, now + 2 * PASSING));
        assert_eq!(log.next(), None);
    }
}
