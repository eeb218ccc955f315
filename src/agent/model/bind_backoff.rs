//! Fronts that HAProxy can't listen for: who it is, and when each is tried again. Pure.
//!
//! One address that can't be had would keep HAProxy from taking any new configuration.

use crate::agent::model::bind::Bind;
use crate::agent::model::listeners::Model;
use crate::clock::Moment;
use std::collections::BTreeMap;
use std::time::Duration;

/// How soon a port that we saw to be in use is looked at again: looking costs nothing.
const PORT_IN_USE_RETRY: Duration = Duration::from_secs(1);

/// How soon an address that HAProxy failed to bind is tried again. While HAProxy tries, all of its
/// listeners pause for up to two seconds (seen with 2.6), so the pauses double up to the second.
pub(crate) const FAILED_BIND_RETRY: Duration = Duration::from_secs(30);
pub(crate) const MAX_FAILED_BIND_RETRY: Duration = Duration::from_secs(1800);

/// A service, and where it was to listen.
pub(crate) type ServiceBind = (String, Bind);

/// Who is left out for now.
#[derive(Debug)]
pub(crate) struct BindBackoff {
    backed_off: BTreeMap<ServiceBind, BackoffEntry>,
    /// How many new fronts one reload may bring. Halved when a reload fails for a listener and HAProxy doesn't
    /// say whose.
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
    /// Who is left out at `now`, and why. Whose time was up for as long again is nobody's any more.
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

    /// When the next is to be tried again.
    pub(crate) fn next_try(&self, now: Moment) -> Option<Moment> {
        let times = self.backed_off.values().map(|entry| entry.until);
        times.filter(|until| *until > now).min()
    }

    /// How many new fronts the next reload may bring.
    pub(crate) const fn max_new_listeners(&self) -> usize {
        self.max_new_listeners
    }

    /// It can be seen without trying that HAProxy couldn't listen there.
    pub(crate) fn port_in_use(&mut self, place: ServiceBind, why: String, now: Moment) {
        let entry = BackoffEntry {
            why,
            until: now + PORT_IN_USE_RETRY,
            pause: PORT_IN_USE_RETRY,
        };
        self.backed_off.insert(place, entry);
    }

    /// A reload with these new fronts failed. HAProxy says whose fault it was, or says nothing
    /// and there is only one, or fewer are let in at the next try.
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

    /// HAProxy listens for all of those.
    pub(crate) fn bound(&mut self, model: &Model) {
        self.max_new_listeners = self.max_new_listeners.saturating_mul(2);
        self.backed_off
            .retain(|(name, bind), _| !model.binds().any(|listener| listener == (name, *bind)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each service whose port was taken once used to be remembered for ever.
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
