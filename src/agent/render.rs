//! What HAProxy is to be, as its configuration file; and back. Pure.
//!
//! Nothing but checked names, numbers and addresses is ever written, so nothing needs quoting: a
//! quote or a `$` would be read by HAProxy even inside a name.

use super::layout::{Bind, Front, Model, STATS, Server};
use crate::endpoint::{Host, check_part};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;

/// The file's first line, by which we know it for ours.
pub const OURS: &str = "# Written by sidekick agent, and written anew whenever etcd changes: edit --haproxy-base instead.";

/// Everything below this line is ours; what is above may be the operator's.
const SERVICES: &str = "# The services that stand in etcd.";

/// How each server is checked: what the file and the `add server` command have in common.
pub const CHECK: &str = "check inter 2s rise 3 fall 2";

/// The variable by which a running HAProxy tells what it was started from.
pub const MARK: &str = "SIDEKICK_STRUCTURE";

/// The global and defaults sections of a user who has none of his own.
///
/// fd-hard-limit: in containers the limit may be a thousand million, and HAProxy would make a table
/// of it. hard-stop-after: a connection that outlives a reload is served by the old worker, for so
/// long at most. redispatch: a server that refuses costs the client nothing while there is another.
pub const BASE: &str = "\
global
    fd-hard-limit 100000
    hard-stop-after 1h

defaults
    mode tcp
    timeout connect 5s
    timeout client 50s
    timeout server 50s
    retries 3
    option redispatch 1
";

/// What never changes while the agent runs.
#[derive(Debug, Clone)]
pub struct Frame {
    /// The global and defaults sections.
    pub base: String,
    /// Whether the machine has IPv6 at all. (Without, the socket can't even be made.)
    pub ipv6: bool,
    /// Where a HAProxy listens that has nothing to listen for; a path without any special character.
    pub idle: String,
}

/// The name of a service or an instance in HAProxy, which allows `[A-Za-z0-9_.:-]` and so no `@`.
///
/// `@` is written `::`, and `:` is written `:.`; a colon always begins a pair, so no two names
/// become one.
#[must_use]
pub fn proxy_name(name: &str) -> String {
    name.replace(':', ":.").replace('@', "::")
}

/// What `proxy_name` was made of; `None` if it is none of ours.
#[must_use]
pub fn original_name(name: &str) -> Option<String> {
    let mut original = String::with_capacity(name.len());
    let mut chars = name.chars();
    while let Some(c) = chars.next() {
        original.push(match c {
            ':' => match chars.next()? {
                ':' => '@',
                '.' => ':',
                _ => return None,
            },
            '@' => return None,
            c => c,
        });
    }
    check_part(&original).ok().map(|()| original)
}

