//! Whether a container is announced, and as which endpoint: a snapshot in; an endpoint out, or the reason why
//! not. Pure.
//!
//! `announce` acts on this decision, and `explain` prints the same one.

use super::caveat::Caveat;
use super::container::{
    Binding, ContainerHealth, ContainerPort, ContainerSnapshot, ContainerState, ContainerView,
    Observation,
};
use super::host_source::HostSource;
use super::reason::Reason;
use super::stop::StopProgress;
use crate::clock::Moment;
use crate::endpoint::{Endpoint, Host};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// The label that names the address to announce.
pub const HOST_LABEL: &str = "sidekick.host";
/// The label that names the container port to announce.
pub const PORT_LABEL: &str = "sidekick.port";

/// A pause withdraws the key after this time. `docker commit` pauses a container for some 60 ms, during which the
/// kernel accepts connections for it, and its sessions wait.
pub const PAUSE_COUNTS_AFTER: Duration = Duration::from_secs(1);

/// The options that the address is chosen by, and this machine's host name.
#[derive(Debug, Clone, Default)]
pub struct AddressOptions {
    /// `--host`.
    pub host: Option<Host>,
    /// `--port`, which there is for a single container alone.
    pub port: Option<ContainerPort>,
    /// This machine's host name, unless sidekick runs in a container, where it is the container's id.
    pub hostname: Option<String>,
}

/// How a container is announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The endpoint.
    pub endpoint: Arc<Endpoint>,
    /// Where the address comes from.
    pub host_source: HostSource,
    /// The port inside the container.
    pub container_port: ContainerPort,
    /// The binding on the host that leads to it; `None` on the host's own network.
    pub binding: Option<Binding>,
    /// Why clients may not reach the endpoint; `None` where no reason is known.
    pub caveat: Option<Caveat>,
    /// The stop of the container that is under way, for which the endpoint drains.
    pub stop: Option<StopProgress>,
}

impl Decision {
    /// The same, for a container whose stop is this far.
    #[must_use]
    pub fn stopping(self, stop: Option<StopProgress>) -> Self {
        let endpoint = match stop {
            Some(_) => Arc::new(self.endpoint.draining()),
            None => self.endpoint,
        };
        Self {
            endpoint,
            stop,
            ..self
        }
    }
}

/// What to do about a container's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Put the key.
    Announce(Box<Decision>),
    /// Delete the key.
    Withdraw(Reason),
}

impl Verdict {
    /// The stop of the container that is under way.
    #[must_use]
    pub fn stop(&self) -> Option<StopProgress> {
        match self {
            Self::Announce(decision) => decision.stop,
            Self::Withdraw(_) => None,
        }
    }
}

/// When the container's pause withdraws its key; `None` where it isn't paused, or the moment has passed.
#[must_use]
pub fn pause_effective_at(view: &ContainerView, now: Moment) -> Option<Moment> {
    let at = view.paused_since?.saturating_add(PAUSE_COUNTS_AFTER);
    (now < at).then_some(at)
}

/// The container, which counts as ended where its first process is dead or got SIGKILL, and as running until
/// [`PAUSE_COUNTS_AFTER`] is over.
#[must_use]
pub fn with_effective_state(
    container: &Arc<ContainerSnapshot>,
    view: &ContainerView,
    now: Moment,
) -> Arc<ContainerSnapshot> {
    let mut container = container.clone();
    if container.has_processes() && view.is_over() {
        Arc::make_mut(&mut container).state = ContainerState::Ended;
    } else if container.state == ContainerState::Paused && pause_effective_at(view, now).is_some() {
        Arc::make_mut(&mut container).state = ContainerState::Running;
    }
    container
}

/// What becomes of a container's claims while the engine doesn't answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineOutage {
    /// They stay as they are until this moment (`None`: for ever).
    Keep(Option<Moment>),
    /// The keys are withdrawn.
    Withdraw(Reason),
}

/// The outage that the view is in; `None` where the engine answers, where the container's first
/// process is dead, and where a pause that was seen before it has lasted long enough to withdraw the key.
///
/// `grace` is how long a key is kept while Docker doesn't answer; `None`: for ever.
#[must_use]
pub fn engine_outage(
    view: &ContainerView,
    grace: Option<Duration>,
    now: Moment,
) -> Option<EngineOutage> {
    let since = view.lost_since?;
    if view.is_over() {
        return None;
    }
    if view.paused_since.is_some() && pause_effective_at(view, now).is_none() {
        return None;
    }
    Some(
        match grace.map(|grace| (grace, since.saturating_add(grace))) {
            // No key has been put yet, so there is none to keep.
            _ if view.observation == Observation::NeverAsked => {
                EngineOutage::Withdraw(Reason::NeverAsked)
            }
            Some((grace, end)) if now >= end => EngineOutage::Withdraw(Reason::EngineLost(grace)),
            keep => EngineOutage::Keep(keep.map(|(_, end)| end)),
        },
    )
}

/// What a service's labels, or `--port`, override in its endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndpointOverrides {
    /// The address to announce.
    pub host: Option<Host>,
    /// The container port to announce.
    pub port: Option<ContainerPort>,
    /// The operator's own key-value pairs.
    pub meta: BTreeMap<String, String>,
}

