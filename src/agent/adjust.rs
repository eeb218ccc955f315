//! Brings the servers of the running worker to what is wanted for them, and ends the connections in the
//! workers of before the last reload that have no server any more. Needs no reload and no file.

use super::addresses::Servers;
use super::beside::beside;
use super::diff::{Running, Verb, agreeing, diff};
use super::layout::Model;
use super::parse::original_name;
use super::proxy::{Proxy, Trouble, Worker};
use super::render::proxy_name;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The worker that was last seen.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) worker: Worker,
    /// Servers with which it agreed, by service.
    agreed: BTreeMap<String, Arc<Servers>>,
    /// Backends that have to be looked at, as it has them.
    running: Running,
    /// Whether the older workers have no connection to a server that was removed.
    swept: bool,
}

impl Known {
    pub(super) const fn new(worker: Worker, running: Running) -> Self {
        Self {
            worker,
            agreed: BTreeMap::new(),
            running,
            swept: false,
        }
    }

    /// Puts right those servers about which the worker and `model` may disagree; tells how many changes
    /// that took. `model` has the services that the worker listens for, and no other.
    pub(super) async fn agree<P: Proxy>(
        &mut self,
        proxy: &P,
        model: &Model,
    ) -> Result<usize, Trouble> {
        let told = self.tell(proxy, model).await;
        if matches!(told, Ok(_) | Err(Trouble::Disagrees(..))) && !self.swept {
            let is_over = |backend: &str, server: &str| is_over(model, backend, server);
            proxy.end_connections(&self.worker.older, is_over).await?;
            self.swept = true;
        }
        told
    }

    async fn tell<P: Proxy>(&mut self, proxy: &P, model: &Model) -> Result<usize, Trouble> {
        let Self {
            worker,
            agreed,
            running,
            swept,
        } = self;
        let mut open: Vec<(&str, &Arc<Servers>)> = Vec::new();
        for (service, front, servers) in beside(model.fronts.iter(), agreed.iter()) {
            match servers {
                Some(servers) if Arc::ptr_eq(servers, &front.servers) => continue,
                Some(servers) => drop(running.insert(proxy_name(service), agreeing(servers))),
                None => {}
            }
            open.push((service, &front.servers));
        }
        let rest = |running: &Running| diff(open.iter().map(|(s, it)| (*s, &***it)), running);
        let commands = rest(running);
        if !commands.is_empty() {
            *swept &= commands.iter().all(|command| command.verb != Verb::Remove);
            let complaint = proxy.tell(worker, &commands).await?;
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
                    agreed.remove(service);
                }
                return Err(Trouble::Disagrees(rest, complaint));
            }
        }
        running.clear();
        let open = open.into_iter();
        agreed.extend(open.map(|(service, servers)| (service.to_owned(), servers.clone())));
        Ok(commands.len())
    }
}

/// Whether that server is one of a service in `model`, and isn't wanted any more.
fn is_over(model: &Model, backend: &str, server: &str) -> bool {
    let front = original_name(backend).and_then(|service| model.fronts.get(&service));
    let is_wanted = |servers: &Servers| {
        original_name(server).is_some_and(|instance| servers.contains_key(&instance))
    };
    front.is_some_and(|front| !is_wanted(&front.servers))
}
