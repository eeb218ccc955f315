//! A configuration file of ours, read back. Pure.

use crate::agent::haproxy::render::{CHECK, FORMER_CHECK, MARK, OURS, REJECT, SERVICES};
use crate::agent::model::backends::{Server, Servers};
use crate::agent::model::bind::Bind;
use crate::agent::model::host_addresses::Addresses;
use crate::agent::model::listeners::Front;
use crate::agent::model::membership::Wanted;
use crate::catalog::Instance;
use crate::endpoint::{Host, check_part};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// Reads a file that `render` wrote: the fronts with their servers. `None` if it is somebody
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
            // Of no section, or a second one: that isn't what was written.
            ["bind", ..] if service.is_empty() || front.is_some() => return None,
            ["bind", words @ ..] => {
                front = Some(Front {
                    bind: parse_bind(words)?,
                    servers: Arc::default(),
                });
            }
            // A file of before REJECT hasn't got it: its mark is another, so that it is written anew.
            ["tcp-request", ..] if words.join(" ") == REJECT => {}
            ["mode", "tcp"] | ["balance", "roundrobin"] | ["maxconn", _] | [] => {}
            ["server", name, address, words @ ..] => {
                let server = parse_server(address, &words.join(" "))?;
                let servers: &mut Servers = Arc::make_mut(&mut front.as_mut()?.servers);
                servers.insert(original_name(name)?, server);
            }
            _ => return None,
        }
    }
    fronts.extend(front.map(|front| (service, front)));
    Some(fronts)
}

/// What a file's fronts say of the services, as if etcd and the resolver had said it.
#[must_use]
pub fn remembered(fronts: &BTreeMap<String, Front>) -> (BTreeMap<String, Wanted>, Addresses) {
    let wanted = fronts.iter().map(|(service, front)| {
        let servers = front.servers.iter();
        let instances = servers.filter_map(|(name, it)| Some((name.clone(), instance(it)?)));
        let wanted = Wanted {
            port: front.bind.port(),
            instances: Arc::new(instances.collect()),
        };
        (service.clone(), wanted)
    });
    let servers = fronts.values().flat_map(|front| front.servers.values());
    let addresses = servers.filter_map(|it| Some((it.host.clone()?, it.address.ip())));
    (wanted.collect(), addresses.collect())
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
    })
}

/// The mark in a file that `render` wrote.
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

/// What `render::proxy_name` was made of; `None` if it is none of ours.
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
    use crate::agent::haproxy::render::{Frame, proxy_name, render};
    use crate::agent::model::listeners::Model;
    use crate::testing::config_grammar::{frame, models, tokenize_strictly};
    use proptest::prelude::*;

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

    proptest! {
        #[test]
        fn what_is_rendered_reads_back(model in models(), ipv6 in any::<bool>()) {
            let frame = Frame { ipv6, ..frame() };
            let text = render(&frame, &model);
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
        fn arbitrary_text_never_panics(text in "\\PC*") {
            let _ = parse(&format!("{OURS}\n{SERVICES}\n{text}"));
        }
    }
}