/// The endpoint to announce for the container, by options and labels.
///
/// # Errors
/// The first reason against it: its state, its health, its port or its address.
pub fn decide(
    container: &ContainerSnapshot,
    wanted: &EndpointOverrides,
    rules: &AddressOptions,
    engine_name: Option<&str>,
) -> Result<Decision, Reason> {
    if container.state != ContainerState::Running {
        return Err(Reason::NotRunning {
            name: container.name.clone(),
            state: container.state.clone(),
        });
    }
    if container.health != ContainerHealth::Good {
        return Err(Reason::ContainerHealth(container.health));
    }
    let told = configured_host(wanted, rules);
    let host = told.as_ref().map(|told| &told.0);
    let (container_port, binding) = choose_port(container, wanted.port, host)?;
    let (host, host_source) = match told {
        Some(told) => told,
        None => default_host(binding, rules, engine_name)?,
    };
    // On the host's own network no port is published, so that there is no binding.
    let bound = binding.and(container.ports.get(&container_port));
    Ok(Decision {
        caveat: bound.and_then(|bound| Caveat::of(&host, container_port, bound)),
        endpoint: Arc::new(Endpoint {
            host,
            port: binding.map_or(container_port.number, |b| b.port),
            protocol: container_port.protocol,
            container: container.short_id(),
            since: container.started_at,
            status: None,
            meta: wanted.meta.clone(),
        }),
        host_source,
        container_port,
        binding,
        stop: None,
    })
}

/// The configured address: `--host`, else the label.
#[must_use]
pub fn configured_host(
    wanted: &EndpointOverrides,
    rules: &AddressOptions,
) -> Option<(Host, HostSource)> {
    let option = rules.host.clone().map(|host| (host, HostSource::Option));
    option.or_else(|| wanted.host.clone().map(|host| (host, HostSource::Label)))
}

/// Parses a label; `Ok(None)` without the label.
///
/// # Errors
/// [`Reason::BadLabel`].
pub fn read_label<T: FromStr<Err: fmt::Display>>(
    labels: &BTreeMap<String, String>,
    label: &str,
) -> Result<Option<T>, Reason> {
    let read = labels.get(label).map(|text| text.parse()).transpose();
    read.map_err(|problem: T::Err| Reason::BadLabel {
        label: label.to_owned(),
        problem: problem.to_string(),
    })
}

/// The address where none is configured: the binding's own, else the engine host's name, else this machine's.
///
/// # Errors
/// [`Reason::NoHost`] or [`Reason::UnusableHost`].
pub fn default_host(
    binding: Option<Binding>,
    rules: &AddressOptions,
    engine_name: Option<&str>,
) -> Result<(Host, HostSource), Reason> {
    if let Some(Binding { ip, .. }) = binding
        && !ip.is_unspecified()
        && let Ok(host) = ip.to_string().parse()
    {
        return Ok((host, HostSource::Binding));
    }
    let names = [
        (engine_name, HostSource::EngineName),
        (rules.hostname.as_deref(), HostSource::Hostname),
    ];
    let mut refusal = Reason::NoHost;
    for (name, rule) in names {
        match name.map(str::parse) {
            None => {}
            Some(Ok(host)) => return Ok((host, rule)),
            Some(Err(problem)) => refusal = Reason::UnusableHost { rule, problem },
        }
    }
    Err(refusal)
}

fn choose_port(
    container: &ContainerSnapshot,
    wanted: Option<ContainerPort>,
    host: Option<&Host>,
) -> Result<(ContainerPort, Option<Binding>), Reason> {
    if container.host_network {
        return match wanted {
            Some(port) => Ok((port, None)),
            None => Err(Reason::HostNetworkNeedsPort(container.name.clone())),
        };
    }
    let published: Vec<_> = container
        .ports
        .iter()
        .filter(|(_, bound)| !bound.is_empty())
        .map(|(port, bound)| (*port, bound.clone()))
        .collect();
    let (port, bound) = match (wanted, published.as_slice()) {
        (Some(wanted), all) => match all.iter().find(|(port, _)| *port == wanted) {
            Some(found) => found.clone(),
            None => return Err(Reason::NotPublished { wanted, published }),
        },
        (None, []) => return Err(Reason::NothingPublished),
        (None, [only]) => only.clone(),
        (None, _) => return Err(Reason::SeveralPublished(published)),
    };
    match choose_binding(&bound, host) {
        Some(binding) => Ok((port, Some(binding))),
        None => Err(Reason::LoopbackOnly { port, bound }),
    }
}

/// Of several bindings the one that `host` leads to: bound on that very address, else on all
/// addresses of its family, else IPv4 before IPv6 (their host ports can differ), else the lowest.
fn choose_binding(bound: &[Binding], host: Option<&Host>) -> Option<Binding> {
    let rank = |b: &Binding| {
        let preferred = match host {
            Some(Host::Ip(ip)) if b.ip == *ip => 0,
            Some(Host::Ip(ip)) if b.ip.is_unspecified() && b.ip.is_ipv4() == ip.is_ipv4() => 1,
            Some(_) if b.ip.is_unspecified() => 2,
            Some(_) => 3,
            None => 0,
        };
        (preferred, b.ip.is_ipv6(), b.ip.is_unspecified(), *b)
    };
    bound
        .iter()
        .filter(|b| !is_loopback(b.ip))
        .min_by_key(|b| rank(b))
        .copied()
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

/// Parses the host's side of a published port; `None` where it isn't bound.
#[must_use]
pub fn parse_binding(ip: Option<&str>, port: Option<&str>) -> Option<Binding> {
    let ip = match ip.unwrap_or_default() {
        // Docker before 20.10 wrote an empty address for "all".
        "" => IpAddr::from([0, 0, 0, 0]),
        text => text.parse().ok()?,
    };
    let port = port?.parse::<NonZeroU16>().ok()?;
    Some(Binding { ip, port })
}

#[cfg(test)]
mod tests;
