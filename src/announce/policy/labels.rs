//! A container's labels → the services that it is announced as. Pure.
//!
//! ```text
//! sidekick.service=NAME         announce the container as an instance of that service
//! sidekick.port=6379            this container port; else the only published one
//! sidekick.PORT.service=NAME    announce that port of several, such as 6379 or 53/udp
//! sidekick.instance=NAME        the key's last part; else NAME-OF-CONTAINER@HOST
//! sidekick.host=HOST            the address
//! sidekick.meta.KEY=VALUE       a key-value pair for readers of the key
//! sidekick.check=tcp            or http:/PATH, redis, several of them: the port is asked, and announced while it answers
//! sidekick.check-interval=2s    how often; sidekick.check-timeout=1s: how long an answer may take
//! sidekick.rise=1               so many right answers in a row make a check pass; sidekick.fall=3: wrong ones fail
//! ```
//!
//! `sidekick.PORT.instance`, `.host`, `.meta.KEY`, `.check`, `.rise` and so on hold for that port; where they are missing the
//! labels without a port hold. A label that can't be parsed, or is unknown, refuses the whole container: announcing half of what
//! was meant is worse than a line in the log.

use super::check_settings::CheckOptions;
use super::container::{ContainerPort, Protocol};
use super::eligibility::{EndpointOverrides, PORT_LABEL, read_label};
use super::reason::Reason;
use crate::endpoint::{Host, check_part};
use std::collections::{BTreeMap, BTreeSet};

/// The prefix of all sidekick labels.
pub const PREFIX: &str = "sidekick.";

const SERVICE: &str = "service";
const INSTANCE: &str = "instance";
const HOST: &str = "host";
const META: &str = "meta.";
const CHECK: &str = "check";
const CHECK_INTERVAL: &str = "check-interval";
const CHECK_TIMEOUT: &str = "check-timeout";
const RISE: &str = "rise";
const FALL: &str = "fall";

/// The most that the meta labels of one service may hold, in bytes. 64 values of this size and their
/// keys fit in one request to etcd (1.5 MiB).
pub const MAX_META: usize = 8 * 1024;

/// One service that a container asks to be announced as, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestedService {
    /// The service's name: the key's part before the last.
    pub name: String,
    /// The key's last part, where a label or the command line sets it.
    pub instance: Option<String>,
    /// Appended to the key's last part, so that several ports under one service have a key each.
    pub suffix: Option<String>,
    /// Address, port and key-value pairs.
    pub wanted: EndpointOverrides,
    /// What the labels say of the checks that have to pass before it is announced.
    pub checks: CheckOptions,
}

/// The labels by what they are about: the whole container, or one port.
#[derive(Debug, Default)]
struct Group {
    service: Option<String>,
    instance: Option<String>,
    host: Option<Host>,
    meta: BTreeMap<String, String>,
    checks: CheckOptions,
}

/// Parses the labels that begin with [`PREFIX`], and ignores all others.
///
/// # Errors
/// [`Reason::BadLabel`] for the first that is wrong, or [`Reason::NoService`].
pub fn services(labels: &BTreeMap<String, String>) -> Result<Vec<RequestedService>, Reason> {
    let mut whole = Group::default();
    let mut ports: BTreeMap<ContainerPort, (String, Group)> = BTreeMap::new();
    for label in labels.keys() {
        let Some(name) = label.strip_prefix(PREFIX) else {
            continue;
        };
        if label == PORT_LABEL || whole.take(name, label, labels)? {
            continue;
        }
        let (port, name) = of_a_port(name).ok_or_else(|| unknown(label))?;
        let spelt = &label[..label.len() - name.len()];
        let (first, group) = ports
            .entry(port)
            .or_insert_with(|| (spelt.to_owned(), Group::default()));
        if *first != spelt {
            return Err(bad(label, &format!("is about the same port as {first}*")));
        }
        if !group.take(name, label, labels)? {
            return Err(unknown(label));
        }
    }
    let port: Option<ContainerPort> = read_label(labels, PORT_LABEL)?;
    if whole.service.is_none() && port.is_some() && !ports.is_empty() {
        let why = "goes with sidekick.service, and not with the labels of single ports";
        return Err(bad(PORT_LABEL, why));
    }
    let mut services = Vec::new();
    if let Some(name) = &whole.service {
        services.push(whole.service(name.clone(), port, None)?);
    }
    for (port, (spelt, group)) in &ports {
        let Some(name) = &group.service else {
            let why = "is missing; there are other labels of that port";
            return Err(bad(&format!("{spelt}{SERVICE}"), why));
        };
        services.push(group.service(name.clone(), Some(*port), Some(&whole))?);
    }
    if services.is_empty() {
        return Err(Reason::NoService);
    }
    tell_apart(&mut services)?;
    Ok(services)
}

