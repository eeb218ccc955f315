//! Fronts that HAProxy can't listen for: who it is, and when each is tried again. Pure.
//!
//! One address that can't be had would keep HAProxy from taking any new configuration.

use crate::agent::model::bind::Bind;
use crate::agent::model::listeners::Model;
use crate::clock::Moment;
use std::collections::BTreeMap;
use std::time::Duration;

/// How soon a port that we saw to be in use is looked at again: looking costs nothing.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How soon an address that HAProxy failed to bind is tried again. While HAProxy tries, all of its
/// listeners pause for up to two seconds (seen with 2.6), so the pauses double up to the second.
pub(crate) const TRY_AGAIN: Duration = Duration::from_secs(30);
pub(crate) const TRY_AGAIN_AT_MOST: Duration = Duration::from_secs(1800);

/// A service, and where it was to listen.
pub(crate) type Place = (String, Bind);

/// Who is left out for now.
#[derive(Debug)]
pub(crate) struct Bars {
    barred: BTreeMap<Place, Bar>,
    /// How many new fronts one reload may bring. Halved when a reload fails for a listener and HAProxy doesn't
    /// say whose.
    daring: usize,
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
struct Bar {
    why: String,
    until: Moment,
    pause: Duration,
}

impl Default for Bars {
    fn default() -> Self {
        Self {
            barred: BTreeMap::new(),
            daring: usize::MAX,
        }
    }
}

impl Bars {
    /// Who is left out at `now`, and why. Whose time was up for as long again is nobody's any more.
    pub(crate) fn active(&mut self, now: Moment) -> BTreeMap<Place, String> {
        self.barred.retain(|_, bar| now < bar.until + bar.pause);
        let active = self.barred.iter().filter(|(_, bar)| bar.until > now);
        let active = active.map(|(place, bar)| (place.clone(), bar.why.clone()));
        active.collect()
    }

    /// When the next is to be tried again.
    pub(crate) fn next_try(&self, now: Moment) -> Option<Moment> {
        let times = self.barred.values().map(|bar| bar.until);
        times.filter(|until| *until > now).min()
    }

    /// How many new fronts the next reload may bring.
    pub(crate) const fn daring(&self) -> usize {
        self.daring
    }

    /// It can be seen without trying that HAProxy couldn't listen there.
    pub(crate) fn hopeless(&mut self, place: Place, why: String, now: Moment) {
        let bar = Bar {
            why,
            until: now + LOOK_AGAIN,
            pause: LOOK_AGAIN,
        };
        self.barred.insert(place, bar);
    }

    /// A reload with these new fronts failed. HAProxy says whose fault it was, or says nothing
    /// and there is only one, or fewer are let in at the next try.
    pub(crate) fn reload_failed(&mut self, new: &[Place], cause: ReloadFailure, now: Moment) {
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
            self.daring = (new.len() / 2).max(1);
        }
        for (place, why) in guilty {
            let before = self.barred.get(place).map(|bar| bar.pause);
            let pause = before.map_or(TRY_AGAIN, |p| (p * 2).clamp(TRY_AGAIN, TRY_AGAIN_AT_MOST));
            let bar = Bar {
                why,
                until: now + pause,
                pause,
            };
            self.barred.insert(place.clone(), bar);
        }
    }

    /// HAProxy listens for all of those.
    pub(crate) fn proven(&mut self, model: &Model) {
        self.daring = self.daring.saturating_mul(2);
        self.barred
            .retain(|(name, bind), _| !model.binds().any(|front| front == (name, *bind)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each service whose port was taken once used to be remembered for ever.
    #[test]
    fn whoever_is_gone_is_forgotten() {
        let mut bars = Bars::default();
        for n in 0..1000 {
            let now = Moment::from_secs(n);
            let place = (format!("s{n}"), ":80".parse().unwrap());
            bars.hopeless(place, "another process listens there".to_owned(), now);
            assert_eq!(bars.active(now).len(), 1);
            assert!(bars.barred.len() <= 2, "{}", bars.barred.len());
        }
    }
}
