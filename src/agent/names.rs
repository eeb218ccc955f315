//! Finds the addresses of host names. HAProxy would look a name up once, or never. A name that stops
//! resolving keeps its last address.

use super::addresses::Addresses;
use crate::backoff::Outage;
use crate::clock::now;
use crate::systemd::Pulse;
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;
use tokio::net::lookup_host;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{info, warn};

/// How often each name is looked up.
const AGAIN: Duration = Duration::from_secs(30);

/// How soon a name that has never resolved is looked up again.
const MISSING_AGAIN: Duration = Duration::from_secs(2);

/// One look-up. A resolver that is down takes 5 s by default to say so (resolv.conf(5)); the thread
/// that waits for it isn't ours to end.
const LOOKUP: Duration = Duration::from_secs(3);

/// So many look-ups at once: each takes a thread.
const AT_ONCE: usize = 16;

/// Addresses of names that nobody wants any more are kept, for they may come back while the resolver is
/// down; of more than so many, none.
const UNWANTED: usize = 1024;

/// Names that don't resolve, or lately didn't, as far as the log is concerned.
type Failing = BTreeMap<String, Outage>;

/// Keeps `found` up to date for `wanted`, for ever.
pub async fn resolve(
    mut wanted: watch::Receiver<BTreeSet<String>>,
    found: watch::Sender<Addresses>,
    pulse: Pulse,
) {
    let mut failing = Failing::new();
    let mut all_again = Instant::now();
    loop {
        let names = wanted.borrow_and_update().clone();
        let all = Instant::now() >= all_again;
        if all {
            all_again = Instant::now() + AGAIN;
        }
        let known = found.borrow().clone();
        let due = names.iter().filter(|name| all || known.get(name).is_none());
        look_up(due.cloned().collect(), &found, &mut failing, &pulse).await;
        failing.retain(|name, _| names.contains(name));
        forget(&names, &found);
        let missing = names.iter().any(|name| found.borrow().get(name).is_none());
        let soon = Instant::now() + MISSING_AGAIN;
        let next = if missing {
            soon.min(all_again)
        } else {
            all_again
        };
        loop {
            pulse.beat();
            let beat = Instant::now() + Duration::from_secs(5);
            // Cancel-safe: a watch channel keeps its mark, a sleep has no effect. A sender that is
            // gone is noticed by whoever owns its task.
            tokio::select! {
                Ok(()) = wanted.changed() => break,
                () = sleep_until(next.min(beat)) => if Instant::now() >= next { break },
            }
        }
    }
}

/// Each once.
pub async fn once(names: BTreeSet<String>) -> Addresses {
    let (found, _) = watch::channel(Addresses::default());
    look_up(
        names.into_iter().collect(),
        &found,
        &mut Failing::new(),
        &Pulse::default(),
    )
    .await;
    found.borrow().clone()
}

/// Keeps what is known from growing with every name that ever was. Before anything is wanted it is what
/// the file remembers.
fn forget(wanted: &BTreeSet<String>, found: &watch::Sender<Addresses>) {
    if !wanted.is_empty() && found.borrow().count() > wanted.len() + UNWANTED {
        found.send_modify(|all| all.retain(|name| wanted.contains(name)));
    }
}

/// Looks them all up, some at a time, and tells of each as it is found.
async fn look_up(
    names: Vec<String>,
    found: &watch::Sender<Addresses>,
    failing: &mut Failing,
    pulse: &Pulse,
) {
    let mut names = names.into_iter();
    let mut running: FuturesUnordered<_> = names.by_ref().take(AT_ONCE).map(look_up_one).collect();
    while let Some((name, result)) = running.next().await {
        pulse.beat();
        running.extend(names.next().map(look_up_one));
        let before = found.borrow().get(&name);
        match result.map(|addresses| choose(&name, &addresses, before)) {
            Ok(Some(address)) => {
                let outage = failing.get_mut(&name);
                if outage.is_some_and(|outage| outage.recovered(now()).is_some()) {
                    info!("{name} resolves again, to {address}");
                }
                if before != Some(address) {
                    found.send_modify(|all| all.insert(name, address));
                }
            }
            Ok(None) => complain(&name, "no usable address", before, failing),
            Err(why) => complain(&name, &why, before, failing),
        }
    }
}