/// Whether a label names a service.
#[must_use]
pub fn name_a_service(labels: &BTreeMap<String, String>) -> bool {
    let mut names = labels.keys().filter_map(|label| label.strip_prefix(PREFIX));
    names.any(|name| name == SERVICE || of_a_port(name).is_some_and(|(_, rest)| rest == SERVICE))
}

impl Group {
    /// Takes a label, if it is one of those that a container and a port can have.
    fn take(
        &mut self,
        name: &str,
        label: &str,
        labels: &BTreeMap<String, String>,
    ) -> Result<bool, Reason> {
        let text = || labels.get(label).cloned().unwrap_or_default();
        match name {
            SERVICE => self.service = Some(part(label, text())?),
            INSTANCE => self.instance = Some(part(label, text())?),
            HOST => self.host = read_label(labels, label)?,
            CHECK => self.checks.kinds = read_label(labels, label)?,
            CHECK_INTERVAL => self.checks.interval = read_label(labels, label)?,
            CHECK_TIMEOUT => self.checks.timeout = read_label(labels, label)?,
            RISE => self.checks.rise = read_label(labels, label)?,
            FALL => self.checks.fall = read_label(labels, label)?,
            _ => match name.strip_prefix(META) {
                Some("") => return Err(bad(label, "names no key")),
                Some(key) => {
                    self.meta.insert(key.to_owned(), text());
                }
                None => return Ok(false),
            },
        }
        Ok(true)
    }

    fn service(
        &self,
        name: String,
        port: Option<ContainerPort>,
        whole: Option<&Self>,
    ) -> Result<RequestedService, Reason> {
        let mut meta = whole.map(|whole| whole.meta.clone()).unwrap_or_default();
        meta.extend(self.meta.clone());
        let bytes: usize = meta.iter().map(|(k, v)| k.len() + v.len()).sum();
        if bytes > MAX_META {
            let why = format!("and the like hold {bytes} bytes, more than {MAX_META}");
            return Err(bad("sidekick.meta.*", &why));
        }
        let or = |own: &Option<String>, other: Option<&Option<String>>| {
            own.clone().or_else(|| other.cloned().flatten())
        };
        Ok(RequestedService {
            name,
            instance: or(&self.instance, whole.map(|w| &w.instance)),
            suffix: (whole.is_some() && self.instance.is_none())
                .then(|| port.map(suffix))
                .flatten(),
            wanted: EndpointOverrides {
                host: self.host.clone().or_else(|| whole?.host.clone()),
                port,
                meta,
            },
            checks: match whole {
                Some(whole) => self.checks.or(&whole.checks),
                None => self.checks.clone(),
            },
        })
    }
}

/// `6379.service` → 6379/tcp and `service`.
fn of_a_port(name: &str) -> Option<(ContainerPort, &str)> {
    let (port, name) = name.split_once('.')?;
    Some((port.parse().ok()?, name))
}

/// `:6379`, `:53.udp`: what a key's part may hold, and a container's name can't.
fn suffix(port: ContainerPort) -> String {
    match port.protocol {
        Protocol::Tcp => format!(":{}", port.number),
        other => format!(":{}.{other}", port.number),
    }
}

/// A suffix is for those alone that share their service with another of the container's ports.
fn tell_apart(services: &mut [RequestedService]) -> Result<(), Reason> {
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for service in services.iter() {
        *times.entry(service.name.clone()).or_default() += 1;
    }
    let mut keys = BTreeSet::new();
    for service in services {
        if times.get(&service.name) == Some(&1) {
            service.suffix = None;
        }
        let instance = service.instance.clone().unwrap_or_default();
        let suffix = service.suffix.clone().unwrap_or_default();
        if !keys.insert((service.name.clone(), format!("{instance}{suffix}"))) {
            let why = format!(
                "{instance:?} is the instance of two ports of the service {:?}",
                service.name
            );
            return Err(bad("sidekick.*.instance", &why));
        }
    }
    Ok(())
}

fn part(label: &str, text: String) -> Result<String, Reason> {
    match check_part(&text) {
        Ok(()) => Ok(text),
        Err(problem) => Err(bad(label, &format!("{text:?} {problem}"))),
    }
}

fn unknown(label: &str) -> Reason {
    let why = "is none that sidekick knows (service, port, instance, host, check, check-interval, check-timeout, rise, fall, meta.KEY, or PORT.service and so on)";
    bad(label, why)
}

fn bad(label: &str, problem: &str) -> Reason {
    Reason::BadLabel {
        label: label.to_owned(),
        problem: problem.to_owned(),
    }
}
