//! Resolves host names, for HAProxy would do that once, or never. A name that stops resolving keeps its last
//! address. `lookups` decides which name is looked up when.

use super::machine;
use crate::agent::model::allow::Allow;
use crate::agent::model::host_addresses::HostAddresses;
mod lookups;

use crate::clock::now;
use crate::log_throttle::LogThrottle;
use crate::systemd::Pulse;
use futures_util::stream::{FuturesUnordered, StreamExt};
use lookups::Lookups;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, ToSocketAddrs};
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

/// How long a command that resolves once waits for a silent DNS server.
const ONCE_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the machine's own addresses are read.
const ADDRESS_POLL_INTERVAL: Duration = Duration::from_secs(5);

/// How many addresses of unused names are kept: the names may be used again while DNS is down.
const MAX_UNWANTED: usize = 1024;

/// Names that do not resolve, or recently did not, for the log.
type FailingNames = BTreeMap<String, LogThrottle>;

/// The addresses, or why there are none.
type LookupResult = Result<Vec<IpAddr>, String>;

/// Keeps `found` up to date for the names in `wanted`, and for the addresses of this machine. Never returns.
/// Uses no address that `allow` refuses.
pub(crate) async fn resolve(
    mut wanted: watch::Receiver<BTreeSet<String>>,
    found: watch::Sender<HostAddresses>,
    allow: Allow,
    pulse: Pulse,
) {
    let mut resolver = Resolver::new(found, allow);
    let mut running = FuturesUnordered::new();
    let mut look = Instant::now();
    loop {
        pulse.beat();
        if Instant::now() >= look {
            resolver.found.send_if_modified(machine::update);
            look = Instant::now() + ADDRESS_POLL_INTERVAL;
        }
        if wanted.has_changed().unwrap_or_default() {
            let wanted = wanted.borrow_and_update().clone();
            resolver.want(&wanted);
        }
        while let Some(name) = resolver.lookups.next(now()) {
            running.push(look_up(name));
        }
        let time = now();
        let next = resolver
            .lookups
            .next_change(time)
            .unwrap_or(time + ADDRESS_POLL_INTERVAL);
        let pause = next.saturating_sub(time).min(ADDRESS_POLL_INTERVAL);
        // Cancel-safe: a watch channel keeps its change mark, a sleep has no effect, and a look-up that is
        // no longer awaited goes on. `run` notices a sender that is gone.
        tokio::select! {
            Ok(()) = wanted.changed() => wanted.mark_changed(),
            Some((name, answer)) = running.next() => resolver.finished(&name, answer),
            () = sleep(pause) => {}
        }
    }
}

/// Looks each name up once, all of them in 5 s at most, and adds the addresses to `known`.
pub(crate) async fn once(
    wanted: BTreeSet<String>,
    known: HostAddresses,
    allow: &Allow,
) -> HostAddresses {
    let mut resolver = Resolver::new(watch::Sender::new(known), allow.clone());
    resolver.want(&wanted);
    let mut running = FuturesUnordered::new();
    let all = async {
        loop {
            while let Some(name) = resolver.lookups.next(now()) {
                running.push(look_up(name));
            }
            match timeout(ONCE_TIMEOUT / 20, running.next()).await {
                Ok(Some((name, answer))) => resolver.finished(&name, answer),
                Ok(None) => break,
                Err(_) => {}
            }
        }
    };
    let _ = timeout(ONCE_TIMEOUT, all).await;
    resolver.found.borrow().clone()
}

/// The state of the resolver's task.
struct Resolver {
    found: watch::Sender<HostAddresses>,
    allow: Allow,
    lookups: Lookups,
    failing: FailingNames,
}

impl Resolver {
    fn new(found: watch::Sender<HostAddresses>, allow: Allow) -> Self {
        Self {
            found,
            allow,
            lookups: Lookups::default(),
            failing: FailingNames::new(),
        }
    }

