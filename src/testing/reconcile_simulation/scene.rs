//! A reconciler with its fake HAProxy, and what is desired of it.

use crate::agent::haproxy::api::{HaproxyApi, ProxyError};
use crate::agent::haproxy::parse::parse;
use crate::agent::haproxy::render::render;
use crate::agent::haproxy::runtime::ServerCommand;
use crate::agent::haproxy::server_state::parse_state;
use crate::agent::model::backends::Backends;
use crate::agent::model::host_addresses::HostAddresses;
use crate::agent::model::listeners::{ListenerRules, Model, assign_listeners};
use crate::agent::reconcile::{PassReport, RELOAD_PAUSE, Reconciler};
use crate::catalog::{Instance, Instances};
use crate::clock::Moment;
use crate::endpoint::Endpoint;
use crate::membership::DesiredService;
use crate::testing::config_grammar::fixed_config;
use crate::testing::fake_haproxy::{FakeHaproxy, FakeWorld, diff_all, now_or_never};
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;

pub(super) struct ReconcileScene {
    pub(super) reconciler: Reconciler<FakeHaproxy>,
    pub(super) desired: BTreeMap<String, DesiredService>,
    pub(super) addresses: HostAddresses,
    pub(super) backends: Backends,
    pub(super) now: Moment,
}

impl ReconcileScene {
    pub(super) fn new(seed: u64) -> Self {
        let world = FakeWorld {
            rng: fastrand::Rng::with_seed(seed),
            ..FakeWorld::default()
        };
        let reconciler = Reconciler::new(
            FakeHaproxy(world.into()),
            fixed_config(),
            ListenerRules::default(),
            None,
        );
        Self {
            reconciler,
            desired: BTreeMap::new(),
            addresses: [("db".to_owned(), [10, 0, 1, 0].into())]
                .into_iter()
                .collect(),
            backends: Backends::default(),
            now: Moment::from_secs(1000),
        }
    }

    pub(super) fn world(&mut self) -> &mut FakeWorld {
        self.reconciler.proxy.0.get_mut()
    }

    pub(super) fn put(&mut self, service: &str, port: u16, instance: &str, status: &str) {
        self.put_at("10.0.0.1", service, port, instance, status);
    }

    pub(super) fn put_at(
        &mut self,
        host: &str,
        service: &str,
        port: u16,
        instance: &str,
        status: &str,
    ) {
        let value = format!(r#"{{"host":"{host}","port":{port},"status":"{status}"}}"#);
        let endpoint = Endpoint::decode(value.as_bytes()).unwrap();
        let desired = self.desired.entry(service.to_owned());
        let desired = desired.or_insert_with(|| DesiredService {
            port,
            instances: Instances::new(),
        });
        let instances = &mut desired.instances;
        instances.insert(instance.to_owned(), Instance::new(endpoint, 1));
    }

    pub(super) fn remove(&mut self, service: &str, instance: &str) {
        if let Some(desired) = self.desired.get_mut(service) {
            desired.instances.remove(instance);
        }
    }

    pub(super) fn empty(&mut self, service: &str) {
        self.desired.get_mut(service).unwrap().instances = Instances::new();
    }

    pub(super) fn list(&self) -> impl Iterator<Item = (&String, DesiredService)> {
        let desired = self.desired.iter();
        desired.map(|(service, desired)| (service, desired.clone()))
    }

    /// The model, worked out from nothing but what is desired, and what HAProxy listens on.
    pub(super) fn model(&self) -> Model {
        let mut backends = Backends::default();
        backends.update(self.list(), &self.addresses);
        backends.adopt_last_up(&self.backends);
        let (nothing, listening) = (BTreeMap::new(), &self.reconciler.listening);
        assign_listeners(
            &ListenerRules::default(),
            backends.services(),
            &nothing,
            listening,
        )
        .0
    }

    /// A pass at this very moment.
    pub(super) fn pass_now(&mut self) -> Result<PassReport, ProxyError> {
        let desired = self.desired.iter();
        let desired = desired.map(|(service, desired)| (service, desired.clone()));
        self.backends.update(desired, &self.addresses);
        now_or_never(self.reconciler.pass(&self.backends, self.now))
    }

    pub(super) fn pass(&mut self) -> Result<PassReport, ProxyError> {
        self.now += Duration::from_millis(1500);
        let mut result = self.pass_now();
        // Saved soon, or not before the next pass.
        if self.world().saving.is_some() && (self.world().failing == 0 || self.world().rng.bool()) {
            let event = now_or_never(self.reconciler.proxy.next_event());
            let again = self.reconciler.handle_event(event, self.now);
            if let Ok(report) = &mut result {
                report.not_after(again);
            }
        }
        result
    }

    /// Passes until there is nothing to do, and no more than a few.
    pub(super) fn settle(&mut self) -> PassReport {
        let mut last = None;
        for _ in 0..40 {
            last = Some(self.pass());
            if let Some(Ok(report)) = &last
                && !report.reloaded
                && !report.behind
                && report.changes == 0
                && report
                    .again
                    .is_none_or(|again| again > self.now + RELOAD_PAUSE)
            {
                return report.clone();
            }
        }
        panic!("it doesn't settle: {last:?}");
    }

    pub(super) fn distinct_ports(&self) -> bool {
        let ports: BTreeSet<_> = self.desired.values().map(|w| w.port).collect();
        ports.len() == self.desired.len()
    }

    /// The commands that HAProxy still needs.
    pub(super) fn missing(&mut self) -> Vec<ServerCommand> {
        let model = self.model();
        let text = self.world().servers.state();
        diff_all(&model, &parse_state(&text).unwrap())
    }

    /// What the file holds, or will when it is saved.
    pub(super) fn latest_text(&self) -> Option<String> {
        let latest = self
            .reconciler
            .saved
            .saving
            .as_ref()
            .or(self.reconciler.saved.file.as_ref());
        latest.map(|content| content.text().into_owned())
    }

    /// Whether HAProxy could start again after a crash at this moment.
    pub(super) fn file_boots(&mut self) -> bool {
        let listeners = parse(&self.world().file).unwrap();
        let busy = &self.world().busy;
        listeners
            .values()
            .all(|listener| !busy.contains(&listener.bind.port()))
    }

    pub(super) fn must_agree(&mut self) {
        assert_eq!(self.missing(), vec![]);
        let model = self.model();
        let world = self.world();
        assert_eq!(world.file, render(&fixed_config(), &model));
        // And a crash now would lead to the same servers.
        world.boot().unwrap();
        assert_eq!(world.servers.0.keys().count(), model.listeners.len());
    }
}
