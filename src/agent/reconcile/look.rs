//! A look at HAProxy for the instances that drain: their servers, and the sessions of all living workers.

use super::Reconciler;
use crate::agent::drain::drain_state::Look;
use crate::agent::haproxy::api::{HaproxyApi, ProxyError};
use crate::agent::haproxy::render::proxy_name;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

impl<P: HaproxyApi> Reconciler<P> {
    /// Reads the servers of those services, and the sessions with those addresses. The servers come first: a connection
    /// that was given to one of them before is among the sessions.
    pub(crate) async fn look(
        &self,
        (services, addresses): &(BTreeSet<String>, BTreeSet<SocketAddr>),
    ) -> Result<Look, ProxyError> {
        let result = self.look_at(services, addresses).await;
        if result.is_err() {
            self.proxy.close_connection();
        }
        result
    }

    async fn look_at(
        &self,
        services: &BTreeSet<String>,
        addresses: &BTreeSet<SocketAddr>,
    ) -> Result<Look, ProxyError> {
        let worker = self.proxy.worker().await?;
        let listening = services
            .iter()
            .filter(|it| self.listening.contains_key(*it));
        let backends: BTreeSet<_> = listening.map(|name| proxy_name(name)).collect();
        let running = self.proxy.state(&worker, Some(&backends)).await?;
        let mut workers = BTreeMap::new();
        for pid in worker.older.iter().chain([&worker.pid]) {
            let mut all = self.proxy.sessions(*pid).await?;
            all.sessions.retain(|it| {
                let is_there = |address| addresses.contains(&address);
                it.to_server.is_none_or(|ends| is_there(ends.remote))
            });
            workers.insert(*pid, all);
        }
        Ok(Look {
            running,
            workers,
            current: worker.pid,
        })
    }
}