    fn want(&mut self, names: &BTreeSet<String>) {
        let known = self.found.borrow().clone();
        let has_address = |name: &str| known.get(name).is_some();
        self.lookups.want(names, has_address, now());
        self.failing.retain(|name, _| names.contains(name));
        forget_unwanted(names, &self.found);
    }

    fn finished(&mut self, name: &str, answer: LookupResult) {
        let before = self.found.borrow().get(name);
        let own = self.found.borrow().own().clone();
        let chosen = answer.and_then(|all| {
            let choice = AddressChoice {
                name,
                allow: &self.allow,
                own: &own,
                before,
            };
            choice.choose(&all).ok_or_else(|| {
                let why = all.iter().find_map(|ip| self.allow.refuses(*ip));
                why.unwrap_or_else(|| "it has no address".to_owned())
            })
        });
        let answered = chosen.is_ok();
        match chosen {
            Ok(address) => {
                let failures = self.failing.get_mut(name);
                if failures.is_some_and(|failures| failures.recovered(now()).is_some()) {
                    info!("{name} resolves again, to {address}");
                }
                if before != Some(address) {
                    self.found
                        .send_modify(|all| all.insert(name.to_owned(), address));
                }
            }
            Err(why) => log_failure(name, &why, before, &mut self.failing),
        }
        let has_address = answered || before.is_some();
        self.lookups.finished(name, answered, has_address, now());
    }
}

/// Drops the addresses of unused names once there are more than [`MAX_UNWANTED`]. Before the first names are
/// known, `found` holds what the file remembers.
fn forget_unwanted(wanted: &BTreeSet<String>, found: &watch::Sender<HostAddresses>) {
    if !wanted.is_empty() && found.borrow().count() > wanted.len() + MAX_UNWANTED {
        found.send_modify(|all| all.retain(|name| wanted.contains(name)));
    }
}

/// Looks the name up in a thread of its own: tokio's blocking pool can neither be counted nor left behind at
/// exit.
async fn look_up(name: String) -> (String, LookupResult) {
    let (tell, told) = oneshot::channel();
    let asked = name.clone();
    let thread = std::thread::Builder::new().spawn(move || {
        let all = (asked.as_str(), 0).to_socket_addrs();
        let all = all.map(|all| all.map(|it| it.ip().to_canonical()).collect());
        let _ = tell.send(all.map_err(|error| error.to_string()));
    });
    let answer = match thread {
        Ok(_) => told
            .await
            .unwrap_or_else(|_| Err("its thread ended".to_owned())),
        Err(error) => Err(error.to_string()),
    };
    (name, answer)
}

fn log_failure(name: &str, why: &str, before: Option<IpAddr>, failing: &mut FailingNames) {
    let failures = failing.entry(name.to_owned()).or_default();
    // Logged once per outage: there may be thousands of names.
    if failures.since().is_none() && failures.failed(now()).is_some() {
        match before {
            Some(address) => {
                warn!("cannot resolve {name}; keeping {address}: {why}")
            }
            None => warn!(
                "cannot resolve {name}; its instances are not served until it resolves: {why}"
            ),
        }
    }
}

/// What the choice among a name's addresses depends on.
struct AddressChoice<'a> {
    name: &'a str,
    allow: &'a Allow,
    own: &'a BTreeSet<IpAddr>,
    before: Option<IpAddr>,
}

