//! The check of a service: where it asks, and what its answers come to. Pure.

use super::check_settings::CheckSettings;
use super::container::{ContainerPort, ContainerSnapshot};
use super::eligibility::Decision;
use super::life::Life;
use super::reason::Reason;
use crate::clock::Moment;
use crate::endpoint::{Host, Protocol};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// What a starting server is asked again after its first wrong answer; after each further one twice as late. So waiting for
/// it costs the start no more time than the server took until then.
const START_PAUSE: Duration = Duration::from_millis(10);

/// An answer that doesn't count yet is asked about again after this time at the latest.
const DOUBT_PAUSE: Duration = Duration::from_secs(1);

/// What is checked: one port of a container, in one life of it, before it has outlived a stop or since.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CheckSubject {
    /// Which life of the container; `None` where the engine tells no start.
    pub life: Option<Life>,
    /// Which of its ports.
    pub port: ContainerPort,
    /// What is asked, and how often.
    pub settings: CheckSettings,
    /// Since when the container has outlived its stop: what was answered before proves nothing.
    pub outlived_since: Option<Moment>,
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
    /// port the engine's proxy accepts connections for an application that is dead. Who has outlived a stop is asked there
    /// alone.
    ///
    /// # Errors
    /// [`Reason::Uncheckable`].
    pub fn of(
        container: &ContainerSnapshot,
        decision: &Decision,
        settings: CheckSettings,
        outlived_since: Option<Moment>,
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
            outlived_since,
        };
        let own_alone = outlived_since.is_some() && decision.binding.is_some();
        Ok(Self {
            subject,
            addresses: own.chain((!own_alone).then_some(published)).collect(),
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
#[derive(Debug)]
pub struct CheckProgress<'a> {
    settings: &'a CheckSettings,
    result: Option<CheckResult>,
    /// No answer of this life was right yet.
    is_starting: bool,
    /// Right answers in a row; 0 after a wrong one.
    successes: u32,
    /// Wrong answers in a row; 0 after a right one.
    failures: u32,
}

impl<'a> CheckProgress<'a> {
    /// After what it has come to already.
    #[must_use]
    pub fn after(settings: &'a CheckSettings, result: Option<CheckResult>) -> Self {
        Self {
            settings,
            is_starting: result != Some(CheckResult::Passing),
            result,
            successes: 0,
            failures: 0,
        }
    }

    /// Counts an answer. Returns the result where it is another one now.
    pub fn answered(&mut self, answer: Result<(), String>) -> Option<CheckResult> {
        let result = match answer {
            Ok(()) => {
                self.is_starting = false;
                (self.successes, self.failures) = (self.successes.saturating_add(1), 0);
                CheckResult::Passing
            }
            Err(why) => {
                (self.successes, self.failures) = (0, self.failures.saturating_add(1));
                CheckResult::Failing(why)
            }
        };
        let counts = self.contradicts() && self.counts();
        if counts {
            self.result = Some(result.clone());
        }
        counts.then_some(result)
    }

    /// Whether the last answers say something else than the result.
    const fn contradicts(&self) -> bool {
        match self.result {
            Some(CheckResult::Passing) => self.failures > 0,
            Some(CheckResult::Failing(_)) => self.successes > 0,
            None => self.successes > 0 || self.failures > 0,
        }
    }

    /// Whether there are enough answers in a row. A start has the time that an instance in doubt has, however often it
    /// was asked meanwhile: a server that takes half a second to listen is no failure.
    fn counts(&self) -> bool {
        let is_given_time = self.is_starting && self.start_pause() < self.doubt_pause();
        let fails = self.failures >= self.settings.fall && !is_given_time;
        fails || self.successes >= self.settings.rise
    }

    /// Until the next question.
    #[must_use]
    pub fn pause(&self) -> Duration {
        if self.is_starting {
            self.start_pause()
        } else if self.contradicts() {
            self.doubt_pause()
        } else {
            self.settings.interval
        }
    }

    fn start_pause(&self) -> Duration {
        let doublings = self.failures.saturating_sub(1);
        let pause = START_PAUSE.saturating_mul(2_u32.saturating_pow(doublings));
        pause.min(self.settings.interval)
    }

    fn doubt_pause(&self) -> Duration {
        self.settings.interval.min(DOUBT_PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::super::check_settings::CheckKind;
    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    fn settings(rise: u32, fall: u32) -> CheckSettings {
        CheckSettings {
            interval: LONG,
            rise,
            fall,
            ..CheckSettings::of(CheckKind::Tcp)
        }
    }

    fn wrong() -> Result<(), String> {
        Err("refused".to_owned())
    }

    fn failing() -> Option<CheckResult> {
        Some(CheckResult::Failing("refused".to_owned()))
    }

    #[test]
    fn one_answer_passes_three_failures_in_a_row_fail_and_doubt_is_short() {
        let settings = settings(1, 3);
        let mut progress = CheckProgress::after(&settings, None);
        assert_eq!(progress.answered(wrong()), None);
        assert_eq!(progress.answered(Ok(())), Some(CheckResult::Passing));
        assert_eq!(progress.pause(), LONG);
        for _ in 0..2 {
            assert_eq!(
                (progress.answered(wrong()), progress.answered(wrong())),
                (None, None)
            );
            assert_eq!(progress.pause(), DOUBT_PAUSE);
            assert_eq!(progress.answered(Ok(())), None, "it passes still");
        }
        assert_eq!(
            (progress.answered(wrong()), progress.answered(wrong())),
            (None, None)
        );
        assert_eq!(progress.answered(wrong()), failing());
        assert_eq!(progress.pause(), LONG);
        assert_eq!(progress.answered(Err("other words".to_owned())), None);
        assert_eq!(progress.answered(Ok(())), Some(CheckResult::Passing));
    }

    #[test]
    fn a_check_passes_after_rise_right_answers_and_fails_after_fall_wrong_ones() {
        let settings = settings(2, 1);
        let mut progress = CheckProgress::after(&settings, None);
        assert_eq!(progress.answered(Ok(())), None);
        assert_eq!(progress.pause(), DOUBT_PAUSE);
        assert_eq!(progress.answered(Ok(())), Some(CheckResult::Passing));
        assert_eq!(progress.pause(), LONG);
        assert_eq!(progress.answered(wrong()), failing());
        assert_eq!(progress.answered(Ok(())), None);
        assert_eq!(progress.pause(), DOUBT_PAUSE);
        assert_eq!(progress.answered(wrong()), None, "it fails still");
        assert_eq!(progress.answered(Ok(())), None, "counted from the start");
        assert_eq!(progress.answered(Ok(())), Some(CheckResult::Passing));
    }

    #[test]
    fn a_start_is_asked_again_after_ten_milliseconds_then_twice_as_late_up_to_the_interval() {
        let settings = settings(1, 3);
        let mut progress = CheckProgress::after(&settings, None);
        let mut pauses = Vec::new();
        let mut failed = None;
        for asked in 1..=12 {
            if progress.answered(wrong()).is_some() {
                failed = Some(asked);
            }
            pauses.push(progress.pause().as_millis());
        }
        let doubled = [10, 20, 40, 80, 160, 320, 640, 1_280, 2_560, 5_120];
        assert_eq!(pauses[..10], doubled);
        assert_eq!(pauses[10..], [10_000, 10_000]);
        assert_eq!(failed, Some(8), "after 1.27 s, and not after 30 ms");
        assert_eq!(progress.answered(Ok(())), Some(CheckResult::Passing));
        assert_eq!(progress.answered(wrong()), None);
        assert_eq!(progress.pause(), DOUBT_PAUSE, "the start is over");
    }

    #[test]
    fn a_start_waits_no_longer_than_it_has_waited_already() {
        let settings = settings(1, 3);
        let mut progress = CheckProgress::after(&settings, None);
        let mut waited = Duration::ZERO;
        for _ in 0..10 {
            let _ = progress.answered(wrong());
            assert!(progress.pause() <= waited + START_PAUSE);
            waited += progress.pause();
        }
    }

    #[test]
    fn a_start_with_a_short_interval_is_asked_no_less_often_than_that() {
        let settings = CheckSettings {
            interval: Duration::from_millis(100),
            ..settings(1, 3)
        };
        let mut progress = CheckProgress::after(&settings, None);
        let mut results = Vec::new();
        for _ in 0..5 {
            results.push(progress.answered(wrong()));
        }
        assert_eq!(results, [None, None, None, None, failing()]);
        for _ in 0..40 {
            let _ = progress.answered(wrong());
        }
        assert_eq!(progress.pause(), settings.interval);
    }

    #[test]
    fn a_check_that_asks_elsewhere_keeps_its_result() {
        let settings = settings(1, 3);
        let mut passes = CheckProgress::after(&settings, Some(CheckResult::Passing));
        assert_eq!(passes.answered(wrong()), None);
        assert_eq!(passes.pause(), DOUBT_PAUSE);
        let mut fails = CheckProgress::after(&settings, failing());
        assert_eq!(fails.answered(wrong()), None);
        assert_eq!(fails.pause(), START_PAUSE);
        assert_eq!(fails.answered(Ok(())), Some(CheckResult::Passing));
    }
}
