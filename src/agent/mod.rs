//! `sidekick agent`: wires the tasks together, and goes through one pass after another.
//!
//! etcd's reader fills the table; the table, its recent past and the names' addresses say what is
//! wanted; a pass brings HAProxy and its file there. While a pass runs, whatever else happens piles
//! up in the channel, and the next pass takes all of it at once.

mod dry_run;
pub(crate) mod event_log;
pub mod haproxy;
mod lock;
mod machine;
pub mod model;
mod poll;
pub(crate) mod reconcile;
mod resolver;
mod status;

pub use dry_run::dry_run;
pub use haproxy::local_servers::haproxy_on_this_machine;

use crate::catalog::{Item, Table};
use crate::clock::{Moment, now};
use crate::config::{AgentConfig, Way};
use crate::etcd::members::Members;
use crate::etcd::reader::{self, Change, Update};
use crate::retry::HAPROXY;
use crate::retry::Retry;
use crate::shutdown::Shutdown;
use crate::systemd::{Pulse, Systemd};
use etcd_client::KeyValue;
use event_log::Telling;
use haproxy::api::{Happening, Proxy, Trouble};
use haproxy::config_file::ConfigFile;
use haproxy::executor::Haproxy;
use haproxy::health::Health;
use haproxy::parse::{parse, remembered};
use haproxy::render::render;
use lock::Locks;
use machine::frame;
use model::backends::Directory;
use model::host_addresses::Addresses;
use model::listeners::Model;
use model::membership::Presence;
use reconcile::{Applier, Report};
use resolver::resolve;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::{info, warn};

/// Updates that wait for a pass to end; more wait in etcd.
const UPDATES_WAITING: usize = 1024;

/// How long the first pass waits for etcd where there is nothing else to serve from.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);

/// After etcd was first heard of, a pass waits so long for names to be looked up: a HAProxy that starts
/// without its servers has to be told of them one by one, which takes 6 s for ten thousand.
const NAMES: Duration = Duration::from_secs(1);

/// How often it is looked whether HAProxy is still the one that we know.
pub(crate) const LOOK: Duration = Duration::from_secs(1);

/// How often HAProxy is asked for everything, though nothing seems to have changed.
pub(crate) const AUDIT: Duration = Duration::from_secs(30);

/// Between two looks at what is due.
pub(crate) const SHORTEST: Duration = Duration::from_millis(1);

/// A server whose connections have to end before it goes is no trouble until after so many tries.
const USUAL_TRIES: u32 = 5;

/// Keeps HAProxy in step with etcd until `shutdown`.
///
/// # Errors
/// Another agent has this file or this HAProxy, the base file is refused, or a task ended that never should.
pub async fn run(config: AgentConfig, shutdown: Shutdown) -> anyhow::Result<()> {
    let mut systemd = Systemd::from_environment();
    let frame = frame(&config);
    let pulse = systemd.pulse("haproxy");
    let (Way::Supervise(socket) | Way::Attach(socket)) = config.way.clone();
    let ours = matches!(config.way, Way::Supervise(_));
    let file = ConfigFile::new(config.haproxy.clone(), config.file.clone());
    let empty = Model {
        stats: config.rules.stats,
        ..Model::default()
    };
    file.make_room()?;
    // Held to the end: until this HAProxy was stopped, no other agent may start one.
    let _locks = Locks::take(file.path(), &config.way)?;
    let text = file.read();
    match file.try_out(&render(&frame, &empty).into()).await {
        // HAProxy, or the file that it starts from, is there already.
        Err(trouble @ Trouble::Full(_)) if text.as_deref().and_then(parse).is_some() => {
            warn!(
                "{trouble}; going on from the file that is there, without trying out the base file"
            );
        }
        result => result?,
    }
    let haproxy = Haproxy::new(
        file,
        socket,
        ours,
        config.server_defaults.clone(),
        pulse.clone(),
    );

    let members = Arc::new(Members::new(&config.etcd)?);
    let last = text.as_deref().and_then(parse).unwrap_or_default();
    let (served, mut addresses) = remembered(&last);
    machine::begin(&mut addresses);
    let (hosts_tx, hosts) = watch::channel(BTreeSet::new());
    let (addresses_tx, addresses) = watch::channel(addresses);
    let (updates_tx, updates) = mpsc::channel(UPDATES_WAITING);
    let mut tasks = JoinSet::new();
    tasks.spawn(reader::read(
        members.clone(),
        config.prefix.clone(),
        updates_tx,
        systemd.pulse("etcd"),
    ));
    tasks.spawn(resolve(
        hosts,
        addresses_tx,
        config.allow.clone(),
        systemd.pulse("names"),
    ));
    let started = now();
    let mut agent = Agent {
        dirty: true,
        look: started,
        audit: started + AUDIT,
        telling: Telling::default(),
        health: Health::default(),
        table: Table::new(config.prefix.clone()),
        heard: None,
        patience: if served.is_empty() && ours {
            started + PATIENCE
        } else {
            started
        },
        may_begin: ours || !served.is_empty(),
        presence: Presence::new(config.keeping, served, started),
        directory: Directory::new(config.allow.clone()),
        applier: Applier::new(haproxy, frame, config.rules.clone(), text),
        updates,
        hosts: hosts_tx,
        addresses,
        lost: members.unreachable_since(),
        trouble: Retry::new(HAPROXY),
        report: Report::default(),
        systemd,
        pulse,
    };
    agent.systemd.ready();

    // Cancel-safe: a JoinSet loses nothing. A pass that is cut short is gone through again by the
    // next agent: its file is renamed or not, its commands are done or not.
    let mut stop = shutdown;
    tokio::select! {
        () = stop.requested() => {}
        () = agent.run() => {}
        Some(ended) = tasks.join_next() => anyhow::bail!("a task ended: {ended:?}"),
    }
    agent.systemd.stopping();
    agent.applier.proxy.stop().await;
    Ok(())
}