/// What a reload would be needed for, as a number: the same for two models that differ only in
/// their servers. (FNV-1a, 64 bits; <http://www.isthe.com/chongo/tech/comp/fnv/>)
#[must_use]
pub fn structure(frame: &Frame, model: &Model) -> String {
    let mut text = frame.base.clone();
    for (name, bind) in model.binds() {
        let _ = writeln!(text, "{name} {}", bind_words(frame, bind));
    }
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

/// The whole file.
#[must_use]
pub fn render(frame: &Frame, model: &Model) -> String {
    let mut text = String::with_capacity(1024 + frame.base.len() + 128 * model.servers());
    let mark = structure(frame, model);
    let base = frame.base.trim_end();
    let _ = write!(
        text,
        "{OURS}\n\n{base}\n\nglobal\n    setenv {MARK} {mark}\n"
    );
    if let Some(bind) = model.stats {
        let bind = bind_words(frame, bind);
        let _ = write!(
            text,
            "\nlisten {STATS}\n    bind {bind}\n    mode http\n    stats enable\n    stats uri /\n"
        );
    }
    if model.stats.is_none() && model.fronts.is_empty() {
        // HAProxy doesn't start without any listener. Not an abstract socket: those can't pause, and
        // with one of them a reload that fails ends the old worker too (seen with 2.6).
        let _ = write!(
            text,
            "\nlisten sidekick:idle\n    bind unix@{}\n    mode tcp\n",
            frame.idle
        );
    }
    let _ = write!(text, "\n{SERVICES}\n");
    for (service, front) in &model.fronts {
        let bind = bind_words(frame, front.bind);
        let service = proxy_name(service);
        let _ = write!(
            text,
            "\nlisten {service}\n    bind {bind}\n    mode tcp\n    balance roundrobin\n"
        );
        for (instance, server) in &front.servers {
            let _ = write!(
                text,
                "    server {} {} {CHECK}",
                proxy_name(instance),
                server.address
            );
            if server.draining {
                text.push_str(" weight 0");
            }
            if let Some(host) = &server.host {
                let _ = write!(text, " # {host}");
            }
            text.push('\n');
        }
    }
    text
}

fn bind_words(frame: &Frame, bind: Bind) -> String {
    match bind {
        // One socket for both; on a host without IPv6, `:::80` alone would keep HAProxy from starting.
        Bind::Everywhere(port) if frame.ipv6 => format!(":::{port} v4v6"),
        Bind::Everywhere(port) => format!("*:{port}"),
        Bind::At(address) if address.is_ipv6() && address.ip().is_unspecified() => {
            format!(":::{} v6only", address.port())
        }
        Bind::At(address) => address.to_string(),
    }
}

/// Reads a file that [`render`] wrote: the fronts with their servers. `None` if it is somebody
/// else's, or was edited.
#[must_use]
pub fn parse(text: &str) -> Option<BTreeMap<String, Front>> {
    if !text.starts_with(OURS) {
        return None;
    }
    let ours = text.split_once(&format!("\n{SERVICES}\n"))?.1;
    let mut fronts: BTreeMap<String, Front> = BTreeMap::new();
    let (mut service, mut front) = (String::new(), None::<Front>);
    for line in ours.lines() {
        let words: Vec<_> = line.split(' ').filter(|word| !word.is_empty()).collect();
        match words.as_slice() {
            ["listen", name] => {
                fronts.extend(
                    front
                        .take()
                        .map(|front| (std::mem::take(&mut service), front)),
                );
                service = original_name(name)?;
            }
            ["bind", words @ ..] => {
                front = Some(Front {
                    bind: parse_bind(words)?,
                    servers: BTreeMap::new(),
                });
            }
            ["mode", "tcp"] | ["balance", "roundrobin"] | [] => {}
            ["server", name, address, words @ ..] => {
                let server = parse_server(address, &words.join(" "))?;
                front.as_mut()?.servers.insert(original_name(name)?, server);
            }
            _ => return None,
        }
    }
    fronts.extend(front.map(|front| (service, front)));
    Some(fronts)
}

/// The mark in a file that [`render`] wrote.
#[must_use]
pub fn mark_of(text: &str) -> Option<&str> {
    let rest = text.split_once(&format!("\n    setenv {MARK} "))?.1;
    rest.lines().next()
}

fn parse_bind(words: &[&str]) -> Option<Bind> {
    match words {
        [address, "v4v6"] => format!(":{}", address.strip_prefix(":::")?).parse().ok(),
        [address, "v6only"] => format!("[::]:{}", address.strip_prefix(":::")?)
            .parse()
            .ok(),
        [address] => address.parse().ok(),
        _ => None,
    }
}

fn parse_server(address: &str, rest: &str) -> Option<Server> {
    let address: SocketAddr = address.parse().ok()?;
    let rest = rest.strip_prefix(CHECK)?;
    let (flags, host) = match rest.split_once(" # ") {
        Some((flags, host)) => (flags, Some(host)),
        None => (rest, None),
    };
    let host = match host.map(str::parse) {
        None => None,
        Some(Ok(Host::Name(name))) => Some(name),
        Some(_) => return None,
    };
    let draining = match flags {
        "" => false,
        " weight 0" => true,
        _ => return None,
    };
    Some(Server {
        address,
        draining,
        host,
    })
}

/// The names of the sections in the operator's base file: no service may take one.
pub fn sections(base: &str) -> impl Iterator<Item = &str> {
    let named = ["frontend", "backend", "listen"];
    base.lines().filter_map(move |line| {
        let mut words = line.split_whitespace();
        named.contains(&words.next()?).then(|| words.next())?
    })
}

/// Where the sections in the operator's base file listen. An address that isn't understood counts as
/// all of them; a port that is an environment variable's isn't known. (HAProxy's configuration
/// manual, "bind": addresses with ports or ranges of ports, by commas.)
pub fn occupied(base: &str) -> impl Iterator<Item = Bind> {
    let addresses = base.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()? == "bind").then(|| words.next())?
    });
    addresses
        .flat_map(|all| all.split(','))
        .flat_map(listens_at)
}

