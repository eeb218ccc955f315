//! The agent's state as the page shows it. Pure.

use crate::agent::model::backends::{Backend, Backends, InstanceNames};
use crate::agent::model::bind::Bind;
use crate::agent::model::listeners::RefusedListener;
use crate::catalog::{Catalog, Instance, Services};
use crate::endpoint::Host;
use crate::export::prometheus::targets;
use crate::http::page::{
    InstanceState, InstanceView, MAX_QUARANTINED, PageSource, PageView, ServiceView,
};
use crate::membership::Membership;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// The agent's state at one moment. Taken by the control loop, which shares what it can and formats nothing; the
/// listener's thread does.
#[derive(Debug, Default)]
pub(crate) struct AgentPage {
    status: String,
    services: BTreeMap<String, Backend>,
    listening: BTreeMap<String, Bind>,
    refusals: Vec<RefusedListener>,
    held: InstanceNames,
    down: InstanceNames,
    quarantined: Vec<(String, String)>,
    quarantined_in_all: usize,
    follows_etcd: bool,
}

impl AgentPage {
    /// Takes the state. `status` is what systemd is told; `follows_etcd`: the backends are what etcd has told, and not
    /// only what HAProxy's file was left with.
    pub(crate) fn new(
        status: &str,
        catalog: &Catalog,
        membership: &Membership,
        backends: &Backends,
        listening: &BTreeMap<String, Bind>,
        refusals: &[RefusedListener],
        follows_etcd: bool,
    ) -> Self {
        Self {
            status: status.to_owned(),
            services: backends.services().clone(),
            listening: listening.clone(),
            refusals: refusals.to_vec(),
            held: membership.held_names(),
            down: backends.down().clone(),
            quarantined: catalog.quarantine().take(MAX_QUARANTINED).collect(),
            quarantined_in_all: catalog.quarantined(),
            follows_etcd,
        }
    }

    fn service(&self, name: &str, backend: &Backend) -> ServiceView {
        let instances = backend.instances().iter();
        ServiceView {
            name: name.to_owned(),
            listens: self.listening.get(name).map(Bind::to_string),
            refused: self.refusal(name),
            instances: instances
                .map(|(instance, it)| self.instance((name, instance), backend, it))
                .collect(),
        }
    }

    fn refusal(&self, service: &str) -> Option<String> {
        let mut refusals = self.refusals.iter();
        let refusal = refusals.find(|refusal| refusal.service == service)?;
        Some(refusal.why.clone())
    }

    fn instance(
        &self,
        (service, name): (&str, &str),
        backend: &Backend,
        it: &Instance,
    ) -> InstanceView {
        use InstanceState::{Down, Draining, Held, Leaving, Refused, Serving, Unresolved};
        let among = |all: &InstanceNames| all.get(service).is_some_and(|it| it.contains(name));
        let server = backend.servers.get(name);
        let (state, why) = if let Some(why) = backend.refusal(name) {
            (Refused, Some(why.as_str()))
        } else if it.leaving {
            (
                Leaving,
                Some("its key is gone; its connections may still end"),
            )
        } else if among(&self.held) {
            let why = "its key is gone together with others; HAProxy's checks decide";
            (Held, Some(why))
        } else if server.is_none() {
            (Unresolved, Some("its host name has no address yet"))
        } else if it.draining && backend.last_up() == Some(name) {
            (Draining, Some("it still serves: no other instance is up"))
        } else if it.draining {
            (Draining, None)
        } else if among(&self.down) {
            (Down, Some("HAProxy's check can't connect to it"))
        } else {
            (Serving, None)
        };
        let resolved = server.filter(|server| server.host.is_some());
        InstanceView {
            name: name.to_owned(),
            address: match &it.host {
                Host::Ip(ip) => SocketAddr::new(*ip, it.port.get()).to_string(),
                Host::Name(host) => format!("{host}:{}", it.port),
            },
            resolved: resolved.map(|server| server.address.to_string()),
            since: it.since.map(|since| since.to_string()),
            state,
            why: why.map(str::to_owned),
        }
    }
}

impl PageSource for AgentPage {
    fn view(&self) -> PageView {
        let services = self.services.iter();
        PageView {
            status: self.status.clone(),
            services: services
                .map(|(name, backend)| self.service(name, backend))
                .collect(),
            quarantined: self.quarantined.clone(),
            quarantined_in_all: self.quarantined_in_all,
        }
    }

    /// As `sidekick export --format prometheus`: also instances that HAProxy does not get.
    fn targets(&self) -> Option<String> {
        let services = self.services.iter();
        let services: Services = services
            .map(|(name, backend)| (name.clone(), backend.instances().clone()))
            .collect();
        self.follows_etcd.then(|| targets(&services))
    }
}