fn item(kv: &KeyValue) -> Item<'_> {
    Item {
        key: kv.key(),
        value: kv.value(),
        create_revision: kv.create_revision(),
    }
}

pub(crate) struct Agent<P> {
    /// Something has happened since the last pass.
    pub(crate) dirty: bool,
    /// When HAProxy is looked at again, however much happens until then.
    pub(crate) look: Moment,
    /// When HAProxy is asked for everything again.
    pub(crate) audit: Moment,
    pub(crate) telling: Telling,
    pub(crate) health: Health,
    pub(crate) table: Table,
    /// When etcd was first heard of.
    pub(crate) heard: Option<Moment>,
    /// Until then the first pass waits for etcd.
    pub(crate) patience: Moment,
    /// Whether there is anything to serve without etcd. A HAProxy that isn't ours is left as it is.
    pub(crate) may_begin: bool,
    pub(crate) presence: Presence,
    pub(crate) directory: Directory,
    pub(crate) applier: Applier<P>,
    pub(crate) updates: mpsc::Receiver<Update>,
    pub(crate) hosts: watch::Sender<BTreeSet<String>>,
    pub(crate) addresses: watch::Receiver<Addresses>,
    pub(crate) lost: watch::Receiver<Option<Moment>>,
    /// How the passes have been going.
    pub(crate) trouble: Retry,
    pub(crate) report: Report,
    pub(crate) systemd: Systemd,
    pub(crate) pulse: Pulse,
}

impl<P: Proxy> Agent<P> {
    async fn run(&mut self) {
        loop {
            self.pulse.beat();
            let time = now();
            let turn = self.systemd.turn(time);
            if time >= self.look {
                self.look(time).await;
                self.look = now() + LOOK;
            }
            if self.is_due(time)
                && let Some(result) = self.pass(time).await
            {
                self.passed(result, now());
            }
            // After the pass: that an instance takes no new connections waits for no answer.
            if self.look_at_servers(time).await {
                self.health.looked(time, now());
            }
            self.telling.floods(time);
            self.tell_status();
            let time = now();
            let next = self.next(time).into_iter().chain([self.look]).min();
            let pause = next.map_or(LOOK, |next| next.saturating_sub(time));
            let pause = pause.clamp(SHORTEST, LOOK.min(turn).max(SHORTEST));
            // Cancel-safe, all: channels keep what isn't received, a sleep has no effect, and what
            // happens to HAProxy says so itself.
            tokio::select! {
                Some(update) = self.updates.recv() => self.hear(update),
                Ok(()) = self.addresses.changed() => self.dirty = true,
                Ok(()) = self.lost.changed() => {}
                happening = self.applier.proxy.happens() => self.happened(happening, now()),
                () = sleep(pause) => {}
            }
        }
    }

    /// Whether there is anything to serve yet.
    fn has_begun(&self, time: Moment) -> bool {
        self.heard.is_some() || (self.may_begin && time >= self.patience)
    }

