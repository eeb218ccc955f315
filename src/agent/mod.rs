//! `sidekick agent`: takes the locks, starts the tasks and runs the control loop until shutdown.
//!
//! etcd's reader fills the catalog; membership decides which instances count as present, backends resolves
//! their addresses, listeners assigns the ports. Each pass of the reconciler brings HAProxy and its
//! configuration file there.

pub mod config;
pub(crate) mod control_loop;
mod control_writer;
pub(crate) mod drain;
mod dry_run;
pub(crate) mod event_log;
pub mod haproxy;
mod identity;
mod lock;
mod machine;
pub mod model;
pub(crate) mod monitor;
mod page;
pub(crate) mod reconcile;
pub(crate) mod resolver;
pub(crate) mod schedule;
mod status;

pub use config::{AgentArgs, AgentConfig, HaproxyMode};
pub use dry_run::dry_run;
pub use haproxy::local_servers::haproxy_on_this_machine;

use crate::catalog::Catalog;
use crate::clock::now;
use crate::etcd::members::Members;
use crate::etcd::reader;
use crate::membership::{DesiredService, Membership};
use crate::shutdown::Shutdown;
use crate::systemd::Systemd;
use control_loop::draining::{ControlKeys, Draining};
use control_loop::{ControlLoop, DesiredState, Inputs};
use control_writer::ControlWriter;
use event_log::EventLog;
use haproxy::api::ProxyError;
use haproxy::config_file::ConfigFile;
use haproxy::executor::HaproxyExecutor;
use haproxy::file_content::FileContent;
use haproxy::health::HealthMonitor;
use haproxy::parse::{last_served, parse};
use haproxy::render::FixedConfig;
use lock::Locks;
use machine::fixed_config;
use model::backends::Backends;
use model::host_addresses::HostAddresses;
use model::listeners::Model;
use monitor::AgentMonitor;
use reconcile::{PassReport, Reconciler};
use resolver::resolve;
use schedule::Schedule;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tracing::warn;

/// How many updates wait for a pass to end; further ones wait in etcd.
const UPDATES_WAITING: usize = 1024;

/// Keeps HAProxy in step with etcd until `shutdown`.
///
/// # Errors
/// Another agent uses this file or this HAProxy, `haproxy -c` refuses the base file, or a task ended.
pub async fn run(config: AgentConfig, mut shutdown: Shutdown) -> anyhow::Result<()> {
    let mut systemd = Systemd::from_environment();
    let members = Arc::new(Members::new(&config.etcd)?);
    let monitor = AgentMonitor::new(config.listen, &members, &systemd)?;
    let fixed_config = fixed_config(&config).await;
    let pulse = systemd.pulse("haproxy");
    let socket = config.haproxy_mode.socket().to_owned();
    let ours = matches!(config.haproxy_mode, HaproxyMode::Supervise(_));
    let file = ConfigFile::new(config.haproxy.clone(), config.file.clone());
    file.create_directory()?;
    // Held until this HAProxy has stopped: before that no other agent may start one.
    let _locks = Locks::take(file.path(), &config.haproxy_mode)?;
    let text = try_base(&file, &fixed_config, &config).await?;
    let haproxy = HaproxyExecutor::new(
        file,
        socket,
        ours,
        config.server_defaults.clone(),
        pulse.clone(),
    );
    let (served, addresses) = last_known(text.as_deref());
    let (hosts_tx, hosts) = watch::channel(BTreeSet::new());
    let (addresses_tx, addresses) = watch::channel(addresses);
    let (updates_tx, updates) = mpsc::channel(UPDATES_WAITING);
    let mut tasks = JoinSet::new();
    let (etcd, names) = (systemd.pulse("etcd"), systemd.pulse("names"));
    let (prefix, allow) = (config.prefix.clone(), config.allow.clone());
    tasks.spawn(reader::read(members.clone(), prefix, updates_tx, etcd));
    tasks.spawn(resolve(hosts, addresses_tx, allow, names));
    let (draining, mut writer) = control_keys(&config, &members, &mut systemd);
    let started = now();
    let mut agent = ControlLoop {
        schedule: Schedule::new(started, !served.is_empty(), ours),
        inputs: Inputs {
            updates,
            hosts: hosts_tx,
            addresses,
            etcd_lost: members.unreachable_since(),
        },
        desired: DesiredState {
            catalog: Catalog::new(config.prefix.clone()),
            membership: Membership::new(config.retention, served, started),
            backends: Backends::new(config.allow.clone()),
        },
        reconciler: Reconciler::new(haproxy, fixed_config, config.rules.clone(), text),
        report: PassReport::default(),
        health: HealthMonitor::default(),
        draining,
        event_log: EventLog::default(),
        monitor,
        systemd,
        pulse,
    };
    agent.systemd.ready();

    // Cancel-safe: a JoinSet loses nothing. The next agent repeats a pass that was cut short: the file is
    // renamed or not, each command is done or not.
    tokio::select! {
        () = shutdown.requested() => {}
        () = agent.run() => {}
        Some(ended) = tasks.join_next() => anyhow::bail!("a task ended: {ended:?}"),
        ended = &mut writer => anyhow::bail!("the writer of control keys ended: {ended:?}"),
    }
    agent.systemd.stopping();
    agent.reconciler.proxy.stop().await;
    // Then no connection goes to an instance any more, and the agent's keys can go. The writer ends with its sender.
    drop(agent);
    let _ = writer.await;
    Ok(())
}

/// The drains, and the task that writes what they say.
fn control_keys(
    config: &AgentConfig,
    members: &Arc<Members>,
    systemd: &mut Systemd,
) -> (Draining, JoinHandle<()>) {
    let id = identity::agent_id(&config.file);
    let (keys, desired) = watch::channel(ControlKeys::new());
    let writer = ControlWriter {
        members: members.clone(),
        control: config.control.clone(),
        id: id.clone(),
        desired,
        pulse: systemd.pulse("control keys"),
    };
    let draining = Draining::new(config.control.clone(), id, keys);
    (draining, tokio::spawn(writer.run()))
}

/// Lets HAProxy check the base file, without any service; returns the text of the existing file.
async fn try_base(
    file: &ConfigFile,
    fixed_config: &FixedConfig,
    config: &AgentConfig,
) -> anyhow::Result<Option<String>> {
    let text = file.read();
    let empty = Model {
        stats: config.rules.stats,
        ..Model::default()
    };
    let empty = FileContent::Rendered(Arc::new(fixed_config.clone()), empty);
    match file.try_out(&empty).await {
        // HAProxy already runs, or can start from the existing file.
        Err(error @ ProxyError::DiskFull(_)) if text.as_deref().and_then(parse).is_some() => {
            warn!("{error}; continuing with the existing file; the base file is not checked");
        }
        result => result?,
    }
    Ok(text)
}

/// What the existing file serves, and the addresses that its host names had, and this machine's.
fn last_known(text: Option<&str>) -> (BTreeMap<String, DesiredService>, HostAddresses) {
    let last = text.and_then(parse).unwrap_or_default();
    let (served, mut addresses) = last_served(&last);
    machine::begin(&mut addresses);
    (served, addresses)
}
