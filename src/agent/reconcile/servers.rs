//! Brings the servers of the running worker to what is wanted for them, and ends the connections in the
//! workers of before the last reload that have no server any more. Needs no reload and no file.

use crate::agent::haproxy::api::{Proxy, Trouble, Worker};
use crate::agent::haproxy::parse::original_name;
use crate::agent::haproxy::render::proxy_name;
use crate::agent::haproxy::runtime::{Running, Verb, agreeing, diff};
use crate::agent::model::backends::{Directory, Servers};
use crate::agent::model::listeners::Model;
use itertools::{EitherOrBoth, Itertools};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The worker that was last seen.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) worker: Worker,
    /// Servers with which it agreed, by service.
    agreed: BTreeMap<String, Arc<Servers>>,
    /// Backends that have to be looked at, as it has them.
    running: Running,
    /// The directory's `ends` when the older workers had no connection to a server that was removed.
    swept: Option<u64>,
}

impl Known {
    pub(crate) const fn new(worker: Worker, running: Running) -> Self {
        Self {
            worker,
            agreed: BTreeMap::new(),
            running,
            swept: None,
        }
    }

    /// Puts right those servers about which the worker and `model` may disagree; tells how many changes
    /// that took. `model` has the services that the worker listens for, and no other: one that it listened
    /// for before the last reload may be in the directory alone.
    pub(crate) async fn agree<P: Proxy>(
        &mut self,
        proxy: &P,
        model: &Model,
        directory: &Directory,
    ) -> Result<usize, Trouble> {
        let told = self.tell(proxy, model).await;
        if matches!(told, Ok(_) | Err(Trouble::Disagrees(..)))
            && self.swept != Some(directory.ends())
        {
            let is_over = |backend: &str, server: &str| is_over(model, directory, backend, server);
            proxy.end_connections(&self.worker.older, is_over).await?;
            self.swept = Some(directory.ends());
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
        let both = model
            .fronts
            .iter()
            .merge_join_by(agreed.iter(), |(a, _), (b, _)| a.cmp(b));
        for pair in both {
            let (service, front) = match pair {
                EitherOrBoth::Both((_, front), (_, known))
                    if Arc::ptr_eq(known, &front.servers) =>
                {
                    continue;
                }
                EitherOrBoth::Both((service, front), (_, known)) => {
                    running.insert(proxy_name(service), agreeing(known));
                    (service, front)
                }
                EitherOrBoth::Left(service_and_front) => service_and_front,
                EitherOrBoth::Right(_) => continue,
            };
            open.push((service, &front.servers));
        }
        let rest = |running: &Running| diff(open.iter().map(|(s, it)| (*s, &***it)), running);
        let commands = rest(running);
        if !commands.is_empty() {
            if commands.iter().any(|command| command.verb == Verb::Remove) {
                *swept = None;
            }
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

/// Whether that server is one of a service that is known, and isn't wanted any more.
fn is_over(model: &Model, directory: &Directory, backend: &str, server: &str) -> bool {
    let Some(service) = original_name(backend) else {
        return false;
    };
    let front = model.fronts.get(&service).map(|front| &front.servers);
    let known = directory.services().get(&service).map(|it| &it.servers);
    let is_wanted = |servers: &Arc<Servers>| {
        original_name(server).is_some_and(|instance| servers.contains_key(&instance))
    };
    front.or(known).is_some_and(|servers| !is_wanted(servers))
}
