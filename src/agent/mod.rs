//! `sidekick agent`: wires the tasks together, and goes through one pass after another.
//!
//! etcd's reader fills the table; the table, its recent past and the names' addresses say what is
//! wanted; a pass brings HAProxy and its file there. While a pass runs, whatever else happens piles
//! up in the channel, and the next pass takes all of it at once.

pub mod apply;
mod child;
pub mod diff;
mod file;
mod haproxy;
pub mod layout;
mod master;
pub mod names;
pub mod presence;
pub mod processes;
pub mod render;
mod status;
pub mod table;

use crate::backoff::{Backoff, HAPROXY, Outage};
use crate::clock::{Moment, now};
use crate::config::{AgentConfig, Way};
use crate::endpoint::{Endpoint, Host, Status};
use crate::etcd::members::Members;
use crate::etcd::reader::{self, Change, Update};
use crate::shutdown::Shutdown;
use crate::systemd::{Pulse, Systemd};
use apply::{Applier, Report, Trouble};
use etcd_client::KeyValue;
use file::ConfigFile;
use haproxy::{Haproxy, has_ipv6};
use layout::{Front, Model, Refusal, lay_out};
use names::{Addresses, resolve};
use presence::{Note, Presence, Wanted};
use render::{Frame, parse, render};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use table::{Item, Table};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::{error, info, warn};

/// Updates that wait for a pass to end; more wait in etcd.
const UPDATES_WAITING: usize = 1024;

/// How long the first pass waits for etcd where there is nothing else to serve from.
const PATIENCE: Duration = Duration::from_secs(3);

/// How often it is looked whether HAProxy is still the one that we know.
const LOOK: Duration = Duration::from_secs(1);

/// How often HAProxy is asked for everything, though nothing seems to have changed.
const AUDIT: Duration = Duration::from_secs(30);

/// So many bad keys are told one by one in so long; what a flood has beyond that is told as a number.
const TOLD_ONE_BY_ONE: usize = 500;
const FLOOD: Duration = Duration::from_secs(60);

/// A server whose connections have to end before it goes is no trouble until after so many tries.
const USUAL_TRIES: u32 = 5;

