//! What systemd is told: READY, STATUS, WATCHDOG, STOPPING. Nothing, where it doesn't listen.

use crate::backoff::Outage;
use crate::clock::{Moment, now};
use sd_notify::NotifyState;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tracing::{debug, error};

/// A loop that hasn't come round for so long is stuck: every await in every loop has a deadline
/// far below this.
const STUCK: Duration = Duration::from_secs(30);

/// A loop's sign of life, in milliseconds of [`now`].
#[derive(Debug, Clone, Default)]
pub struct Pulse(Arc<AtomicU64>);

impl Pulse {
    /// The loop came round.
    pub fn beat(&self) {
        let ms = u64::try_from(now().as_millis()).unwrap_or(u64::MAX);
        self.0.store(ms, Ordering::Relaxed);
    }

    fn last(&self) -> Moment {
        Moment::from_millis(self.0.load(Ordering::Relaxed))
    }
}

/// The connection to the service manager.
#[derive(Debug, Default)]
pub struct Systemd {
    status: String,
    pulses: Vec<(&'static str, Pulse)>,
    /// A loop that is stuck, as far as the log is concerned.
    stuck: Outage,
}

impl Systemd {
    /// A new loop that the watchdog minds from now on.
    pub fn pulse(&mut self, name: &'static str) -> Pulse {
        let pulse = Pulse(Arc::default());
        pulse.beat();
        self.pulses.push((name, pulse.clone()));
        pulse
    }

    /// The configuration holds and the loops run.
    pub fn ready(&self) {
        tell(&[NotifyState::Ready]);
    }

    /// What it is doing, in words; sent when it changes.
    pub fn status(&mut self, text: String) {
        if text != self.status {
            tell(&[NotifyState::Status(&text)]);
            self.status = text;
        }
    }

    /// It stops now.
    pub fn stopping(&self) {
        tell(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
    }

    /// How often [`Systemd::alive`] wants to be called: twice in each of systemd's periods, and
    /// `None` where it set no watchdog.
    #[must_use]
    pub fn watchdog_interval() -> Option<Duration> {
        sd_notify::watchdog_enabled().map(|period| period / 2)
    }

    /// Feeds the watchdog, unless a loop is stuck.
    pub fn alive(&mut self) {
        let now = now();
        let stuck = |(_, pulse): &&(_, Pulse)| now.saturating_sub(pulse.last()) > STUCK;
        let Some((name, _)) = self.pulses.iter().find(stuck) else {
            self.stuck.recovered(now);
            return tell(&[NotifyState::Watchdog]);
        };
        if self.stuck.failed(now).is_some() {
            error!("the {name} loop is stuck; not feeding the watchdog");
        }
    }
}

fn tell(state: &[NotifyState<'_>]) {
    // A service manager that doesn't take a datagram is no reason to stop serving.
    if let Err(error) = sd_notify::notify(state) {
        debug!("sd_notify: {error}");
    }
}
