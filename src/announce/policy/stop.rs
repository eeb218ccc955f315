//! Stops that are known when they begin: which signal ends a container, and what becomes of its keys until it has
//! ended. Pure.
//!
//! The engine's `kill` event comes right after the signal, the `die` event only after the death: 0.1 s later for an idle
//! Redis, and up to the whole stop timeout for others (moby: daemon/kill.go, daemon/stop.go). No event tells that
//! timeout, so nothing undoes a stop but the container's next life; or, once its own stop timeout is over, checks that
//! pass.

use super::life::Life;
use crate::clock::Moment;
use std::fmt;
use std::time::Duration;

const SIGKILL: u8 = 9;
const SIGTERM: u8 = 15;
/// The C library's; the kernel's own is 32, and Docker counts as the C library does.
const SIGRTMIN: u8 = 34;
const SIGRTMAX: u8 = 64;

/// moby's own, where the container names none.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// A stop that takes this much longer than the container's stop timeout did not end the container.
const STOP_LATENESS: Duration = Duration::from_secs(1);

/// How the engine stops a container, unless the one who stops it says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StopSettings {
    /// The number of `StopSignal`.
    pub signal: u8,
    /// From that signal to SIGKILL; `None`: for ever.
    pub timeout: Option<Duration>,
}

impl Default for StopSettings {
    fn default() -> Self {
        Self {
            signal: SIGTERM,
            timeout: Some(STOP_TIMEOUT),
        }
    }
}

impl StopSettings {
    /// `Config.StopSignal` and `Config.StopTimeout` (in seconds; negative: for ever) of an inspect. A signal that can't be
    /// read is SIGTERM, as for moby.
    #[must_use]
    pub fn of(signal: Option<&str>, timeout: Option<i64>) -> Self {
        Self {
            signal: signal.and_then(parse_signal).unwrap_or(SIGTERM),
            timeout: match timeout {
                None => Some(STOP_TIMEOUT),
                Some(seconds) => u64::try_from(seconds).ok().map(Duration::from_secs),
            },
        }
    }
}

/// A signal's number: of `3`, `QUIT`, `SIGQUIT`, `sigrtmin+3`; `None` where it is none.
#[must_use]
pub fn parse_signal(text: &str) -> Option<u8> {
    if let Ok(number) = text.parse::<u8>() {
        return (1..=SIGRTMAX).contains(&number).then_some(number);
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let real_time = |base: &str, sign: char| {
        let offset = name.strip_prefix(base)?;
        match offset.strip_prefix(sign) {
            Some(offset) => offset.parse::<u8>().ok(),
            None => offset.is_empty().then_some(0),
        }
    };
    let up = real_time("RTMIN", '+').and_then(|n| SIGRTMIN.checked_add(n));
    let real_time = up.or_else(|| SIGRTMAX.checked_sub(real_time("RTMAX", '-')?));
    let named = SIGNALS.iter().find(|(known, _)| *known == name);
    let named = named.map(|(_, number)| *number);
    named.or_else(|| real_time.filter(|n| (SIGRTMIN..=SIGRTMAX).contains(n)))
}

/// signal(7), for all architectures but Alpha, SPARC, MIPS and PA-RISC.
const SIGNALS: &[(&str, u8)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", SIGKILL),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", SIGTERM),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// The engine has sent a container the signal that stops it, or SIGKILL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopUnderWay {
    /// The life that is stopped; `None`: the next that an inspect shows, for the one that was shown last is over.
    life: Option<Life>,
    signal: u8,
    timeout: Option<Duration>,
    /// When the event was read.
    since: Moment,
}

/// How far a stop is that has not ended its container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopProgress {
    /// The container got this signal, and may be busy with it.
    Begun(u8),
    /// The container lives on, although its stop timeout is over.
    Outlived(u8, Duration),
}

impl fmt::Display for StopProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Begun(signal) => write!(f, "its stop has begun (signal {signal})"),
            Self::Outlived(signal, timeout) => write!(
                f,
                "its stop has begun (signal {signal}), and it has outlived its stop timeout of {} s; \
                 it takes no new connections until its next start, or until its checks pass",
                timeout.as_secs()
            ),
        }
    }
}

impl StopUnderWay {
    /// The engine has sent this signal at `now`, to this life or to one that no inspect has shown. `None` where the
    /// signal is neither the one that stops the container nor SIGKILL.
    #[must_use]
    pub fn begun(stop: StopSettings, signal: u8, life: Option<Life>, now: Moment) -> Option<Self> {
        (signal == stop.signal || signal == SIGKILL).then_some(Self {
            life,
            signal,
            timeout: stop.timeout,
            since: now,
        })
    }

    /// Whether it takes the place of the stop that is known: one of another life, or, after another signal than SIGKILL,
    /// SIGKILL or the next stop of a container that has outlived the known one.
    #[must_use]
    pub fn supersedes(&self, known: &Self) -> bool {
        let is_next = || self.is_kill() || known.outlived_since(self.since).is_some();
        self.life != known.life || (!known.is_kill() && is_next())
    }

    /// What is left of it after an inspect, for a stop belongs to one life: the one that is shown, and whether it runs.
    #[must_use]
    pub fn after(self, shown: Option<Life>, runs: bool) -> Option<Self> {
        match &self.life {
            Some(_) => (self.life == shown).then_some(self),
            None if runs => Some(Self {
                life: shown,
                ..self
            }),
            None => Some(self),
        }
    }

    /// Whether that life is stopped.
    #[must_use]
    pub fn is_of(&self, life: &Life) -> bool {
        self.life.as_ref() == Some(life)
    }

    /// Whether the container can't outlive it.
    #[must_use]
    pub const fn is_kill(&self) -> bool {
        self.signal == SIGKILL
    }

    /// How far it is, if the container lives.
    #[must_use]
    pub fn progress(&self, now: Moment) -> StopProgress {
        match self.timeout {
            Some(timeout) if self.outlived_since(now).is_some() => {
                StopProgress::Outlived(self.signal, timeout)
            }
            _ => StopProgress::Begun(self.signal),
        }
    }

    /// When the container will have outlived it; `None` where that moment has passed, or never comes.
    #[must_use]
    pub fn outlived_at(&self, now: Moment) -> Option<Moment> {
        self.deadline().filter(|at| now < *at)
    }

    /// Since when the container has outlived it; `None` where it hasn't.
    #[must_use]
    pub fn outlived_since(&self, now: Moment) -> Option<Moment> {
        self.deadline().filter(|at| now >= *at)
    }

    fn deadline(&self) -> Option<Moment> {
        Some(self.since.saturating_add(self.timeout? + STOP_LATENESS))
    }
}

#[cfg(test)]
mod tests;
