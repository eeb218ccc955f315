//! Who gets which address to listen on, and so what HAProxy is to be. Pure.

use super::addresses::{Served, Servers};
use super::beside::beside;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::str::FromStr;
use std::sync::Arc;

/// What the statistics page is called. No service can have the name: see `render::proxy_name`.
pub const STATS: &str = "sidekick:stats";

/// Where clients dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bind {
    /// That port on all addresses, IPv4 and IPv6.
    Everywhere(NonZeroU16),
    /// That address alone.
    At(SocketAddr),
}

impl Bind {
    /// Whether one address and port would be both's.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        if self.port() != other.port() {
            return false;
        }
        match (self, other) {
            (Self::At(a), Self::At(b)) => {
                let wide = a.ip().is_unspecified() || b.ip().is_unspecified();
                a.ip() == b.ip() || (wide && a.is_ipv4() == b.is_ipv4())
            }
            _ => true,
        }
    }

    /// The port.
    #[must_use]
    pub const fn port(self) -> u16 {
        match self {
            Self::Everywhere(port) => port.get(),
            Self::At(address) => address.port(),
        }
    }
}

impl FromStr for Bind {
    type Err = String;

    /// `:80`, `*:80` and `80` are everywhere; `10.0.0.1:80`, `[::1]:80` and `0.0.0.0:80` are there.
    fn from_str(text: &str) -> Result<Self, String> {
        let port = text
            .strip_prefix("*:")
            .or_else(|| text.strip_prefix(':'))
            .unwrap_or(text);
        if let Ok(port) = port.parse() {
            return Ok(Self::Everywhere(port));
        }
        match text.parse::<SocketAddr>() {
            Ok(address) if address.port() > 0 => Ok(Self::At(address)),
            _ => Err(format!(
                "{text:?} is no address to listen on; write :80, 10.0.0.1:80 or [::1]:80"
            )),
        }
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everywhere(port) => write!(f, ":{port}"),
            Self::At(address) => address.fmt(f),
        }
    }
}

/// One service as HAProxy has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Front {
    /// Where clients dial.
    pub bind: Bind,
    /// Behind it.
    pub servers: Arc<Servers>,
}

/// Everything that HAProxy is to be, but for what never changes while the agent runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Model {
    /// Where the statistics page is.
    pub stats: Option<Bind>,
    /// By service.
    pub fronts: BTreeMap<String, Front>,
}

/// A front that can't be, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Refusal {
    /// The service, or [`STATS`].
    pub service: String,
    /// In words.
    pub why: String,
}

/// What the operator said, and what experience has taught.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// `--bind`: those are there whether or not the service has an instance, and come before others.
    pub binds: BTreeMap<String, Bind>,
    /// `--stats`.
    pub stats: Option<Bind>,
    /// Names of sections in the operator's own base file.
    pub reserved: BTreeSet<String>,
    /// Where those listen. HAProxy would bind one port twice, and clients would get one or the other.
    pub occupied: Vec<Bind>,
}

/// Lays the services out. `barred` are fronts that HAProxy couldn't bind lately; `bound` are those that
/// it has.
///
/// Of several that want one address the first of these has it: who was told so by `--bind`; who has
/// servers that aren't leaving; who is bound there; whose oldest key is older; whose name is smaller. So a newcomer evicts
/// nobody who serves, and an empty service keeps nothing from another. A service that was told nothing
/// doesn't get a port that an instance on this machine has, or lately had.
#[must_use]
pub fn lay_out(
    rules: &Rules,
    services: &BTreeMap<String, Served>,
    barred: &BTreeMap<(String, Bind), String>,
    bound: &BTreeMap<String, Bind>,
) -> (Model, Vec<Refusal>) {
    let ports_here = services.iter().flat_map(|(service, it)| {
        let ports = it.ports_here.iter();
        ports.map(move |port| (*port, service.as_str()))
    });
    let mut layout = Layout {
        rules,
        barred,
        ports_here: ports_here.collect(),
        taken: BTreeMap::new(),
        refusals: Vec::new(),
    };
    let stats = rules.stats.filter(|bind| layout.take(STATS, *bind));
    let mut fronts = BTreeMap::new();
    for (service, bind) in &rules.binds {
        if layout.take(service, *bind) {
            let servers = services.get(service).map(|it| it.servers.clone());
            let servers = servers.unwrap_or_default();
            let bind = *bind;
            fronts.insert(service.clone(), Front { bind, servers });
        }
    }
    let unasked = services.iter().filter_map(|(service, it)| {
        let bind = Bind::Everywhere(NonZeroU16::new(it.port)?);
        let is_bound = bound.get(service) == Some(&bind);
        let rank = (!it.serves(), !is_bound, it.oldest, service);
        (!rules.binds.contains_key(service)).then_some((rank, bind, &it.servers))
    });
    let mut unasked: Vec<_> = unasked.collect();
    unasked.sort_unstable_by_key(|(rank, ..)| *rank);
    for ((_, is_new, _, service), bind, servers) in unasked {
        if layout.take_unasked(service, bind, is_new) {
            let servers = servers.clone();
            fronts.insert(service.clone(), Front { bind, servers });
        }
    }
    (Model { stats, fronts }, layout.refusals)
}