/// Keeps HAProxy in step with etcd until `shutdown`.
///
/// # Errors
/// The base file is refused, or a task ended that never should.
pub async fn run(config: AgentConfig, shutdown: Shutdown) -> anyhow::Result<()> {
    let mut systemd = Systemd::default();
    let frame = frame(&config);
    let pulse = systemd.pulse("haproxy");
    let (Way::Supervise(socket) | Way::Attach(socket)) = config.way.clone();
    let ours = matches!(config.way, Way::Supervise(_));
    let file = ConfigFile {
        binary: config.haproxy.clone(),
        path: config.file.clone(),
    };
    file.try_out(&render(
        &frame,
        &Model {
            stats: config.rules.stats,
            ..Model::default()
        },
    ))
    .await?;
    let haproxy = Haproxy::new(file, socket, ours, pulse.clone());

    let members = Arc::new(Members::new(&config.etcd)?);
    let file = std::fs::read_to_string(&config.file).ok();
    let last = file.as_deref().and_then(parse);
    let (hosts_tx, hosts) = watch::channel(BTreeSet::new());
    let (addresses_tx, addresses) = watch::channel(
        last.iter()
            .flatten()
            .flat_map(|(_, front)| named(front))
            .collect(),
    );
    let (updates_tx, updates) = mpsc::channel(UPDATES_WAITING);
    let mut tasks = JoinSet::new();
    tasks.spawn(reader::read(
        members.clone(),
        config.prefix.clone(),
        updates_tx,
        systemd.pulse("etcd"),
    ));
    tasks.spawn(resolve(hosts, addresses_tx, systemd.pulse("names")));
    let started = now();
    let served = last
        .unwrap_or_default()
        .into_iter()
        .map(|(name, front)| (name, remembered(&front)));
    let served: BTreeMap<String, Wanted> = served.collect();
    let mut agent = Agent {
        flood: Flood {
            began: started,
            seen: 0,
        },
        table: Table::new(config.prefix.clone()),
        heard: None,
        patience: if served.is_empty() && ours {
            started + PATIENCE
        } else {
            started
        },
        may_begin: ours || !served.is_empty(),
        presence: Presence::new(config.keeping, served, started),
        applier: Applier::new(haproxy, frame, config.rules.clone(), file),
        updates,
        hosts: hosts_tx,
        addresses,
        lost: members.unreachable_since(),
        trouble: Trying::default(),
        report: Report::default(),
        told: BTreeSet::new(),
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

/// What `sidekick agent` would write now, and what it would leave out.
///
/// # Errors
/// etcd can't be asked.
pub async fn dry_run(config: &AgentConfig) -> anyhow::Result<(String, Vec<String>)> {
    let members = Members::new(&config.etcd)?;
    let kvs = reader::once(&members, &config.prefix).await?;
    let mut table = Table::new(config.prefix.clone());
    table.replace(kvs.iter().map(item).collect());
    let mut presence = Presence::new(config.keeping, BTreeMap::new(), now());
    presence.observe(table.services(), now());
    let wanted = presence.wanted(now());
    let addresses = names::once(hosts_of(&wanted)).await;
    let (model, refusals) = lay_out(&config.rules, &wanted, &addresses, &BTreeMap::new());
    let junk = table
        .take_junk()
        .into_iter()
        .map(|junk| format!("quarantined: {}: {}", junk.key, junk.fault));
    let refused = refusals
        .into_iter()
        .map(|refusal| format!("refused: {}: {}", refusal.service, refusal.why));
    let unknown = hosts_of(&wanted)
        .into_iter()
        .filter(|host| !addresses.contains_key(host));
    let unknown = unknown.map(|host| format!("left out: {host} doesn't resolve"));
    Ok((
        render(&frame(config), &model),
        junk.chain(refused).chain(unknown).collect(),
    ))
}

fn frame(config: &AgentConfig) -> Frame {
    let (Way::Supervise(socket) | Way::Attach(socket)) = &config.way;
    Frame {
        base: config.base.clone(),
        ipv6: has_ipv6(),
        idle: format!("{}.idle", socket.display()),
    }
}

/// What the file says of a service, as if etcd had said it.
fn remembered(front: &Front) -> Wanted {
    let instances = front.servers.iter().filter_map(|(name, server)| {
        let host = match &server.host {
            Some(host) => host.parse().ok()?,
            None => Host::Ip(server.address.ip()),
        };
        let endpoint = Endpoint {
            host,
            port: server.address.port().try_into().ok()?,
            container: None,
            since: None,
            status: server.draining.then_some(Status::Draining),
            meta: BTreeMap::new(),
        };
        Some((name.clone(), endpoint))
    });
    Wanted {
        port: front.bind.port(),
        instances: instances.collect(),
    }
}

fn named(front: &Front) -> impl Iterator<Item = (String, std::net::IpAddr)> {
    front
        .servers
        .values()
        .filter_map(|server| Some((server.host.clone()?, server.address.ip())))
}

fn hosts_of(wanted: &BTreeMap<String, Wanted>) -> BTreeSet<String> {
    let endpoints = wanted.values().flat_map(|wanted| wanted.instances.values());
    let names = endpoints.filter_map(|endpoint| match &endpoint.host {
        Host::Name(name) => Some(name.clone()),
        Host::Ip(_) => None,
    });
    names.collect()
}

fn item(kv: &KeyValue) -> Item {
    Item {
        key: kv.key().to_vec(),
        value: kv.value().to_vec(),
        create_revision: kv.create_revision(),
    }
}

/// How the passes have been going.
struct Trying {
    backoff: Backoff,
    outage: Outage,
    /// Not before then.
    next: Option<Moment>,
}

impl Default for Trying {
    fn default() -> Self {
        Self {
            backoff: Backoff::new(HAPROXY),
            outage: Outage::default(),
            next: None,
        }
    }
}

/// Bad keys within one stretch of time.
struct Flood {
    began: Moment,
    seen: usize,
}

struct Agent {
    flood: Flood,
    table: Table,
    /// When etcd was first heard of.
    heard: Option<Moment>,
    /// Until then the first pass waits for etcd.
    patience: Moment,
    /// Whether there is anything to serve without etcd. A HAProxy that isn't ours is left as it is.
    may_begin: bool,
    presence: Presence,
    applier: Applier<Haproxy>,
    updates: mpsc::Receiver<Update>,
    hosts: watch::Sender<BTreeSet<String>>,
    addresses: watch::Receiver<Addresses>,
    lost: watch::Receiver<Option<Moment>>,
    trouble: Trying,
    report: Report,
    told: BTreeSet<Refusal>,
    systemd: Systemd,
    pulse: Pulse,
}

impl Agent {
    async fn run(&mut self) {
        let watchdog = Systemd::watchdog_interval().unwrap_or(LOOK);
        let (mut dirty, mut audit) = (true, now() + AUDIT);
        loop {
            self.pulse.beat();
            self.systemd.alive();
            let time = now();
            if time >= audit {
                self.applier.forget();
                (dirty, audit) = (true, time + AUDIT);
            }
            let due = |at: Option<Moment>| at.is_some_and(|at| at <= time);
            dirty |= due(self.trouble.next)
                || due(self.presence.next_change())
                || due(self.report.again);
            let begun = self.heard.is_some() || (self.may_begin && time >= self.patience);
            if dirty && begun && self.trouble.next.is_none_or(|next| next <= time) {
                self.pass(time).await;
                dirty = false;
            }
            self.tell_of_floods(time);
            self.tell_status();
            let next = [
                self.trouble.next,
                self.presence.next_change(),
                self.report.again,
                (!begun).then_some(self.patience),
            ];
            let next = next
                .into_iter()
                .flatten()
                .min()
                .map(|at| at.saturating_sub(now()).max(Duration::from_millis(1)));
            let pause = next.unwrap_or(LOOK).min(LOOK).min(watchdog);
            // Cancel-safe, all: channels keep what isn't received, a sleep has no effect, and what
            // happens to HAProxy says so itself. The look at it runs in its arm, uncancelled.
            tokio::select! {
                Some(update) = self.updates.recv() => {
                    self.hear(update);
                    dirty = true;
                }
                Ok(()) = self.addresses.changed() => dirty = true,
                Ok(()) = self.lost.changed() => {}
                result = self.applier.happens() => match result {
                    Ok(needed) => dirty |= needed,
                    Err(trouble) => self.failed(&trouble),
                },
                () = sleep(pause) => dirty |= begun && self.applier.has_changed().await,
            }
        }
    }

    /// That update and all that wait behind it.
    fn hear(&mut self, first: Update) {
        let mut next = Some(first);
        while let Some(update) = next {
            match update {
                Update::Snapshot(kvs) => {
                    self.heard.get_or_insert_with(now);
                    self.table.replace(kvs.iter().map(item).collect());
                }
                Update::Changes(changes) => {
                    for change in changes {
                        match change {
                            Change::Put(kv) => self.table.put(item(&kv)),
                            Change::Deleted(key) => self.table.delete(&key),
                        }
                    }
                }
            }
            next = self.updates.try_recv().ok();
        }
        self.presence.observe(self.table.services(), now());
        for junk in self.table.take_junk() {
            self.flood.seen += 1;
            if self.flood.seen <= TOLD_ONE_BY_ONE {
                warn!(key = junk.key, "quarantined: {}", junk.fault);
            }
        }
    }

    fn tell_of_floods(&mut self, time: Moment) {
        if time.saturating_sub(self.flood.began) < FLOOD {
            return;
        }
        let more = self.flood.seen.saturating_sub(TOLD_ONE_BY_ONE);
        if more > 0 {
            warn!("quarantined: {more} keys more");
        }
        self.flood = Flood {
            began: time,
            seen: 0,
        };
    }

    async fn pass(&mut self, time: Moment) {
        let wanted = self.presence.wanted(time);
        self.tell_notes();
        let hosts = hosts_of(&wanted);
        self.hosts.send_if_modified(|old| {
            let changed = *old != hosts;
            *old = hosts;
            changed
        });
        let addresses = self.addresses.borrow_and_update().clone();
        match self.applier.pass(&wanted, &addresses, time).await {
            Ok(report) => self.passed(report),
            Err(trouble) => self.failed(&trouble),
        }
    }

    fn passed(&mut self, report: Report) {
        self.trouble.next = None;
        if report.reloaded || report.changes > 0 {
            let how = if report.reloaded {
                "reloaded"
            } else {
                "without a reload"
            };
            info!(
                "{} services, {} instances ({} changes, {how})",
                report.fronts, report.servers, report.changes
            );
        }
        let tries = self.trouble.backoff.failures();
        self.trouble.backoff.reset();
        self.trouble.next = None;
        if let Some(notice) = self.trouble.outage.recovered(now())
            && tries > USUAL_TRIES
        {
            info!(
                "HAProxy is as it should be again, after {} s",
                notice.lasted.as_secs()
            );
        }
        for refusal in &report.refusals {
            if self.told.insert(refusal.clone()) {
                error!(service = refusal.service, "refused: {}", refusal.why);
            }
        }
        self.told
            .retain(|refusal| report.refusals.contains(refusal));
        self.report = report;
    }

    fn failed(&mut self, trouble: &Trouble) {
        let pause = self.trouble.backoff.next_pause(fastrand::f64());
        self.trouble.next = Some(now() + pause);
        let usual = matches!(trouble, Trouble::Disagrees(..))
            && self.trouble.backoff.failures() <= USUAL_TRIES;
        if !usual && let Some(notice) = self.trouble.outage.failed(now()) {
            warn!("{trouble} (try {}); retrying", notice.failures);
        }
    }

    fn tell_notes(&mut self) {
        let hold = self.presence.hold_time().as_secs();
        for note in self.presence.take_notes() {
            match note {
                Note::Held(service, count) => error!(
                    service,
                    "{count} instances left etcd at a blow: keeping them for {hold} s, HAProxy's checks decide meanwhile"
                ),
                Note::LetGo(service, count) => warn!(
                    service,
                    "{count} instances didn't come back: letting them go"
                ),
                Note::Forgotten(service) => {
                    info!(service, "had no instance for long enough: its front goes")
                }
            }
        }
    }

    fn tell_status(&mut self) {
        let counts = status::Counts {
            fronts: self.report.fronts,
            servers: self.report.servers,
            quarantined: self.table.quarantined(),
            refused: self.report.refusals.len(),
            held: self.presence.held(),
        };
        let etcd_lost = *self.lost.borrow_and_update();
        let line = status::line(
            &counts,
            self.heard.is_some(),
            etcd_lost,
            self.trouble.outage.since(),
            now(),
        );
        self.systemd.status(line);
    }
}
