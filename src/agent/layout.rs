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
    /// `--bind`: those are there whether or not anybody announces the service, and come before others.
    pub binds: BTreeMap<String, Bind>,
    /// `--stats`.
    pub stats: Option<Bind>,
    /// Names of sections in the operator's own base file.
    pub reserved: BTreeSet<String>,
    /// Where those listen. HAProxy would bind one port twice, and clients would get one or the other.
    pub occupied: Vec<Bind>,
}

/// Lays the services out. Two on one address: the operator's `--bind` has it before a service's own
/// port, and among equals the first by name. `barred` are fronts that HAProxy couldn't bind lately.
#[must_use]
pub fn lay_out(
    rules: &Rules,
    services: &BTreeMap<String, Served>,
    barred: &BTreeMap<(String, Bind), String>,
) -> (Model, Vec<Refusal>) {
    let mut layout = Layout {
        rules,
        barred,
        taken: BTreeMap::new(),
        refusals: Vec::new(),
    };
    let stats = rules.stats.filter(|bind| layout.take(STATS, *bind));
    let mut fronts = BTreeMap::new();
    for (service, bind) in &rules.binds {
        if layout.take(service, *bind) {
            let servers = services.get(service).map(|it| it.servers.clone());
            let servers = servers.unwrap_or_default();
            fronts.insert(
                service.clone(),
                Front {
                    bind: *bind,
                    servers,
                },
            );
        }
    }
    for (service, it) in services {
        if let Some(port) = NonZeroU16::new(it.port)
            && !rules.binds.contains_key(service)
            && layout.take(service, Bind::Everywhere(port))
        {
            let (bind, servers) = (Bind::Everywhere(port), it.servers.clone());
            fronts.insert(service.clone(), Front { bind, servers });
        }
    }
    (Model { stats, fronts }, layout.refusals)
}

struct Layout<'a> {
    rules: &'a Rules,
    barred: &'a BTreeMap<(String, Bind), String>,
    /// By port; the few on one port are looked at one by one.
    taken: BTreeMap<u16, Vec<(Bind, String)>>,
    refusals: Vec<Refusal>,
}

impl Layout<'_> {
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
mod tests {
    use super::super::addresses::tests::instance;
    use super::super::addresses::{Addresses, Directory};
    use super::super::presence::Wanted;
    use super::*;

    fn bind(text: &str) -> Bind {
        text.parse().unwrap()
    }

    fn wanted(port: u16) -> Wanted {
        let instances = BTreeMap::from([("i".to_owned(), instance("10.0.0.1", port))]);
        Wanted {
            port,
            instances: Arc::new(instances),
        }
    }

    fn fronts(
        rules: &Rules,
        wanted: &[(&str, Wanted)],
        barred: &BTreeMap<(String, Bind), String>,
    ) -> (String, Vec<String>) {
        let mut directory = Directory::default();
        let wanted: BTreeMap<_, _> = wanted
            .iter()
            .map(|(n, w)| ((*n).to_owned(), w.clone()))
            .collect();
        directory.update(
            wanted.iter().map(|(n, w)| (n, w.clone())),
            &Addresses::default(),
        );
        let (model, refusals) = lay_out(rules, directory.services(), barred);
        let fronts = model
            .fronts
            .iter()
            .map(|(name, front)| format!("{name}{}", front.bind));
        let fronts = fronts.collect::<Vec<_>>().join(" ");
        (
            fronts,
            refusals
                .into_iter()
                .map(|r| format!("{}: {}", r.service, r.why))
                .collect(),
        )
    }

    #[test]
    fn binds_are_read_in_each_usual_form() {
        for everywhere in [":80", "*:80", "80"] {
            assert_eq!(
                bind(everywhere),
                Bind::Everywhere(NonZeroU16::new(80).unwrap())
            );
        }
        assert_eq!(bind("[::1]:80").to_string(), "[::1]:80");
        for wrong in [
            "",
            ":",
            ":0",
            "10.0.0.1:0",
            ":70000",
            "redis",
            "::1",
            "10.0.0.1",
            ":80 ssl",
            ":80\n",
        ] {
            assert!(wrong.parse::<Bind>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn overlap_is_what_the_kernel_would_call_in_use() {
        for (a, b, overlap) in [
            (":80", ":80", true),
            (":80", ":81", false),
            (":80", "127.0.0.1:80", true),
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("0.0.0.0:80", "[::1]:80", false),
            ("[::]:80", "[::1]:80", true),
            ("10.0.0.1:80", "10.0.0.2:80", false),
            ("10.0.0.1:80", "10.0.0.1:80", true),
        ] {
            assert_eq!(bind(a).overlaps(bind(b)), overlap, "{a} {b}");
            assert_eq!(bind(b).overlaps(bind(a)), overlap, "{b} {a}");
        }
    }

    #[test]
    fn two_on_one_port_the_first_by_name_has_it_and_the_rest_goes_on() {
        let services = [("a", wanted(80)), ("b", wanted(80)), ("c", wanted(81))];
        let (fronts, refused) = fronts(&Rules::default(), &services, &BTreeMap::new());
        assert_eq!(fronts, "a:80 c:81");
        assert_eq!(refused, ["b: :80 is taken by a"]);
    }

    #[test]
    fn the_operators_word_comes_before_a_services_own_port() {
        let rules = Rules {
            binds: BTreeMap::from([
                ("redis".to_owned(), bind(":80")),
                ("z".to_owned(), bind("127.0.0.1:80")),
            ]),
            stats: Some(bind("127.0.0.1:1936")),
            reserved: BTreeSet::from(["mine".to_owned()]),
            ..Rules::default()
        };
        let services = [("a", wanted(80)), ("mine", wanted(7)), ("s", wanted(1936))];
        let (fronts, refused) = fronts(&rules, &services, &BTreeMap::new());
        assert_eq!(fronts, "redis:80");
        let expected = [
            "z: 127.0.0.1:80 is taken by redis",
            "a: :80 is taken by redis",
            "mine: the base file has a section of that name",
            "s: :1936 is taken by sidekick:stats",
        ];
        assert_eq!(refused, expected);
    }

    #[test]
    fn what_is_barred_is_left_out_with_its_reason() {
        let barred = BTreeMap::from([(("a".to_owned(), bind(":80")), "in use".to_owned())]);
        let services = [("a", wanted(80)), ("b", wanted(81))];
        let (fronts, refused) = fronts(&Rules::default(), &services, &barred);
        assert_eq!(
            (fronts.as_str(), refused),
            ("b:81", vec!["a: :80: in use".to_owned()])
        );
    }
}