impl AddressChoice<'_> {
    /// The address in use while it is among them, so that a round-robin answer moves no client; else the
    /// first IPv4 address, which every Docker host has. The name of this very machine is 127.0.1.1 in
    /// Debian's /etc/hosts: for it, an address by which other machines reach this one.
    fn choose(&self, addresses: &[IpAddr]) -> Option<IpAddr> {
        let is_own = || addresses.iter().any(IpAddr::is_loopback) && is_this_machine(self.name);
        let among = self.among(addresses);
        among.or_else(|| is_own().then(|| self.here()).flatten())
    }

    fn among(&self, addresses: &[IpAddr]) -> Option<IpAddr> {
        let allowed = |ip: &&IpAddr| self.allow.refuses(**ip).is_none();
        let choice = || addresses.iter().filter(allowed);
        let same = choice().find(|ip| Some(**ip) == self.before);
        let first = same.or_else(|| choice().find(|ip| ip.is_ipv4()));
        first.or_else(|| choice().next()).copied()
    }

    fn here(&self) -> Option<IpAddr> {
        let usual = machine::usual(self.own);
        let allowed = |ip: &IpAddr| self.allow.refuses(*ip).is_none();
        let before = self.before.filter(|ip| self.own.contains(ip));
        let first = before.or(usual).filter(allowed);
        first.or_else(|| self.among(&self.own.iter().copied().collect::<Vec<_>>()))
    }
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

    fn choose(name: &str, addresses: &[IpAddr], before: Option<IpAddr>) -> Option<IpAddr> {
        let (allow, own) = (Allow::default(), ips(&["10.9.0.1", "fd00:9::1"]));
        let (allow, own) = (&allow, &own.into_iter().collect());
        AddressChoice {
            name,
            allow,
            own,
            before,
        }
        .choose(addresses)
    }

    #[test]
    fn the_address_stays_while_it_is_among_them() {
        let both = ips(&["fd00::1", "10.0.0.1", "10.0.0.2"]);
        assert_eq!(choose("db", &both, None), Some(both[1]));
        assert_eq!(choose("db", &both, Some(both[2])), Some(both[2]));
        assert_eq!(choose("db", &both[..1], Some(both[2])), Some(both[0]));
    }

    #[test]
    fn a_name_on_loopback_or_link_local_has_no_address_but_this_machines_own_has() {
        let nowhere = ips(&["127.0.0.1", "::1", "0.0.0.0", "169.254.169.254", "fe80::1"]);
        assert_eq!(choose("evil.example.com", &nowhere, None), None);
        let own = hostname::get().unwrap().into_string().unwrap();
        assert_eq!(
            choose(&own, &ips(&["127.0.1.1"]), None),
            ips(&["10.9.0.1"]).first().copied()
        );
        let six = ips(&["fd00:9::1"])[0];
        assert_eq!(choose(&own, &ips(&["127.0.1.1"]), Some(six)), Some(six));
        assert_eq!(
            choose(&own, &ips(&["127.0.1.1", "10.0.0.7"]), None),
            ips(&["10.0.0.7"]).first().copied()
        );
    }

    #[tokio::test]
    async fn a_name_that_stops_resolving_keeps_its_last_address() {
        let last: HostAddresses = [("gone.invalid".to_owned(), "10.0.0.9".parse().unwrap())]
            .into_iter()
            .collect();
        let mut resolver = Resolver::new(watch::Sender::new(last.clone()), Allow::default());
        let (name, answer) = look_up("gone.invalid".to_owned()).await;
        resolver.finished(&name, answer);
        assert_eq!(
            (resolver.found.borrow().clone(), resolver.failing.len()),
            (last, 1)
        );
    }

    /// Every name that was ever resolved used to stay in memory, on a cluster where each container has a
    /// name of its own.
    #[test]
    fn names_that_no_instance_has_any_more_do_not_pile_up() {
        let name = |n: usize| format!("host-{n}");
        let found = watch::Sender::new(HostAddresses::default());
        let mut most = 0;
        for n in 0..10 * MAX_UNWANTED {
            let wanted = BTreeSet::from([name(n), "steady".to_owned()]);
            for name in &wanted {
                let address = "10.0.0.9".parse().unwrap();
                found.send_modify(|all| all.insert(name.clone(), address));
            }
            forget_unwanted(&wanted, &found);
            most = most.max(found.borrow().count());
        }
        assert_eq!(most, MAX_UNWANTED + 2);
        assert!(found.borrow().get("steady").is_some());
        assert!(found.borrow().get(&name(10 * MAX_UNWANTED - 2)).is_some());
    }
}
