//! Generators of models and of hostile input, and a strict grammar of the configuration file.

use crate::agent::haproxy::parse::parse;
use crate::agent::haproxy::render::{
    CHECK, DEFAULT_BASE, FixedConfig, REJECT_RULE, SERVICES_LINE, render,
};
use crate::agent::model::backends::{Backends, Server};
use crate::agent::model::host_addresses::HostAddresses;
use crate::agent::model::listeners::{Listener, Model, assign_listeners};
use crate::catalog::{Catalog, RawKeyValue};
use crate::clock::Moment;
use crate::endpoint::{Host, check_part};
use crate::membership::{Membership, Retention};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::net::SocketAddr;

pub(crate) fn fixed_config() -> FixedConfig {
    FixedConfig {
        base: DEFAULT_BASE.to_owned(),
        ipv6: true,
        idle: "/run/idle".to_owned(),
        listener_maxconn: Some(25_000),
        exporter: false,
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

/// Models as `assign_listeners` makes them: no two listeners on one port.
pub(crate) fn models() -> impl Strategy<Value = Model> {
    let name = "[A-Za-z0-9_:@-][A-Za-z0-9_.:@-]{0,12}".prop_filter("..", |n| check_part(n).is_ok());
    let bind = prop_oneof![
        Just("*:"),
        Just("127.0.0.1:"),
        Just("[::1]:"),
        Just("[::]:"),
        Just("0.0.0.0:")
    ];
    let listener = (
        bind,
        prop::collection::btree_map(name.clone(), server(), 0..5),
    );
    (
        prop::collection::btree_map(name, listener, 0..6),
        any::<bool>(),
    )
        .prop_map(|(listeners, stats)| {
            let listeners =
                listeners
                    .into_iter()
                    .zip(20_000..)
                    .map(|((name, (bind, servers)), port)| {
                        let bind = format!("{bind}{port}").parse().unwrap();
                        let servers = servers.into();
                        (name, Listener { bind, servers })
                    });
            let stats = stats.then(|| "127.0.0.1:1936".parse().unwrap());
            Model {
                stats,
                listeners: listeners.collect(),
            }
        })
}

/// Checks every line that sidekick writes, word by word.
pub(crate) fn tokenize_strictly(text: &str) -> Result<(), String> {
    let ours = text.split_once("\nglobal\n    setenv ").ok_or("no mark")?.1;
    for line in ours.lines().skip(1) {
        if line.trim_start() == REJECT_RULE {
            continue;
        }
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
            ["maxconn", most] => most.parse::<u32>().is_ok_and(|most| most > 0),
            ["mworker-max-reloads", "2147483647"] | ["stats", "enable"] | ["stats", "uri", "/"] => {
                true
            }
            ["server", name, at, words @ ..] => {
                let words = words.join(" ");
                let flags = words.strip_prefix(CHECK);
                is_name(name) && is_address(at) && matches!(flags, Some("" | " weight 0"))
            }
            [""] => true,
            _ => format!("{line}\n") == format!("{SERVICES_LINE}\n"),
        };
        if !fine || comment.contains(' ') {
            return Err(format!("{line:?}"));
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn whatever_stands_in_etcd_the_file_holds_nothing_but_words_of_ours(
        items in prop::collection::vec((hostile(), hostile(), hostile(), any::<i32>(), any::<bool>()), 1..12)
    ) {
        let mut catalog = Catalog::new("/services".to_owned());
        for (service, instance, host, port, raw) in items {
            let key = [b"/services/", service.as_slice(), b"/", instance.as_slice()].concat();
            let json = serde_json::json!({"host": String::from_utf8_lossy(&host), "port": port.rem_euclid(70_000)});
            let value = if raw { host } else { json.to_string().into_bytes() };
            catalog.put(RawKeyValue { key: &key, value: &value, create_revision: 0 });
        }
        let settings = Retention { hold: <_>::default(), forget: <_>::default(), drain: <_>::default() };
        let now = Moment::from_secs(1);
        let mut membership = Membership::new(settings, BTreeMap::new(), now);
        membership.observe(&catalog.services(), now);
        let mut backends = Backends::default();
        backends.update(membership.desired(now), &HostAddresses::default());
        let (model, _) = assign_listeners(&<_>::default(), backends.services(), &BTreeMap::new(), &BTreeMap::new());
        let text = render(&fixed_config(), &model);
        prop_assert_eq!(tokenize_strictly(&text), Ok(()));
        prop_assert_eq!(parse(&text), Some(model.listeners));
    }

}
