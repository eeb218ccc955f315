//! Listeners that HAProxy failed to bind: which they are, and when each is tried again. Pure.
//!
//! One address that cannot be bound would keep HAProxy from loading any new configuration.

use crate::agent::model::bind::Bind;
use crate::agent::model::listeners::Model;
use crate::clock::Moment;
use std::collections::BTreeMap;
use std::time::Duration;

/// How soon a port that another process uses is looked at again: looking costs nothing.
const PORT_IN_USE_RETRY: Duration = Duration::from_secs(1);

/// How soon an address that HAProxy failed to bind is tried again. While HAProxy tries, all of its listeners
/// pause for up to two seconds (seen with 2.6), so the pauses double up to the maximum.
pub(crate) const FAILED_BIND_RETRY: Duration = Duration::from_secs(30);
pub(crate) const MAX_FAILED_BIND_RETRY: Duration = Duration::from_secs(1800);

/// A service and where it is to listen.
pub(crate) type ServiceBind = (String, Bind);

/// The listeners that are left out for now.
#[derive(Debug)]
pub(crate) struct BindBackoff {
    backed_off: BTreeMap<ServiceBind, BackoffEntry>,
    /// How many new listeners one reload may bring. Halved when a reload fails for a listener and HAProxy
    /// does not say which.
    max_new_listeners: usize,
}

/// Why HAProxy failed to reload, as far as its listeners are concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReloadFailure {
    /// HAProxy said nothing.
    Unknown,
    /// HAProxy cannot bind: the services that it names, each with HAProxy's words; none if it names none.
    Listeners(BTreeMap<String, String>),
    /// Something that fewer new listeners do not help against.
    Other,
}

#[derive(Debug)]
struct BackoffEntry {
    why: String,
    until: Moment,
    pause: Duration,
}

impl Default for BindBackoff {
    fn default() -> Self {
        Self {
            backed_off: BTreeMap::new(),
            max_new_listeners: usize::MAX,
        }
    }
}

impl BindBackoff {
    /// The listeners that are left out at `now`, and why. An entry expires one pause after its retry time.
    pub(crate) fn active(&mut self, now: Moment) -> BTreeMap<ServiceBind, String> {
        self.backed_off
            .retain(|_, entry| now < entry.until + entry.pause);
        let active = self
            .backed_off
            .iter()
            .filter(|(_, entry)| entry.until > now);
        let active = active.map(|(place, entry)| (place.clone(), entry.why.clone()));
        active.collect()
    }

    /// The next retry time after `now`.
    pub(crate) fn next_try(&self, now: Moment) -> Option<Moment> {
        let times = self.backed_off.values().map(|entry| entry.until);
        times.filter(|until| *until > now).min()
    }

    /// How many new listeners the next reload may bring.
    pub(crate) const fn max_new_listeners(&self) -> usize {
        self.max_new_listeners
    }

    /// Another process uses the port, as can be seen without a reload.
    pub(crate) fn port_in_use(&mut self, place: ServiceBind, why: String, now: Moment) {
        let entry = BackoffEntry {
            why,
            until: now + PORT_IN_USE_RETRY,
            pause: PORT_IN_USE_RETRY,
        };
        self.backed_off.insert(place, entry);
    }

    /// A reload with these new listeners failed. Backs off those that HAProxy named, or the only one; else
    /// fewer are tried next time.
    pub(crate) fn reload_failed(&mut self, new: &[ServiceBind], cause: ReloadFailure, now: Moment) {
        let mut named = match (cause, new) {
            (ReloadFailure::Other, _) => return,
            (ReloadFailure::Listeners(named), _) => named,
            (ReloadFailure::Unknown, [(only, _)]) => {
                BTreeMap::from([(only.clone(), "HAProxy cannot listen there".to_owned())])
            }
            (ReloadFailure::Unknown, _) => BTreeMap::new(),
        };
        let guilty: Vec<_> = new
            .iter()
            .filter_map(|place| Some((place, named.remove(&place.0)?)))
            .collect();
        if guilty.is_empty() {
            self.max_new_listeners = (new.len() / 2).max(1);
        }
        for (place, why) in guilty {
            let before = self.backed_off.get(place).map(|entry| entry.pause);
            let pause = before.map_or(FAILED_BIND_RETRY, |p| {
                (p * 2).clamp(FAILED_BIND_RETRY, MAX_FAILED_BIND_RETRY)
            });
            let entry = BackoffEntry {
                why,
                until: now + pause,
                pause,
            };
            self.backed_off.insert(place.clone(), entry);
        }
    }

    /// HAProxy has bound all listeners of the model.
    pub(crate) fn bound(&mut self, model: &Model) {
        self.max_new_listeners = self.max_new_listeners.saturating_mul(2);
        self.backed_off
            .retain(|(name, bind), _| !model.binds().any(|listener| listener == (name, *bind)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each service whose port was in use once used to be remembered for ever.
    #[test]
    fn whoever_is_gone_is_forgotten() {
        let mut bind_backoff = BindBackoff::default();
        for n in 0..1000 {
            let now = Moment::from_secs(n);
            let place = (format!("s{n}"), ":80".parse().unwrap());
            bind_backoff.port_in_use(place, "another process listens there".to_owned(), now);
            assert_eq!(bind_backoff.active(now).len(), 1);
            assert!(
                bind_backoff.backed_off.len() <= 2,
                "{}",
                bind_backoff.backed_off.len()
            );
        }
    }
}
