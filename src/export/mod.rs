//! `sidekick export`: the registered instances in the formats of other readers, printed once, or in a file that follows
//! etcd. Writes nothing to etcd.

mod config;
pub mod envoy;
mod file;
pub mod prometheus;

pub use config::{ExportArgs, ExportConfig, ExportFormat};

use crate::agent::model::allow::Allow;
use crate::agent::model::host_addresses::HostAddresses;
use crate::agent::resolver;
use crate::catalog::{Catalog, Instances, QuarantineReason, QuarantinedKey, RawKeyValue, Services};
use crate::clock::{Moment, now};
use crate::endpoint::Host;
use crate::etcd::members::Members;
use crate::etcd::reader::{self, Change, Update};
use crate::log_throttle::Repeats;
use crate::log_writer::{flush, say};
use crate::membership::{DesiredService, Membership, MembershipEvent, Retention};
use crate::retry::{FILE, Retry};
use crate::shutdown::Shutdown;
use crate::systemd::Systemd;
use envoy::{discovery_response, parse_discovery_response};
use etcd_client::KeyValue;
use file::ExportFile;
use prometheus::{parse_targets, targets};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::{error, info, warn};

/// The most updates that wait while the file is written; further ones wait in etcd.
const UPDATES_WAITING: usize = 1024;

/// The least time between two versions of the file: a reader parses each of them as a whole.
const MIN_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause of the loop: timers stand still while the machine is suspended.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How long the first version of the file waits for names to resolve.
const RESOLVE_WAIT: Duration = Duration::from_secs(1);

/// How long a service without instances stays in Envoy's file, as a cluster without endpoints: the agent's `--forget`.
const FORGET: Duration = Duration::from_secs(3600);

/// Prints once, or keeps the file in step with etcd until `shutdown`.
///
/// # Errors
/// Without a file: etcd doesn't answer, or refuses. With one: it holds something that `export` has not written, or a
/// task ended; etcd is retried for ever.
pub async fn run(config: &ExportConfig, shutdown: Shutdown) -> anyhow::Result<()> {
    match &config.file {
        None => print(config).await,
        Some(path) => follow(config, path, shutdown).await,
    }
}

async fn print(config: &ExportConfig) -> anyhow::Result<()> {
    let members = Members::new(&config.etcd)?;
    let kvs = reader::once(&members, &config.prefix).await?;
    let mut catalog = Catalog::new(config.prefix.clone());
    catalog.replace(kvs.iter().map(item));
    let services = catalog.services();
    for left_out in catalog.take_quarantined() {
        say(format_args!("{}: {}", left_out.key, why(&left_out)));
    }
    let mut addresses = HostAddresses::default();
    if config.format == ExportFormat::Envoy {
        let names = names(&services);
        addresses = resolver::once(names.clone(), addresses, &Allow::default()).await;
        for name in names.iter().filter(|name| addresses.get(name).is_none()) {
            say(format_args!("left out: cannot resolve {name}"));
        }
    }
    // Messages precede the result, where both go to one terminal.
    flush();
    let text = render(config.format, &services, &addresses);
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

async fn follow(config: &ExportConfig, path: &Path, mut shutdown: Shutdown) -> anyhow::Result<()> {
    let mut systemd = Systemd::from_environment();
    let members = Arc::new(Members::new(&config.etcd)?);
    let file = ExportFile::new(path.to_owned());
    let (last, known) = last_written(config.format, file.read()).ok_or_else(|| {
        anyhow::anyhow!(
            "{} was not written by this export; remove it, or name another file with --file",
            path.display()
        )
    })?;
    let (hosts_tx, hosts) = watch::channel(BTreeSet::new());
    let (addresses_tx, addresses) = watch::channel(known);
    let (updates_tx, updates) = mpsc::channel(UPDATES_WAITING);
    let mut tasks = JoinSet::new();
    let (etcd, names) = (systemd.pulse("etcd"), systemd.pulse("names"));
    let prefix = config.prefix.clone();
    tasks.spawn(reader::read(members.clone(), prefix, updates_tx, etcd));
    if config.format == ExportFormat::Envoy {
        tasks.spawn(resolver::resolve(
            hosts,
            addresses_tx,
            Allow::default(),
            names,
        ));
    }
    let retention = Retention {
        hold: config.hold,
        forget: FORGET,
        drain: Duration::ZERO,
    };
    let mut exporter = Exporter {
        format: config.format,
        catalog: Catalog::new(config.prefix.clone()),
        membership: Membership::new(retention, last, now()),
        hosts: hosts_tx,
        addresses,
        file,
        heard: None,
        due: None,
        retry: Retry::new(FILE),
        logged: Repeats::default(),
    };
    systemd.ready();
    // Cancel-safe: a JoinSet loses nothing, and a version of the file that was being written is written by the next start.
    let result = tokio::select! {
        () = shutdown.requested() => Ok(()),
        () = exporter.run(updates, &mut systemd, &members) => Ok(()),
        Some(ended) = tasks.join_next() => Err(anyhow::anyhow!("a task ended: {ended:?}")),
    };
    systemd.stopping();
    result
}

/// What the file says of the last run: without a file nothing, and `None` where it holds something else.
fn last_written(
    format: ExportFormat,
    text: Option<String>,
) -> Option<(BTreeMap<String, DesiredService>, HostAddresses)> {
    let text = text.filter(|text| !text.trim().is_empty());
    let (services, addresses) = match (text, format) {
        (None, _) => (Services::new(), Vec::new()),
        (Some(text), ExportFormat::Prometheus) => (parse_targets(&text)?, Vec::new()),
        (Some(text), ExportFormat::Envoy) => parse_discovery_response(&text)?,
    };
    let service = |(name, instances): (String, Instances)| {
        let ports = instances.values().map(|it| it.port.get());
        let port = ports.min().unwrap_or_default();
        (name, DesiredService { port, instances })
    };
    Some((
        services.into_iter().map(service).collect(),
        addresses.into_iter().collect(),
    ))
}

fn render(format: ExportFormat, services: &Services, addresses: &HostAddresses) -> String {
    match format {
        ExportFormat::Prometheus => targets(services),
        ExportFormat::Envoy => discovery_response(services, |name| addresses.get(name)),
    }
}

fn names(services: &Services) -> BTreeSet<String> {
    let all = services.values().flat_map(Instances::values);
    let names = all.filter_map(|it| match &it.host {
        Host::Name(name) => Some(name.clone()),
        Host::Ip(_) => None,
    });
    names.collect()
}

fn item(kv: &KeyValue) -> RawKeyValue<'_> {
    RawKeyValue {
        key: kv.key(),
        value: kv.value(),
        create_revision: kv.create_revision(),
    }
}

