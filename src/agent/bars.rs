//! Fronts that HAProxy can't listen for: who it is, and when each is tried again. Pure.
//!
//! One address that can't be had would keep HAProxy from taking any new configuration.

use super::layout::{Bind, Model, STATS};
use super::parse::original_name;
use crate::clock::Moment;
use std::collections::BTreeMap;
use std::time::Duration;

/// How soon a port that we saw to be in use is looked at again: looking costs nothing.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How soon an address that HAProxy failed to bind is tried again. While HAProxy tries, all of its
/// listeners pause for up to two seconds (seen with 2.6), so the pauses double up to the second.
pub(super) const TRY_AGAIN: Duration = Duration::from_secs(30);
pub(super) const TRY_AGAIN_AT_MOST: Duration = Duration::from_secs(1800);

/// A service, and where it was to listen.
pub(super) type Place = (String, Bind);

/// Who is left out for now.
#[derive(Debug)]
pub(super) struct Bars {
    barred: BTreeMap<Place, Bar>,
    /// How many new fronts one reload may bring. Halved when a reload fails for a listener and HAProxy doesn't
    /// say whose.
    daring: usize,
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
    pub(super) fn active(&mut self, now: Moment) -> BTreeMap<Place, String> {
        self.barred.retain(|_, bar| now < bar.until + bar.pause);
        let active = self.barred.iter().filter(|(_, bar)| bar.until > now);
        let active = active.map(|(place, bar)| (place.clone(), bar.why.clone()));
        active.collect()
    }

    /// When the next is to be tried again.
    pub(super) fn next_try(&self, now: Moment) -> Option<Moment> {
        let times = self.barred.values().map(|bar| bar.until);
        times.filter(|until| *until > now).min()
    }

    /// How many new fronts the next reload may bring.
    pub(super) const fn daring(&self) -> usize {
        self.daring
    }

    /// It can be seen without trying that HAProxy couldn't listen there.
    pub(super) fn hopeless(&mut self, place: Place, why: String, now: Moment) {
        let bar = Bar {
            why,
            until: now + LOOK_AGAIN,
            pause: LOOK_AGAIN,
        };
        self.barred.insert(place, bar);
    }

    /// A reload with these new fronts failed. HAProxy says whose fault it was, or says nothing
    /// and there is only one, or fewer are let in at the next try.
    pub(super) fn blame(&mut self, new: &[Place], log: &str, now: Moment) {
        let mut named = accused(log);
        // One that says something else died of something else.
        if let [(only, _)] = new
            && log.is_empty()
        {
            named.insert(only.clone(), "HAProxy couldn't listen there".to_owned());
        }
        let guilty: Vec<_> = new
            .iter()
            .filter_map(|place| Some((place, named.remove(&place.0)?)))
            .collect();
        if guilty.is_empty() && may_be_a_listener(log) {
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
    pub(super) fn proven(&mut self, model: &Model) {
        self.daring = self.daring.saturating_mul(2);
        self.barred
            .retain(|(name, bind), _| !model.binds().any(|front| front == (name, *bind)));
    }
}

/// Whether what HAProxy says of a failed reload leaves room for a listener's fault. Fewer new listeners
/// help against no other: a service that HAProxy listens for would go for nothing.
fn may_be_a_listener(log: &str) -> bool {
    log.is_empty() || log.contains("bind") || log.contains("listener")
}

/// The services that HAProxy names when it can't bind, with its words: "Binding [file:22] for proxy
/// web: cannot bind socket (Address already in use) for [:::80]".
fn accused(log: &str) -> BTreeMap<String, String> {
    let lines = log.lines().filter(|line| line.contains("cannot bind"));
    let named = lines.filter_map(|line| line.split_once("proxy ")?.1.split_once(": "));
    named
        .filter_map(|(name, why)| {
            let name = if name == STATS {
                STATS.to_owned()
            } else {
                original_name(name)?
            };
            Some((name, format!("HAProxy says {why:?}")))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn haproxy_is_understood_when_it_names_the_guilty() {
        let log = "Binding [/etc/haproxy/haproxy.cfg:22] for proxy redis::1: cannot bind socket (Address already in use) for [:::80]\n\
                   [haproxy.main()] Some protocols failed to start their listeners! Exiting.";
        let why =
            "HAProxy says \"cannot bind socket (Address already in use) for [:::80]\"".to_owned();
        assert_eq!(accused(log), BTreeMap::from([("redis@1".to_owned(), why)]));
    }

    /// All but one of the services that HAProxy listens for used to go with the first reload that came through
    /// after one had failed for want of files, where what HAProxy listened on couldn't be told.
    #[test]
    fn a_reload_that_fails_for_another_reason_leaves_no_service_out() {
        let new = ["a", "b", "c"].map(|name| (name.to_owned(), ":80".parse().unwrap()));
        let now = Moment::from_secs(1);
        let mut bars = Bars::default();
        bars.blame(
            &new,
            "[ALERT] [haproxy.main()] Cannot raise FD limit to 2000075",
            now,
        );
        assert_eq!(bars.daring(), usize::MAX);
        bars.blame(
            &new,
            "[ALERT] [haproxy.main()] Some protocols failed to start their listeners! Exiting.",
            now,
        );
        assert_eq!(bars.daring(), 1);
    }

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