async fn look_up_one(name: String) -> (String, Result<Vec<IpAddr>, String>) {
    let result = match timeout(LOOKUP, lookup_host((name.as_str(), 0))).await {
        Ok(Ok(addresses)) => Ok(addresses
            .map(|address| address.ip().to_canonical())
            .collect()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", LOOKUP.as_secs())),
    };
    (name, result)
}

fn complain(name: &str, why: &str, before: Option<IpAddr>, failing: &mut Failing) {
    let outage = failing.entry(name.to_owned()).or_default();
    // Once while it lasts: there may be thousands of names.
    if outage.since().is_none() && outage.failed(now()).is_some() {
        match before {
            Some(address) => {
                warn!("{name} doesn't resolve any more, staying with {address}: {why}")
            }
            None => warn!("{name} doesn't resolve, its instances wait: {why}"),
        }
    }
}

/// The same as before while it is among them, so that a round-robin answer moves nobody; else IPv4
/// first, which every Docker host has. A name for this very machine is often 127.0.1.1 in its own
/// /etc/hosts; any other name on a loopback address is somebody's trick.
fn choose(name: &str, addresses: &[IpAddr], before: Option<IpAddr>) -> Option<IpAddr> {
    let dialable = |ip: &&IpAddr| {
        !ip.is_unspecified() && !ip.is_multicast() && (!ip.is_loopback() || is_this_machine(name))
    };
    let usable = || addresses.iter().filter(dialable);
    let same = usable().find(|ip| Some(**ip) == before);
    same.or_else(|| usable().find(|ip| ip.is_ipv4()))
        .or_else(|| usable().next())
        .copied()
}

fn is_this_machine(name: &str) -> bool {
    let own = hostname::get().ok().and_then(|own| own.into_string().ok());
    own.is_some_and(|own| own.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_address_stays_while_it_is_among_them() {
        let both = ips(&["fd00::1", "10.0.0.1", "10.0.0.2"]);
        assert_eq!(choose("db", &both, None), Some(both[1]));
        assert_eq!(choose("db", &both, Some(both[2])), Some(both[2]));
        assert_eq!(choose("db", &both[..1], Some(both[2])), Some(both[0]));
    }

    #[test]
    fn a_strangers_name_on_loopback_is_no_address() {
        assert_eq!(
            choose(
                "evil.example.com",
                &ips(&["127.0.0.1", "::1", "0.0.0.0"]),
                None
            ),
            None
        );
    }

    #[tokio::test]
    async fn a_name_that_stops_resolving_keeps_its_last_address() {
        let last: Addresses = [("gone.invalid".to_owned(), "10.0.0.9".parse().unwrap())]
            .into_iter()
            .collect();
        let (found, seen) = watch::channel(last.clone());
        let mut failing = Failing::new();
        look_up(
            vec!["gone.invalid".to_owned()],
            &found,
            &mut failing,
            &Pulse::default(),
        )
        .await;
        assert_eq!((seen.borrow().clone(), failing.len()), (last, 1));
    }
    /// Every name that ever was used to stay, on a cluster where each container has one of its own.
    #[test]
    fn names_that_nobody_wants_any_more_do_not_pile_up() {
        let name = |n: usize| format!("host-{n}");
        let found = watch::Sender::new(Addresses::default());
        let mut most = 0;
        for n in 0..10 * UNWANTED {
            let wanted = BTreeSet::from([name(n), "steady".to_owned()]);
            for name in &wanted {
                let address = "10.0.0.9".parse().unwrap();
                found.send_modify(|all| all.insert(name.clone(), address));
            }
            forget(&wanted, &found);
            most = most.max(found.borrow().count());
        }
        assert_eq!(most, UNWANTED + 2);
        assert!(found.borrow().get("steady").is_some());
        assert!(found.borrow().get(&name(10 * UNWANTED - 2)).is_some());
    }
}
