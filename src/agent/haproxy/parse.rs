//! A configuration file that sidekick wrote, read back. Pure.

use crate::agent::haproxy::render::{
    CHECK, FINGERPRINT_VARIABLE, FIRST_LINE, FORMER_CHECK, REJECT_RULE, SERVICES_LINE,
};
use crate::agent::model::backends::{Server, Servers};
use crate::agent::model::bind::Bind;
use crate::agent::model::host_addresses::HostAddresses;
use crate::agent::model::listeners::{Listener, Listeners};
use crate::catalog::Instance;
use crate::endpoint::{Host, check_part};
use crate::membership::DesiredService;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Reads a file that `render` wrote: the listeners with their servers. `None` if sidekick did not write it,
/// or if it was edited.
#[must_use]
pub fn parse(text: &str) -> Option<Listeners> {
    if !text.starts_with(FIRST_LINE) {
        return None;
    }
    let ours = text.split_once(&format!("\n{SERVICES_LINE}\n"))?.1;
    let mut listeners = Listeners::new();
    let (mut service, mut listener) = (String::new(), None::<Listener>);
    for line in ours.lines() {
        let words: Vec<_> = line.split(' ').filter(|word| !word.is_empty()).collect();
        match words.as_slice() {
            ["listen", name] => {
                listeners.extend(
                    listener
                        .take()
                        .map(|listener| (std::mem::take(&mut service), listener)),
                );
                service = original_name(name)?;
            }
            // Outside of a section, or the second one in it: the file was edited.
            ["bind", ..] if service.is_empty() || listener.is_some() => return None,
            ["bind", words @ ..] => {
                listener = Some(Listener {
                    bind: parse_bind(words)?,
                    servers: Servers::new(),
                });
            }
            // A file of before REJECT_RULE lacks it: its fingerprint differs, so that it is written again.
            ["tcp-request", ..] if words.join(" ") == REJECT_RULE => {}
            ["mode", "tcp"] | ["balance", "roundrobin"] | ["maxconn", _] | [] => {}
            ["server", name, address, words @ ..] => {
                let server = parse_server(address, &words.join(" "))?;
                let servers = &mut listener.as_mut()?.servers;
                servers.insert(original_name(name)?, server);
            }
            _ => return None,
        }
    }
    listeners.extend(listener.map(|listener| (service, listener)));
    Some(listeners)
}

/// What a file says of the services, as if it came from etcd and the resolver.
#[must_use]
pub fn last_served(listeners: &Listeners) -> (BTreeMap<String, DesiredService>, HostAddresses) {
    let desired = listeners.iter().map(|(service, listener)| {
        let servers = listener.servers.iter();
        let instances = servers.filter_map(|(name, it)| Some((name.clone(), instance(it)?)));
        let desired = DesiredService {
            port: listener.bind.port(),
            instances: instances.collect(),
        };
        (service.clone(), desired)
    });
    let servers = listeners
        .values()
        .flat_map(|listener| listener.servers.values());
    let addresses = servers.filter_map(|it| Some((it.host.clone()?, it.address.ip())));
    (desired.collect(), addresses.collect())
}

fn instance(server: &Server) -> Option<Instance> {
    let host = match &server.host {
        Some(host) => Host::Name(host.clone()),
        None => Host::Ip(server.address.ip()),
    };
    Some(Instance {
        host,
        port: server.address.port().try_into().ok()?,
        draining: server.draining,
        leaving: false,
        create_revision: 0,
        since: None,
    })
}

/// The fingerprint in a file that `render` wrote.
#[must_use]
pub fn fingerprint_of(text: &str) -> Option<&str> {
    let rest = text
        .split_once(&format!("\n    setenv {FINGERPRINT_VARIABLE} "))?
        .1;
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
    let mut checks = [CHECK, FORMER_CHECK].into_iter();
    let rest = checks.find_map(|check| rest.strip_prefix(check))?;
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

/// Reverses `render::proxy_name`; `None` if it made no such name.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::haproxy::render::{FixedConfig, proxy_name, render};
    use crate::agent::model::listeners::Model;
    use crate::testing::config_grammar::{fixed_config, models, tokenize_strictly};
    use proptest::prelude::*;

    #[test]
    fn an_edited_file_is_not_read() {
        let text = render(&fixed_config(), &Model::default());
        assert_eq!(parse(&text), Some(Listeners::new()));
        assert_eq!(
            parse(&format!("{text}\nlisten x\n    bind :::80 v4v6 ssl\n")),
            None
        );
        assert_eq!(parse(&text[1..]), None);
    }

    proptest! {
        #[test]
        fn what_is_rendered_reads_back(model in models(), ipv6 in any::<bool>()) {
            let fixed_config = FixedConfig { ipv6, ..fixed_config() };
            let text = render(&fixed_config, &model);
            prop_assert_eq!(tokenize_strictly(&text), Ok(()));
            prop_assert_eq!(parse(&text), Some(model.listeners));
        }

        #[test]
        fn no_two_names_become_one(a in "[a:@.]{1,6}", b in "[a:@.]{1,6}") {
            prop_assert_eq!(proxy_name(&a) == proxy_name(&b), a == b);
            if check_part(&a).is_ok() {
                prop_assert_eq!(original_name(&proxy_name(&a)), Some(a));
            }
        }

        #[test]
        fn arbitrary_text_never_panics(text in "\\PC*") {
            let _ = parse(&format!("{FIRST_LINE}\n{SERVICES_LINE}\n{text}"));
        }
    }
}