fn listens_at(text: &str) -> Vec<Bind> {
    let text = text.rsplit_once('@').map_or(text, |(_, address)| address);
    let Some((ip, ports)) = text.rsplit_once(':') else {
        return Vec::new();
    };
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let (Ok(first), Ok(last)) = (first.parse::<NonZeroU16>(), last.parse()) else {
        return Vec::new();
    };
    let ports = (first.get()..=last).filter_map(NonZeroU16::new);
    let ip = ip.trim_matches(['[', ']']).parse::<IpAddr>();
    let bind = |port: NonZeroU16| match ip {
        Ok(ip) => Bind::At(SocketAddr::new(ip, port.get())),
        Err(_) => Bind::Everywhere(port),
    };
    ports.map(bind).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(in crate::agent) fn frame() -> Frame {
        Frame {
            base: BASE.to_owned(),
            ipv6: true,
            idle: "/run/idle".to_owned(),
        }
    }

    /// Arbitrary bytes, what an attacker would try, and now and then something good.
    fn hostile() -> impl Strategy<Value = Vec<u8>> {
        let tricks = prop::sample::select(vec![
            "redis",
            "redis@1",
            "a:b",
            "10.0.0.7",
            "fd00::1",
            "::ffff:1.2.3.4",
            "db.example.com",
            "a b",
            "a\nb",
            "\"",
            "${HOME}",
            "$HOME",
            ";",
            "|",
            "#",
            "\\",
            "..",
            "\0",
            "fe80::1%eth0",
            "10.0.0.1:1;show version",
            "x\n    server evil 6.6.6.6:6",
            "'",
        ]);
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..40),
            tricks.prop_map(|trick| trick.as_bytes().to_vec()),
            "[a-zA-Z0-9_.:@-]{1,140}".prop_map(String::into_bytes),
        ]
    }

    fn server() -> impl Strategy<Value = Server> {
        let address = (any::<std::net::IpAddr>(), 1..=u16::MAX).prop_map(SocketAddr::from);
        (
            address,
            any::<bool>(),
            prop::option::of("[a-z][a-z0-9]{0,8}(\\.[a-z]{2,5})?"),
        )
            .prop_map(|(address, draining, host)| Server {
                address,
                draining,
                host,
            })
            .prop_filter("names that are no hosts", |s| {
                s.host
                    .as_ref()
                    .is_none_or(|h| matches!(h.parse::<Host>(), Ok(Host::Name(_))))
            })
    }

    /// Models as `lay_out` makes them: no two fronts on one port.
    pub(in crate::agent) fn models() -> impl Strategy<Value = Model> {
        let name =
            "[A-Za-z0-9_:@-][A-Za-z0-9_.:@-]{0,12}".prop_filter("..", |n| check_part(n).is_ok());
        let bind = prop_oneof![
            Just("*:"),
            Just("127.0.0.1:"),
            Just("[::1]:"),
            Just("[::]:"),
            Just("0.0.0.0:")
        ];
        let front = (
            bind,
            prop::collection::btree_map(name.clone(), server(), 0..5),
        );
        (
            prop::collection::btree_map(name, front, 0..6),
            any::<bool>(),
        )
            .prop_map(|(fronts, stats)| {
                let fronts =
                    fronts
                        .into_iter()
                        .zip(20_000..)
                        .map(|((name, (bind, servers)), port)| {
                            let bind = format!("{bind}{port}").parse().unwrap();
                            (name, Front { bind, servers })
                        });
                let stats = stats.then(|| "127.0.0.1:1936".parse().unwrap());
                Model {
                    stats,
                    fronts: fronts.collect(),
                }
            })
    }

    #[test]
    fn the_file_to_the_letter() {
        let server = |address: &str, draining, host: Option<&str>| Server {
            address: address.parse().unwrap(),
            draining,
            host: host.map(str::to_owned),
        };
        let servers = BTreeMap::from([
            ("redis@1".to_owned(), server("10.0.0.7:6379", false, None)),
            (
                "redis@2".to_owned(),
                server("[fd00::8]:6379", true, Some("db2.example.com")),
            ),
        ]);
        let front = Front {
            bind: ":80".parse().unwrap(),
            servers,
        };
        let model = Model {
            stats: Some("127.0.0.1:1936".parse().unwrap()),
            fronts: BTreeMap::from([("redis".to_owned(), front)]),
        };
        let mark = structure(&frame(), &model);
        let expected = format!(
            "{OURS}\n\n{BASE}
global
    setenv SIDEKICK_STRUCTURE {mark}

listen sidekick:stats
    bind 127.0.0.1:1936
    mode http
    stats enable
    stats uri /

# The services that stand in etcd.

listen redis
    bind :::80 v4v6
    mode tcp
    balance roundrobin
    server redis::1 10.0.0.7:6379 check inter 2s rise 3 fall 2
    server redis::2 [fd00::8]:6379 check inter 2s rise 3 fall 2 weight 0 # db2.example.com
"
        );
        assert_eq!(render(&frame(), &model), expected);
    }

    #[test]
    fn a_base_files_sections_are_seen() {
        let base = "global\n  daemon\nfrontend web\n bind :80\n\tlisten x # y\ndefaults z\n";
        assert_eq!(sections(base).collect::<Vec<_>>(), ["web", "x"]);
    }

    #[test]
    fn where_a_base_file_listens_is_seen() {
        let base = "listen a\n bind :80,10.0.0.1:443 ssl\n\tbind [::1]:7-9\nbackend b\n server s 10.0.0.1:81\n\
                    frontend c\n bind ipv6@:::82 v6only\n bind /run/s\n bind unix@/x:1/y\n bind *:\"$PORT\"\n bind h:83\n";
        let seen: Vec<_> = occupied(base).map(|bind| bind.to_string()).collect();
        let expected = [
            ":80",
            "10.0.0.1:443",
            "[::1]:7",
            "[::1]:8",
            "[::1]:9",
            "[::]:82",
            ":83",
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn an_edited_file_is_not_read() {
        let text = render(&frame(), &Model::default());
        assert_eq!(parse(&text), Some(BTreeMap::new()));
        assert_eq!(
            parse(&format!("{text}\nlisten x\n    bind :::80 v4v6 ssl\n")),
            None
        );
        assert_eq!(parse(&text[1..]), None);
    }

    /// Every line of ours, word by word: what may stand there and nothing else.
    pub(in crate::agent) fn tokenize_strictly(text: &str) -> Result<(), String> {
        let ours = text.split_once("\nglobal\n    setenv ").ok_or("no mark")?.1;
        for line in ours.lines().skip(1) {
            let harmless = |c: char| c.is_ascii_alphanumeric() || " _.:@-[]*/#".contains(c);
            if !line.chars().all(harmless) {
                return Err(format!("a character: {line:?}"));
            }
            let (line, comment) = line.split_once(" # ").unwrap_or((line, ""));
            let is_name = |w: &str| {
                !w.is_empty()
                    && w.chars()
                        .all(|c| c.is_ascii_alphanumeric() || "_.:-".contains(c))
            };
            let is_address = |w: &str| w.parse::<SocketAddr>().is_ok_and(|a| a.port() > 0);
            let is_wide = |w: &str| {
                w.strip_prefix(":::")
                    .or(w.strip_prefix("*:"))
                    .is_some_and(|p| p.parse::<u16>().is_ok())
            };
            let words: Vec<_> = line.trim_start().split(' ').collect();
            let fine = match words.as_slice() {
                ["listen", name] => is_name(name),
                ["bind", at] => is_address(at) || is_wide(at) || *at == "unix@/run/idle",
                ["bind", at, "v4v6" | "v6only"] => is_wide(at),
                ["mode", "tcp" | "http"] | ["balance", "roundrobin"] => true,
                ["stats", "enable"] | ["stats", "uri", "/"] => true,
                [
                    "server",
                    name,
                    at,
                    "check",
                    "inter",
                    "2s",
                    "rise",
                    "3",
                    "fall",
                    "2",
                ]
                | [
                    "server",
                    name,
                    at,
                    "check",
                    "inter",
                    "2s",
                    "rise",
                    "3",
                    "fall",
                    "2",
                    "weight",
                    "0",
                ] => is_name(name) && is_address(at),
                [""] => true,
                _ => format!("{line}\n") == format!("{SERVICES}\n"),
            };
            if !fine || comment.contains(' ') {
                return Err(format!("{line:?}"));
            }
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn what_is_rendered_reads_back(model in models(), ipv6 in any::<bool>()) {
            let frame = Frame { ipv6, ..frame() };
            let text = render(&frame, &model);
            prop_assert_eq!(tokenize_strictly(&text), Ok(()));
            prop_assert_eq!(parse(&text), Some(model.fronts));
        }

        #[test]
        fn whatever_stands_in_etcd_the_file_holds_nothing_but_words_of_ours(
            items in prop::collection::vec((hostile(), hostile(), hostile(), any::<i32>(), any::<bool>()), 1..12)
        ) {
            let mut table = super::super::table::Table::new("/services".to_owned());
            for (service, instance, host, port, raw) in items {
                let key = [b"/services/", service.as_slice(), b"/", instance.as_slice()].concat();
                let json = serde_json::json!({"host": String::from_utf8_lossy(&host), "port": port.rem_euclid(70_000)});
                let value = if raw { host } else { json.to_string().into_bytes() };
                table.put(super::super::table::Item { key, value, create_revision: 0 });
            }
            let settings = super::super::presence::Settings { hold: <_>::default(), forget: <_>::default() };
            let now = crate::clock::Moment::from_secs(1);
            let mut presence = super::super::presence::Presence::new(settings, BTreeMap::new(), now);
            presence.observe(table.services(), now);
            let addresses = BTreeMap::new();
            let (model, _) = super::super::layout::lay_out(&<_>::default(), &presence.wanted(now), &addresses, &BTreeMap::new());
            let text = render(&frame(), &model);
            prop_assert_eq!(tokenize_strictly(&text), Ok(()));
            prop_assert_eq!(parse(&text), Some(model.fronts));
        }

        #[test]
        fn no_two_names_become_one(a in "[a:@.]{1,6}", b in "[a:@.]{1,6}") {
            prop_assert_eq!(proxy_name(&a) == proxy_name(&b), a == b);
            if check_part(&a).is_ok() {
                prop_assert_eq!(original_name(&proxy_name(&a)), Some(a));
            }
        }

        #[test]
        fn servers_are_no_part_of_the_structure(model in models(), other in models()) {
            let mut moved = model.clone();
            for (front, other) in moved.fronts.values_mut().zip(other.fronts.values()) {
                front.servers.clone_from(&other.servers);
            }
            prop_assert_eq!(structure(&frame(), &model), structure(&frame(), &moved));
            prop_assert_eq!(structure(&frame(), &model) == structure(&frame(), &other),
                model.binds().eq(other.binds()));
        }

        #[test]
        fn arbitrary_text_never_panics(text in "\\PC*") {
            let _ = parse(&format!("{OURS}\n{SERVICES}\n{text}"));
        }
    }
}