    /// Whether it is time for a pass.
    pub(crate) fn is_due(&mut self, time: Moment) -> bool {
        if time >= self.audit {
            self.applier.forget();
            (self.dirty, self.audit) = (true, time + AUDIT);
        }
        let due = |at: Option<Moment>| at.is_some_and(|at| at <= time);
        self.dirty |=
            due(self.trouble.next()) || due(self.presence.next_change()) || due(self.report.again);
        self.dirty && self.has_begun(time) && self.trouble.next().is_none_or(|next| next <= time)
    }

    /// When it will be, if nothing happens until then; not sooner than trouble allows.
    pub(crate) fn next(&self, time: Moment) -> Option<Moment> {
        if !self.has_begun(time) {
            return self.may_begin.then_some(self.patience);
        }
        let times = [self.presence.next_change(), self.report.again];
        let times = times.into_iter().flatten();
        self.trouble.next().or_else(|| times.min())
    }

    /// That update and all that wait behind it.
    pub(crate) fn hear(&mut self, first: Update) {
        let mut next = Some(first);
        while let Some(update) = next {
            match update {
                Update::Snapshot(kvs) => {
                    self.heard.get_or_insert_with(now);
                    self.table.replace(kvs.iter().map(item));
                }
                Update::Changes(changes) => {
                    for change in changes {
                        match change {
                            Change::Put(kv) => {
                                self.telling.heard(kv.key());
                                self.table.put(item(&kv));
                            }
                            Change::Deleted(key) => {
                                self.telling.heard(&key);
                                self.table.delete(&key);
                            }
                        }
                    }
                }
            }
            next = self.updates.try_recv().ok();
        }
        self.observe(now());
    }

    /// The table may be different now. A key that is put again as it was is nothing new.
    pub(crate) fn observe(&mut self, time: Moment) {
        self.dirty |= self.presence.observe(self.table.services(), time);
        self.telling.junk(&self.table.take_junk(), time);
    }

    pub(crate) fn happened(&mut self, happening: Happening, time: Moment) {
        let again = self.applier.happened(happening, time);
        self.report.again = self.report.again.into_iter().chain(again).min();
    }

    /// `None`: it is too early for one.
    pub(crate) async fn pass(&mut self, time: Moment) -> Option<Result<Report, Trouble>> {
        self.dirty = false;
        self.report.again = None;
        let wanted = self.presence.wanted(time);
        let addresses = self.addresses.borrow_and_update();
        self.directory.listens(self.applier.listeners());
        let other_hosts = self.directory.update(wanted, &addresses);
        drop(addresses);
        if other_hosts {
            self.hosts
                .send_replace(self.directory.hosts().cloned().collect());
        }
        let refused = self.directory.take_refused();
        self.telling.junk(&self.table.refused(refused), time);
        let notes = self.presence.take_notes();
        self.telling.notes(notes, self.presence.hold_time(), time);
        // Each name that is found makes for another pass, and so does the end of the wait.
        let until = self.heard.map(|heard| heard + NAMES);
        if until.is_some_and(|until| until > time) && self.waits_for_names() {
            self.report.again = until;
            self.trouble.hurry();
            return None;
        }
        let result = self.applier.pass(&self.directory, time).await;
        // An instance may be a listener by now, or no longer.
        self.dirty |= self.directory.listens(self.applier.listeners());
        Some(result)
    }

    fn waits_for_names(&self) -> bool {
        let addresses = self.addresses.borrow();
        let mut hosts = self.directory.hosts();
        hosts.any(|host| addresses.get(host).is_none())
    }

    pub(crate) fn passed(&mut self, result: Result<Report, Trouble>, time: Moment) {
        let report = match result {
            Ok(report) => report,
            Err(trouble) => return self.failed(&trouble, time),
        };
        self.telling.passed(&report, time);
        let tries = self.trouble.failures();
        if let Some(notice) = self.trouble.succeeded(time)
            && tries > USUAL_TRIES
        {
            info!(
                "HAProxy is as it should be again, after {} s",
                notice.lasted.as_secs()
            );
        }
        self.report = report;
    }

    fn failed(&mut self, trouble: &Trouble, time: Moment) {
        let usual =
            matches!(trouble, Trouble::Disagrees(..)) && self.trouble.failures() < USUAL_TRIES;
        if usual {
            self.trouble.postpone(time, fastrand::f64());
        } else if let Some(notice) = self.trouble.failed(time, fastrand::f64()) {
            warn!("{trouble} (try {}); retrying", notice.failures);
        }
    }
}