struct Layout<'a> {
    rules: &'a Rules,
    barred: &'a BTreeMap<(String, Bind), String>,
    /// Ports of instances on this machine, and of which service.
    ports_here: BTreeMap<u16, &'a str>,
    /// By port; the few on one port are looked at one by one.
    taken: BTreeMap<u16, Vec<(Bind, String)>>,
    refusals: Vec<Refusal>,
}

impl Layout<'_> {
    /// `is_new`: HAProxy doesn't listen there yet.
    fn take_unasked(&mut self, service: &str, bind: Bind, is_new: bool) -> bool {
        let here = self.ports_here.get(&bind.port()).filter(|_| is_new);
        let Some(owner) = here else {
            return self.take(service, bind);
        };
        let why = format!(
            "{bind} is the port of an instance on this machine ({owner}), which couldn't start again if \
             HAProxy had it; say where to listen: --bind {service}=ADDRESS:PORT"
        );
        self.refuse(service, why)
    }

    fn take(&mut self, service: &str, bind: Bind) -> bool {
        let on_port = self.taken.entry(bind.port()).or_default();
        let holder = on_port.iter().find(|(other, _)| bind.overlaps(*other));
        let why = if let Some((_, holder)) = holder {
            format!("{bind} is taken by {holder}")
        } else if self.rules.occupied.iter().any(|it| bind.overlaps(*it)) {
            format!("{bind} is taken by the base file")
        } else if self.rules.reserved.contains(service) {
            "the base file has a section of that name".to_owned()
        } else if let Some(why) = self.barred.get(&(service.to_owned(), bind)) {
            format!("{bind}: {why}")
        } else {
            on_port.push((bind, service.to_owned()));
            return true;
        };
        self.refuse(service, why)
    }

    fn refuse(&mut self, service: &str, why: String) -> bool {
        self.refusals.push(Refusal {
            service: service.to_owned(),
            why,
        });
        false
    }
}

impl Model {
    /// All that listens.
    pub fn binds(&self) -> impl Iterator<Item = (&str, Bind)> {
        let stats = self.stats.map(|bind| (STATS, bind));
        stats.into_iter().chain(
            self.fronts
                .iter()
                .map(|(name, front)| (name.as_str(), front.bind)),
        )
    }

    /// Takes over the servers of the services that it was laid out for. A service that isn't among them
    /// has none.
    pub fn follow(&mut self, services: &BTreeMap<String, Served>) {
        for (_, front, it) in beside(self.fronts.iter_mut(), services.iter()) {
            match it {
                Some(it) => front.servers = it.servers.clone(),
                None if front.servers.is_empty() => {}
                None => front.servers = Arc::default(),
            }
        }
    }

    /// How many instances there are.
    #[must_use]
    pub fn servers(&self) -> usize {
        self.fronts.values().map(|front| front.servers.len()).sum()
    }
}

/// The addresses that a socket would have to be bound to, the one for all of them first.
#[must_use]
pub fn sockets(bind: Bind) -> Vec<SocketAddr> {
    match bind {
        Bind::At(address) => vec![address],
        Bind::Everywhere(port) => {
            let any: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
            any.map(|ip| SocketAddr::new(ip, port.get())).to_vec()
        }
    }
}

#[cfg(test)]
mod tests;
