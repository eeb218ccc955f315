//! `sidekick agent --dry-run`: what would be written now.

use super::{item, resolver};
use crate::agent::haproxy::render::render;
use crate::agent::machine::{self, frame};
use crate::agent::model::backends::Directory;
use crate::agent::model::host_addresses::Addresses;
use crate::agent::model::listeners::lay_out;
use crate::agent::model::membership::Presence;
use crate::catalog::Table;
use crate::clock::now;
use crate::config::AgentConfig;
use crate::etcd::members::Members;
use crate::etcd::reader;
use std::collections::{BTreeMap, BTreeSet};

/// What `sidekick agent` would write now, and what it would leave out.
///
/// # Errors
/// etcd can't be asked.
pub async fn dry_run(config: &AgentConfig) -> anyhow::Result<(String, Vec<String>)> {
    let members = Members::new(&config.etcd)?;
    let kvs = reader::once(&members, &config.prefix).await?;
    let mut table = Table::new(config.prefix.clone());
    table.replace(kvs.iter().map(item));
    let mut presence = Presence::new(config.keeping, BTreeMap::new(), now());
    presence.observe(table.services(), now());
    let mut directory = Directory::new(config.allow.clone());
    let rules = &config.rules;
    let asked = rules.binds.values().chain(&rules.stats);
    directory.listens(asked.chain(&rules.occupied).copied());
    let mut addresses = Addresses::default();
    machine::update(&mut addresses);
    directory.update(presence.wanted(now()), &addresses);
    let hosts: BTreeSet<String> = directory.hosts().cloned().collect();
    let addresses = resolver::once(hosts.clone(), addresses, &config.allow).await;
    directory.update(presence.wanted(now()), &addresses);
    let nothing = BTreeMap::new();
    let (model, refusals) = lay_out(rules, directory.services(), &nothing, &BTreeMap::new());
    let mut junk = table.take_junk();
    junk.extend(table.refused(directory.take_refused()));
    let junk = junk
        .into_iter()
        .map(|junk| format!("quarantined: {}: {}", junk.key, junk.fault));
    let refused = refusals
        .into_iter()
        .map(|refusal| format!("refused: {}: {}", refusal.service, refusal.why));
    let unknown = hosts
        .into_iter()
        .filter(|host| addresses.get(host).is_none());
    let unknown = unknown.map(|host| format!("left out: {host} doesn't resolve"));
    Ok((
        render(&frame(config), &model),
        junk.chain(refused).chain(unknown).collect(),
    ))
}
