//! Updates the servers of the running worker, and ends connections to removed servers in workers of before
//! the last reload. Takes no reload and no file.

use crate::agent::haproxy::api::{HaproxyApi, ProxyError, Worker};
use crate::agent::haproxy::parse::original_name;
use crate::agent::haproxy::render::proxy_name;
use crate::agent::haproxy::runtime::{RunningServers, ServerAction, diff, state_in_sync};
use crate::agent::model::backends::{Backends, Servers};
use crate::agent::model::listeners::Model;
use itertools::{EitherOrBoth, Itertools};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The worker that was last seen, and what is known of its servers.
#[derive(Debug)]
pub(crate) struct WorkerState {
    pub(crate) worker: Worker,
    /// Servers that match the desired state, by service.
    in_sync: BTreeMap<String, Arc<Servers>>,
    /// Backends that are not compared yet, as the worker has them.
    running: RunningServers,
    /// The backends' `removal_version` when the older workers were last without connections to removed
    /// servers.
    old_connections_ended_at: Option<u64>,
}

impl WorkerState {
    pub(crate) const fn new(worker: Worker, running: RunningServers) -> Self {
        Self {
            worker,
            in_sync: BTreeMap::new(),
            running,
            old_connections_ended_at: None,
        }
    }

    /// Updates the servers that may differ from `model`; returns how many changes that took. `model` holds
    /// exactly the services that the worker listens for; `backends` may also hold one that it listened for
    /// before the last reload.
    pub(crate) async fn sync<P: HaproxyApi>(
        &mut self,
        proxy: &P,
        model: &Model,
        backends: &Backends,
    ) -> Result<usize, ProxyError> {
        let told = self.run_commands(proxy, model).await;
        if matches!(told, Ok(_) | Err(ProxyError::OutOfSync(..)))
            && self.old_connections_ended_at != Some(backends.removal_version())
        {
            let is_removed =
                |backend: &str, server: &str| is_removed(model, backends, backend, server);
            proxy
                .end_connections(&self.worker.older, is_removed)
                .await?;
            self.old_connections_ended_at = Some(backends.removal_version());
        }
        told
    }

    async fn run_commands<P: HaproxyApi>(
        &mut self,
        proxy: &P,
        model: &Model,
    ) -> Result<usize, ProxyError> {
        let Self {
            worker,
            in_sync,
            running,
            old_connections_ended_at,
        } = self;
        let mut open: Vec<(&str, &Arc<Servers>)> = Vec::new();
        let both = model
            .listeners
            .iter()
            .merge_join_by(in_sync.iter(), |(a, _), (b, _)| a.cmp(b));
        for pair in both {
            let (service, listener) = match pair {
                EitherOrBoth::Both((_, listener), (_, known))
                    if Arc::ptr_eq(known, &listener.servers) =>
                {
                    continue;
                }
                EitherOrBoth::Both((service, listener), (_, known)) => {
                    running.insert(proxy_name(service), state_in_sync(known));
                    (service, listener)
                }
                EitherOrBoth::Left(service_and_front) => service_and_front,
                EitherOrBoth::Right(_) => continue,
            };
            open.push((service, &listener.servers));
        }
        let rest =
            |running: &RunningServers| diff(open.iter().map(|(s, it)| (*s, &***it)), running);
        let commands = rest(running);
        if !commands.is_empty() {
            if commands
                .iter()
                .any(|command| command.action == ServerAction::Remove)
            {
                *old_connections_ended_at = None;
            }
            let complaint = proxy.run_commands(worker, &commands).await?;
            let backends: BTreeSet<_> = commands
                .iter()
                .filter_map(|c| c.target.split_once('/'))
                .map(|(b, _)| b.to_owned())
                .collect();
            let now = proxy.state(worker, Some(&backends)).await?;
            running.retain(|name, _| !backends.contains(name));
            running.extend(now);
            let rest = rest(running).len();
            if rest > 0 {
                for (service, _) in open {
                    in_sync.remove(service);
                }
                return Err(ProxyError::OutOfSync(rest, complaint));
            }
        }
        running.clear();
        let open = open.into_iter();
        in_sync.extend(open.map(|(service, servers)| (service.to_owned(), servers.clone())));
        Ok(commands.len())
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
    let is_wanted = |servers: &Arc<Servers>| {
        original_name(server).is_some_and(|instance| servers.contains_key(&instance))
    };
    listener
        .or(known)
        .is_some_and(|servers| !is_wanted(servers))
}