/// Why a key is left out, for these readers.
fn why(left_out: &QuarantinedKey) -> String {
    match &left_out.reason {
        QuarantineReason::Protocol(protocol) => {
            let protocol = protocol.to_string().to_uppercase();
            format!(
                "left out: the instance speaks {protocol}, and this export is of those that speak TCP"
            )
        }
        reason => format!("quarantined: {reason}"),
    }
}

/// The only task that writes the file.
struct Exporter {
    format: ExportFormat,
    catalog: Catalog,
    membership: Membership,
    /// The names that the resolver is to look up.
    hosts: watch::Sender<BTreeSet<String>>,
    addresses: watch::Receiver<HostAddresses>,
    file: ExportFile,
    /// When etcd first told what is registered; before that the file stays as it is.
    heard: Option<Moment>,
    /// When the next version is to be written; `None`: nothing has changed.
    due: Option<Moment>,
    /// The writes that failed.
    retry: Retry,
    /// Lines about keys and services.
    logged: Repeats,
}

impl Exporter {
    async fn run(
        &mut self,
        mut updates: mpsc::Receiver<Update>,
        systemd: &mut Systemd,
        members: &Members,
    ) {
        let pulse = systemd.pulse("file");
        let mut etcd_lost = members.unreachable_since();
        loop {
            pulse.beat();
            let time = now();
            let turn = systemd.turn(time);
            if self.heard.is_some() && self.next().is_some_and(|next| next <= time) {
                self.write(time).await;
            }
            if let Some(more) = self.logged.flood(time) {
                warn!("{more} more lines about keys and services are not logged one by one");
            }
            systemd.status(self.status(etcd_lost.borrow_and_update().is_some()));
            let next = self.heard.and(self.next());
            let pause = next.map_or(LONGEST_PAUSE, |next| next.saturating_sub(now()));
            let pause = pause.min(LONGEST_PAUSE).min(turn);
            // Cancel-safe, all: channels keep what is not received, and a sleep has no effect.
            tokio::select! {
                Some(update) = updates.recv() => {
                    self.take(update);
                    while let Ok(update) = updates.try_recv() {
                        self.take(update);
                    }
                    self.observe(now());
                }
                Ok(()) = self.addresses.changed() => self.is_due(now()),
                Ok(()) = etcd_lost.changed() => {}
                () = sleep(pause) => {}
            }
        }
    }

