//! The check of a service: where it asks, and what its answers come to. Pure.

use super::check_settings::CheckSettings;
use super::container::{ContainerPort, ContainerSnapshot};
use super::eligibility::Decision;
use super::life::Life;
use super::reason::Reason;
use crate::endpoint::{Host, Protocol};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// Failures in a row that count: one may be a lost packet.
const FALL: u32 = 3;

/// A failure that doesn't count yet is asked about again after this time at the latest.
const DOUBT_PAUSE: Duration = Duration::from_secs(1);

/// What is checked: one port of a container, in one life of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CheckSubject {
    /// Which life of the container; `None` where the engine tells no start.
    pub life: Option<Life>,
    /// Which of its ports.
    pub port: ContainerPort,
    /// What is asked, and how often.
    pub settings: CheckSettings,
}

/// A check, and where it asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckTarget {
    /// What is checked. Its result outlives a change of addresses.
    pub subject: CheckSubject,
    /// Where the port is asked: at the first of these that can be reached.
    pub addresses: Vec<CheckAddress>,
}

/// Where a check may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckAddress {
    /// The address.
    pub address: SocketAddr,
    /// The gateway of the container's network, whose own address it is. Where that isn't an address of this machine, the
    /// same address may belong to another machine. `None` for the published address.
    pub gateway: Option<IpAddr>,
}

impl CheckTarget {
    /// The check of what is about to be announced. It asks at the container's own addresses first: behind a published
    /// port the engine's proxy accepts connections for an application that is dead.
    ///
    /// # Errors
    /// [`Reason::Uncheckable`].
    pub fn of(
        container: &ContainerSnapshot,
        decision: &Decision,
        settings: CheckSettings,
    ) -> Result<Self, Reason> {
        let port = decision.container_port;
        if port.protocol != Protocol::Tcp {
            return Err(Reason::Uncheckable(port));
        }
        let own = container.addresses.iter();
        let own = own.map(|(ip, gateway)| CheckAddress {
            address: SocketAddr::new(*ip, port.number.get()),
            gateway: Some(*gateway),
        });
        let ip = match (
            decision.binding.map(|binding| binding.ip),
            &decision.endpoint.host,
        ) {
            (Some(ip), _) if !ip.is_unspecified() => ip,
            (_, Host::Ip(ip)) => *ip,
            (Some(IpAddr::V6(_)), Host::Name(_)) => Ipv6Addr::LOCALHOST.into(),
            (_, Host::Name(_)) => Ipv4Addr::LOCALHOST.into(),
        };
        let published = CheckAddress {
            address: SocketAddr::new(ip, decision.endpoint.port.get()),
            gateway: None,
        };
        let subject = CheckSubject {
            life: container.life(),
            port,
            settings,
        };
        Ok(Self {
            subject,
            addresses: own.chain([published]).collect(),
        })
    }
}

/// What a check has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckResult {
    /// The last answer that counts was right.
    Passing,
    /// So many answers in a row were wrong; what the last one was.
    Failing(String),
}

/// The results of all checks that have one.
pub type CheckResults = BTreeMap<CheckSubject, CheckResult>;

/// The checks that are to run, and where each asks.
pub type WantedChecks = BTreeMap<CheckSubject, Vec<CheckAddress>>;

/// The answers to one check so far.
#[derive(Debug, Default)]
pub struct CheckProgress {
    failures: u32,
    result: Option<CheckResult>,
}

impl CheckProgress {
    /// After what it has come to already.
    #[must_use]
    pub const fn after(result: Option<CheckResult>) -> Self {
        Self {
            failures: 0,
            result,
        }
    }

    /// Counts an answer. Returns the result where it is another one now.
    pub fn answered(&mut self, answer: Result<(), String>) -> Option<CheckResult> {
        let result = match answer {
            Ok(()) => {
                self.failures = 0;
                CheckResult::Passing
            }
            Err(why) => {
                self.failures = self.failures.saturating_add(1);
                CheckResult::Failing(why)
            }
        };
        let counts = match (&result, &self.result) {
            (CheckResult::Passing, Some(CheckResult::Passing))
            | (CheckResult::Failing(_), Some(CheckResult::Failing(_))) => false,
            (CheckResult::Passing, _) => true,
            (CheckResult::Failing(_), _) => self.failures >= FALL,
        };
        if counts {
            self.result = Some(result.clone());
        }
        counts.then_some(result)
    }

    /// Until the next question.
    #[must_use]
    pub fn pause(&self, interval: Duration) -> Duration {
        let in_doubt = (1..FALL).contains(&self.failures)
            && !matches!(self.result, Some(CheckResult::Failing(_)));
        if in_doubt {
            interval.min(DOUBT_PAUSE)
        } else {
            interval
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_answer_passes_three_failures_in_a_row_fail_and_doubt_is_short() {
        let mut progress = CheckProgress::default();
        let (long, why) = (Duration::from_secs(10), || Err("refused".to_owned()));
        let failing = Some(CheckResult::Failing("refused".to_owned()));
        assert_eq!(progress.answered(why()), None);
        assert_eq!(progress.pause(long), DOUBT_PAUSE, "a container that starts");
        let short = Duration::from_millis(100);
        assert_eq!(progress.pause(short), short);
        assert_eq!(progress.answered(Ok(())), Some(CheckResult::Passing));
        assert_eq!(progress.pause(long), long);
        for _ in 0..2 {
            assert_eq!(
                (progress.answered(why()), progress.answered(why())),
                (None, None)
            );
            assert_eq!(progress.pause(long), DOUBT_PAUSE);
            assert_eq!(progress.answered(Ok(())), None, "it passes still");
        }
        assert_eq!(
            (progress.answered(why()), progress.answered(why())),
            (None, None)
        );
        assert_eq!(progress.answered(why()), failing);
        assert_eq!(progress.pause(long), long);
        assert_eq!(progress.answered(Err("other words".to_owned())), None);
        assert_eq!(progress.answered(Ok(())), Some(CheckResult::Passing));
    }
}
