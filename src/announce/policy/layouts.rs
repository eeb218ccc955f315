//! Further keys: an instance in the layouts of other readers (`--also`). Pure.
//!
//! ```text
//! KEY=VALUE            a template, with {service} {instance} {host} {port} {hostport} {container}
//! skydns:DOMAIN        CoreDNS' etcd plugin: names below that domain
//! grpc:PREFIX          gRPC-Go's etcd resolver, target etcd:///PREFIX/SERVICE
//! traefik-tcp          Traefik's etcd provider: a TCP service of that name
//! traefik-http         the same, an HTTP service
//! registrator:PREFIX   what registrator puts below etcd://HOST/PREFIX
//! ```

use crate::endpoint::{Endpoint, Key, KeyError, Protocol, check_part};
use std::time::Duration;

/// The most layouts: a key with all of its further keys has to fit into one transaction, twice where it moves.
pub const MAX_LAYOUTS: usize = 16;

/// The TTL of a record for CoreDNS, in seconds: how long resolvers keep the address of an instance that is gone. (CoreDNS before
/// 1.12.4 takes the lease's id for a TTL where there is none.)
const DNS_TTL: u64 = 5;

/// How long the other readers may take to let go of an instance.
const WATCH_TIME: Duration = Duration::from_secs(1);

/// The longest label of a domain name, in bytes (RFC 1035, section 2.3.4).
const MAX_LABEL: usize = 63;

/// What may stand in a template between braces.
const VARIABLES: [&str; 6] = [
    "service",
    "instance",
    "host",
    "port",
    "hostport",
    "container",
];

/// The layouts that each instance is put in beside its own key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layouts {
    layouts: Vec<Layout>,
    /// This machine's name, for registrator's keys.
    hostname: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Layout {
    Template(String, String),
    /// The domain's labels, the last first.
    Skydns(Vec<String>),
    Grpc(String),
    TraefikTcp,
    TraefikHttp,
    Registrator(String),
}

/// A further key and its value; or why there is none.
pub type FurtherKey = Result<(Key, String), String>;

impl Layouts {
    /// Reads the values of `--also`.
    ///
    /// # Errors
    /// The first that is wrong, and why.
    pub fn parse(texts: &[String], hostname: Option<String>) -> Result<Self, String> {
        let texts = texts.iter().filter(|text| !text.is_empty());
        let layouts = texts.map(|text| layout(text).map_err(|why| format!("{text:?} {why}")));
        let layouts = layouts.collect::<Result<Vec<_>, _>>()?;
        if layouts.len() > MAX_LAYOUTS {
            let count = layouts.len();
            return Err(format!(
                "{count} layouts are too many; {MAX_LAYOUTS} at most"
            ));
        }
        Ok(Self { layouts, hostname })
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.layouts.is_empty()
    }

    /// How long a reader may go on using an instance whose further keys are gone: the largest TTL in a value, 1 s at
    /// least; zero where there are no further keys.
    #[must_use]
    pub fn longest_ttl(&self) -> Duration {
        let ttl = |layout: &Layout| match layout {
            Layout::Skydns(_) => Duration::from_secs(DNS_TTL),
            _ => WATCH_TIME,
        };
        self.layouts.iter().map(ttl).max().unwrap_or_default()
    }

    /// The further keys of the instance at `key`. A layout that can't carry its protocol gives none.
    pub fn further_keys(&self, key: &Key, endpoint: &Endpoint) -> Vec<FurtherKey> {
        let made = self.layouts.iter();
        let made = made.filter_map(|layout| {
            let (name, value) = match self.make(layout, key, endpoint)? {
                Ok(made) => made,
                Err(why) => return Some(Err(why)),
            };
            let further = Key::in_layout(&name).map_err(|why| match why {
                KeyError::TooLong => format!("a further key of {key} would be too long"),
                _ => format!("{name:?} can't be a further key: {why}"),
            });
            let below = name.strip_prefix(key.prefix());
            Some(match further {
                Ok(_) if below.is_some_and(|rest| rest.starts_with('/')) => {
                    let prefix = key.prefix();
                    Err(format!(
                        "{name} can't be a further key: it is below {prefix}, where instances are"
                    ))
                }
                further => further.map(|further| (further, value)),
            })
        });
        made.collect()
    }