    /// When the next version is to be written: after a change, after a write that failed, or when a hold ends.
    fn next(&self) -> Option<Moment> {
        match self.retry.next() {
            Some(retry) => Some(retry),
            None => self
                .due
                .into_iter()
                .chain(self.membership.next_change())
                .min(),
        }
    }

    fn is_due(&mut self, time: Moment) {
        self.due.get_or_insert(time);
    }

    fn take(&mut self, update: Update) {
        match update {
            Update::Snapshot(all) => {
                self.heard.get_or_insert_with(now);
                self.catalog.replace(all.iter().map(item));
                // Also where nothing has changed: there may be no file yet.
                self.is_due(now());
            }
            Update::Changes(changes, _) => {
                for change in changes {
                    match change {
                        Change::Put(kv) => self.catalog.put(item(&kv)),
                        Change::Deleted(key) => self.catalog.delete(&key),
                    }
                }
            }
        }
    }

    fn observe(&mut self, time: Moment) {
        if self.membership.observe(&self.catalog.services(), time) {
            self.is_due(time);
        }
        for left_out in self.catalog.take_quarantined() {
            if self.logged.happened(&left_out.key, time).is_some() {
                warn!(key = left_out.key, "{}", why(&left_out));
            }
        }
    }

    async fn write(&mut self, time: Moment) {
        self.due = None;
        let desired = self.membership.desired(time);
        let services: Services = desired
            .map(|(name, it)| (name.clone(), it.instances))
            .collect();
        self.log_events(time);
        if self.format == ExportFormat::Envoy && self.waits_for_names(&services, time) {
            return;
        }
        let text = render(self.format, &services, &self.addresses.borrow());
        match self.file.write(text).await {
            Ok(written) => {
                if let Some(notice) = self.retry.succeeded(time) {
                    let seconds = notice.lasted.as_secs();
                    info!("the file can be written again after {seconds} s");
                }
                // What comes now is written a little later, together.
                if written {
                    sleep(MIN_PAUSE).await;
                }
            }
            Err(error) => {
                if let Some(notice) = self.retry.failed(time, fastrand::f64()) {
                    let (path, tries) = (self.file.path().display(), notice.failures);
                    error!(
                        "cannot write {path}: {error} (try {tries}); its readers keep the last version; retrying"
                    );
                }
            }
        }
    }

    /// Tells the resolver which names are used; whether the first version waits for them.
    fn waits_for_names(&mut self, services: &Services, time: Moment) -> bool {
        let names = names(services);
        let until = self.heard.map_or(time, |heard| heard + RESOLVE_WAIT);
        let unknown = names
            .iter()
            .any(|name| self.addresses.borrow().get(name).is_none());
        self.hosts.send_if_modified(|hosts| {
            let other = *hosts != names;
            *hosts = names;
            other
        });
        let waits = unknown && time < until;
        if waits {
            self.due = Some(until);
        }
        waits
    }

    fn log_events(&mut self, time: Moment) {
        let hold = self.membership.hold_time().as_secs();
        for event in self.membership.take_events() {
            let (service, what) = match &event {
                MembershipEvent::Held(service, _) => (service, "held"),
                MembershipEvent::HoldEnded(service, _) => (service, "let go"),
                MembershipEvent::Displaced(service, _) => (service, "displaced"),
                MembershipEvent::Forgotten(_) => continue,
            };
            if self
                .logged
                .happened(&format!("{service} {what}"), time)
                .is_none()
            {
                continue;
            }
            match event {
                MembershipEvent::Held(service, count) => error!(
                    service,
                    "{count} instances disappeared from etcd at once; they stay in the file for {hold} s"
                ),
                MembershipEvent::HoldEnded(service, count) => warn!(
                    service,
                    "{count} instances that disappeared at once did not come back to etcd; removing them from the file"
                ),
                MembershipEvent::Displaced(service, count) => warn!(
                    service,
                    "{count} instances that disappeared at once are removed from the file; other keys announce their addresses now"
                ),
                MembershipEvent::Forgotten(_) => {}
            }
        }
    }

    fn status(&self, etcd_lost: bool) -> String {
        let held = self.membership.held();
        let mut status = match (self.heard, self.retry.since()) {
            (None, _) => "waiting for etcd".to_owned(),
            (Some(_), Some(_)) => format!("cannot write {}", self.file.path().display()),
            (Some(_), None) => format!("{} follows etcd", self.file.path().display()),
        };
        if self.heard.is_some() && etcd_lost {
            status.push_str("; etcd is unreachable, the file stays as it is");
        }
        if held > 0 {
            status.push_str(&format!(
                "; {held} instances that disappeared at once are held"
            ));
        }
        status
    }
}
