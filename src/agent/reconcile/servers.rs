//! Updates the servers of the running worker, and ends connections to removed servers in workers of before
//! the last reload. Takes no reload and no file.

use super::report::PassTotals;
use crate::agent::haproxy::api::{HaproxyApi, ProxyError, Worker};
use crate::agent::haproxy::parse::original_name;
use crate::agent::haproxy::render::proxy_name;
use crate::agent::haproxy::runtime::{
    ServerAction, ServerCommand, diff, diff_backend, diff_between, ordered,
};
use crate::agent::haproxy::server_state::RunningServers;
use crate::agent::model::backends::{Backends, Servers};
use crate::agent::model::listeners::{Listeners, Model};
use crate::clock::Moment;
use imbl::ordmap::DiffItem;
use std::collections::BTreeSet;
use std::time::Duration;

/// What HAProxy's worker takes to list one server of a backend (measured with 2.6: 8 ms for 4,000), in which
/// it serves no traffic.
const LISTING_TIME: Duration = Duration::from_micros(2);

/// While change follows change the worker lists its servers for a fifth of its time at most.
const PAUSE_FACTOR: u32 = 4;

/// A shorter pause than this is none: the control loop's rounds are as long.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);

/// The worker that was last seen, and what is known of its servers.
#[derive(Debug)]
pub(crate) struct WorkerState {
    pub(crate) worker: Worker,
    /// What the worker has, if the commands took effect.
    assumed: Listeners,
    /// Services that were changed since the worker's servers were last read back, and when they are at the
    /// latest.
    unconfirmed: BTreeSet<String>,
    confirm_at: Option<Moment>,
    /// Backends that are not compared yet, as the worker has them.
    running: RunningServers,
    /// The backends' `removal_version` when the older workers were last without connections to removed
    /// servers.
    old_connections_ended_at: Option<u64>,
}

/// What a pass did to the worker's servers.
#[derive(Debug, Default)]
pub(crate) struct Adjusted {
    /// How many changes that took.
    pub(crate) changes: usize,
    /// When the servers are read back; `None` if they were.
    pub(crate) confirm_at: Option<Moment>,
}

impl WorkerState {
    pub(crate) fn new(worker: Worker, running: RunningServers) -> Self {
        Self {
            worker,
            assumed: Listeners::new(),
            unconfirmed: BTreeSet::new(),
            confirm_at: None,
            running,
            old_connections_ended_at: None,
        }
    }

    /// Updates the servers that may differ from `model`, which holds exactly the services that the worker
    /// listens for; `backends` may also hold one that it listened for before the last reload.
    pub(crate) async fn sync<P: HaproxyApi>(
        &mut self,
        proxy: &P,
        model: &Model,
        backends: &Backends,
        now: Moment,
        totals: &mut PassTotals,
    ) -> Result<Adjusted, ProxyError> {
        let adjusted = self.adjust(proxy, model, now, totals).await;
        if matches!(adjusted, Ok(_) | Err(ProxyError::OutOfSync(..)))
            && self.old_connections_ended_at != Some(backends.removal_version())
        {
            let is_removed =
                |backend: &str, server: &str| is_removed(model, backends, backend, server);
            proxy
                .end_connections(&self.worker.older, is_removed)
                .await?;
            self.old_connections_ended_at = Some(backends.removal_version());
        }
        adjusted
    }

    /// Runs the commands for what changed, and reads the servers back: at once where they are few, else after
    /// a pause.
    async fn adjust<P: HaproxyApi>(
        &mut self,
        proxy: &P,
        model: &Model,
        now: Moment,
        totals: &mut PassTotals,
    ) -> Result<Adjusted, ProxyError> {
        let commands = self.commands(model);
        let mut complaint = String::new();
        if !commands.is_empty() {
            let removes = |command: &ServerCommand| command.action == ServerAction::Remove;
            if commands.iter().any(removes) {
                self.old_connections_ended_at = None;
            }
            complaint = proxy.run_commands(&self.worker, &commands).await?;
            totals.commands += commands.len() as u64;
            let backends = commands.iter().filter_map(|it| it.target.split_once('/'));
            let services = backends.filter_map(|(backend, _)| original_name(backend));
            self.unconfirmed.extend(services);
        }
        self.assumed = model.listeners.clone();
        self.running.clear();
        let listeners = self.unconfirmed.iter();
        let listeners = listeners.filter_map(|service| model.listeners.get(service));
        let servers: usize = listeners.map(|listener| listener.servers.len()).sum();
        let pause = LISTING_TIME * u32::try_from(servers).unwrap_or(u32::MAX) * PAUSE_FACTOR;
        let at = *self.confirm_at.get_or_insert(now + pause);
        if pause < SHORTEST_PAUSE || at <= now || !complaint.is_empty() {
            self.confirm_at = None;
            self.confirm(proxy, complaint).await?;
        }
        Ok(Adjusted {
            changes: commands.len(),
            confirm_at: self.confirm_at,
        })
    }

    fn commands(&self, model: &Model) -> Vec<ServerCommand> {
        let changes = self.assumed.diff(&model.listeners);
        ordered(changes.flat_map(|change| match change {
            DiffItem::Add(service, it) => diff_backend(service, &it.servers, &self.running),
            DiffItem::Update {
                old: (service, old),
                new: (_, new),
            } => diff_between(service, &old.servers, &new.servers),
            // The worker does not listen for it any more.
            DiffItem::Remove(..) => Vec::new(),
        }))
    }

    /// Reads the changed backends, and compares them with what they were told to be.
    async fn confirm<P: HaproxyApi>(
        &mut self,
        proxy: &P,
        complaint: String,
    ) -> Result<(), ProxyError> {
        let changed = std::mem::take(&mut self.unconfirmed);
        let changed = changed.iter().filter_map(|service| {
            let (service, listener) = self.assumed.get_key_value(service)?;
            Some((service.clone(), listener.clone()))
        });
        let changed: Listeners = changed.collect();
        if changed.is_empty() {
            return Ok(());
        }
        let backends = changed.keys().map(|service| proxy_name(service)).collect();
        let running = proxy.state(&self.worker, Some(&backends)).await?;
        let rest = diff(changed.iter(), &running).len();
        if rest == 0 {
            return Ok(());
        }
        for service in changed.keys() {
            self.assumed.remove(service);
        }
        self.running = running;
        Err(ProxyError::OutOfSync(rest, complaint))
    }
}

/// Whether that server belongs to a known service, and is not desired any more.
fn is_removed(model: &Model, backends: &Backends, backend: &str, server: &str) -> bool {
    let Some(service) = original_name(backend) else {
        return false;
    };
    let listener = model
        .listeners
        .get(&service)
        .map(|listener| &listener.servers);
    let known = backends.services().get(&service).map(|it| &it.servers);
    let is_wanted = |servers: &Servers| {
        original_name(server).is_some_and(|instance| servers.contains_key(&instance))
    };
    listener
        .or(known)
        .is_some_and(|servers| !is_wanted(servers))
}