    fn make(
        &self,
        layout: &Layout,
        key: &Key,
        endpoint: &Endpoint,
    ) -> Option<Result<(String, String), String>> {
        let (service, instance) = (key.service(), key.instance());
        let is_tcp = endpoint.protocol == Protocol::Tcp;
        let (host, port) = (&endpoint.host, endpoint.port.get());
        Some(Ok(match layout {
            Layout::Template(name, value) => {
                let fill = |text| filled(text, key, endpoint);
                return Some(fill(name).and_then(|name| Ok((name, fill(value)?))));
            }
            Layout::Skydns(domain) => {
                let labels = label(service).and_then(|service| Ok((service, label(instance)?)));
                let (service, instance) = match labels {
                    Ok(labels) => labels,
                    Err(why) => return Some(Err(why)),
                };
                let domain = domain.join("/");
                // A host is an address or a name (RFC 1123): nothing that JSON would escape.
                let value = format!(r#"{{"host":"{host}","port":{port},"ttl":{DNS_TTL}}}"#);
                (format!("/skydns/{domain}/{service}/{instance}"), value)
            }
            Layout::Grpc(_) | Layout::TraefikTcp | Layout::TraefikHttp if !is_tcp => return None,
            Layout::Grpc(prefix) => (
                format!("{prefix}/{service}/{instance}"),
                format!(r#"{{"Op":0,"Addr":"{endpoint}","Metadata":null}}"#),
            ),
            Layout::TraefikTcp => (
                format!("traefik/tcp/services/{service}/loadBalancer/servers/{instance}/address"),
                endpoint.to_string(),
            ),
            Layout::TraefikHttp => (
                format!("traefik/http/services/{service}/loadBalancer/servers/{instance}/url"),
                format!("http://{endpoint}"),
            ),
            Layout::Registrator(prefix) => {
                let hostname = self.hostname.clone().unwrap_or_else(|| host.to_string());
                let container = endpoint.container.as_deref().unwrap_or(instance);
                let suffix = match endpoint.protocol {
                    Protocol::Tcp => String::new(),
                    other => format!(":{other}"),
                };
                (
                    format!("{prefix}/{service}/{hostname}:{container}:{port}{suffix}"),
                    endpoint.to_string(),
                )
            }
        }))
    }
}

fn layout(text: &str) -> Result<Layout, String> {
    if let Some((name, value)) = text.split_once('=') {
        check_variables(name).and(check_variables(value))?;
        return Ok(Layout::Template(name.to_owned(), value.to_owned()));
    }
    let prefix = |text: &str| match text.trim_end_matches('/') {
        "" => Err("names no prefix".to_owned()),
        prefix => Ok(prefix.to_owned()),
    };
    match text.split_once(':').unwrap_or((text, "")) {
        ("skydns", domain) => Ok(Layout::Skydns(domain_labels(domain)?)),
        ("grpc", rest) => Ok(Layout::Grpc(prefix(rest)?)),
        ("registrator", rest) => Ok(Layout::Registrator(prefix(rest)?)),
        ("traefik-tcp", "") => Ok(Layout::TraefikTcp),
        ("traefik-http", "") => Ok(Layout::TraefikHttp),
        _ => Err(
            "is no layout; write skydns:DOMAIN, grpc:PREFIX, traefik-tcp, traefik-http, registrator:PREFIX or a template KEY=VALUE"
                .to_owned(),
        ),
    }
}

/// `example.local` → local, example.
fn domain_labels(domain: &str) -> Result<Vec<String>, String> {
    let lower = domain.trim_end_matches('.').to_ascii_lowercase();
    let labels: Vec<_> = lower.rsplit('.').map(str::to_owned).collect();
    let is_label = |it: &String| label(it).as_ref() == Ok(it) && check_part(it).is_ok();
    match labels.iter().all(is_label) {
        true => Ok(labels),
        false => Err(format!("names no domain: {domain:?}")),
    }
}

/// A name as a label of a domain name.
fn label(name: &str) -> Result<String, String> {
    let plain = |c: char| match c.to_ascii_lowercase() {
        c @ ('a'..='z' | '0'..='9' | '-') => c,
        _ => '-',
    };
    let label: String = name.chars().map(plain).collect();
    if label.len() > MAX_LABEL {
        return Err(format!(
            "{name} is too long for a label of a domain name, {MAX_LABEL} at most"
        ));
    }
    let inner = label.trim_matches('-');
    match inner.is_empty() {
        true => Err(format!("{name:?} makes no label of a domain name")),
        false => Ok(inner.to_owned()),
    }
}

/// The pieces of a template: text, and the names of variables. Braces around anything but lower-case letters are text.
fn pieces(template: &str) -> Vec<Result<&str, &str>> {
    let (mut pieces, mut rest, mut from) = (Vec::new(), template, 0);
    while let Some(open) = rest[from..].find('{').map(|at| from + at) {
        let inside = &rest[open + 1..];
        let name = inside.split_once('}').map(|(name, _)| name);
        let is_name = |it: &&str| !it.is_empty() && it.bytes().all(|b| b.is_ascii_lowercase());
        match name.filter(is_name) {
            Some(name) => {
                pieces.extend([Ok(&rest[..open]), Err(name)]);
                rest = &inside[name.len() + 1..];
                from = 0;
            }
            None => from = open + 1,
        }
    }
    pieces.push(Ok(rest));
    pieces
}

fn check_variables(template: &str) -> Result<(), String> {
    for piece in pieces(template) {
        if let Err(name) = piece
            && !VARIABLES.contains(&name)
        {
            let known = VARIABLES.map(|it| format!("{{{it}}}")).join(" ");
            return Err(format!(
                "has an unknown variable {{{name}}}; there are {known}"
            ));
        }
    }
    Ok(())
}

fn filled(template: &str, key: &Key, endpoint: &Endpoint) -> Result<String, String> {
    let mut text = String::new();
    for piece in pieces(template) {
        match piece {
            Ok(piece) => text.push_str(piece),
            Err("service") => text.push_str(key.service()),
            Err("instance") => text.push_str(key.instance()),
            Err("host") => text.push_str(&endpoint.host.to_string()),
            Err("port") => text.push_str(&endpoint.port.to_string()),
            // An IPv6 address in brackets.
            Err("hostport") => text.push_str(&endpoint.to_string()),
            Err(_) => match &endpoint.container {
                Some(id) => text.push_str(id),
                None => return Err(format!("{key} has no container, for {{container}}")),
            },
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
