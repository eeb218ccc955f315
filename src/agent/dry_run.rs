//! `sidekick agent --dry-run`: the configuration file that the agent would write now.

use super::config::AgentConfig;
use super::control_loop::item;
use super::resolver;
use crate::agent::haproxy::render::render;
use crate::agent::machine::{self, fixed_config};
use crate::agent::model::backends::Backends;
use crate::agent::model::host_addresses::HostAddresses;
use crate::agent::model::listeners::assign_listeners;
use crate::catalog::Catalog;
use crate::clock::now;
use crate::etcd::members::Members;
use crate::etcd::reader;
use crate::membership::Membership;
use std::collections::{BTreeMap, BTreeSet};

/// The file that `sidekick agent` would write now, and a line for each key, listener and host name that it
/// would leave out.
///
/// # Errors
/// No etcd member answers.
pub async fn dry_run(config: &AgentConfig) -> anyhow::Result<(String, Vec<String>)> {
    let members = Members::new(&config.etcd)?;
    let kvs = reader::once(&members, &config.prefix).await?;
    let mut catalog = Catalog::new(config.prefix.clone());
    catalog.replace(kvs.iter().map(item));
    let mut membership = Membership::new(config.retention, BTreeMap::new(), now());
    membership.observe(&catalog.services(), now());
    let mut backends = Backends::new(config.allow.clone());
    let rules = &config.rules;
    let asked = rules.binds.values().chain(&rules.stats);
    backends.set_listeners(asked.chain(&rules.occupied).copied());
    let mut addresses = HostAddresses::default();
    machine::update(&mut addresses);
    backends.update(membership.desired(now()), &addresses);
    let hosts: BTreeSet<String> = backends.hosts().cloned().collect();
    let addresses = resolver::once(hosts.clone(), addresses, &config.allow).await;
    backends.update(membership.desired(now()), &addresses);
    let nothing = BTreeMap::new();
    let (model, refusals) =
        assign_listeners(rules, backends.services(), &nothing, &BTreeMap::new());
    let mut quarantined = catalog.take_quarantined();
    quarantined.extend(catalog.refused(backends.take_refused()));
    let quarantined = quarantined
        .into_iter()
        .map(|quarantined| format!("quarantined: {}: {}", quarantined.key, quarantined.reason));
    let refused = refusals
        .into_iter()
        .map(|refusal| format!("refused: {}: {}", refusal.service, refusal.why));
    let unknown = hosts
        .into_iter()
        .filter(|host| addresses.get(host).is_none());
    let unknown = unknown.map(|host| format!("left out: cannot resolve {host}"));
    Ok((
        render(&fixed_config(config).await, &model),
        quarantined.chain(refused).chain(unknown).collect(),
    ))
}
