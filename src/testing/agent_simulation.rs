//! The whole agent in seeded virtual time: an etcd that is lost, emptied and read again, names that move, a
//! clock that leaps, and a HAProxy that fails, dies and is changed by others. The tests play
//! `ControlLoop::run`, and only what wakes that wakes them.

mod draining;
mod etcd;
mod leaving;
mod settling;

use crate::agent::control_loop::draining::{ControlKeys, Draining};
use crate::agent::control_loop::{ControlLoop, DesiredState, Inputs};
use crate::agent::event_log::EventLog;
use crate::agent::haproxy::api::HaproxyApi;
use crate::agent::haproxy::health::HealthMonitor;
use crate::agent::model::backends::Backends;
use crate::agent::model::host_addresses::HostAddresses;
use crate::agent::model::listeners::ListenerRules;
use crate::agent::monitor::AgentMonitor;
use crate::agent::reconcile::{PassReport, Reconciler};
use crate::agent::schedule::{MIN_PAUSE, POLL_INTERVAL, Schedule};
use crate::catalog::Catalog;
use crate::clock::Moment;
use crate::endpoint::Host;
use crate::endpoint::control::{ControlPrefix, InstanceName};
use crate::membership::Membership;
use crate::membership::Retention;
use crate::systemd::{Pulse, Systemd};
use crate::testing::config_grammar::fixed_config;
use crate::testing::fake_haproxy::{FakeHaproxy, FakeWorld, ListeningState, now_or_never};
use crate::testing::seeds::{must_be_none, run_all, seeds};
use etcd::FakeEtcd;
use leaving::LeavingServers;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

const RETENTION: Retention = Retention {
    hold: Duration::from_secs(30),
    forget: Duration::from_secs(120),
    drain: Duration::from_secs(20),
};

/// The agent's own machine.
const HERE: &str = "10.0.0.3";

/// The most passes that a second may take: a reload, and updates of servers meanwhile.
const PASSES_A_SECOND: usize = 120;

struct AgentScene {
    agent: ControlLoop<FakeHaproxy>,
    etcd: FakeEtcd,
    addresses: watch::Sender<HostAddresses>,
    /// What the agent wants its control keys to be.
    control_keys: watch::Receiver<ControlKeys>,
    /// Where HAProxy dialled each instance when it drained last: its key, and its name's address, may be others by now.
    drained_at: BTreeMap<InstanceName, SocketAddr>,
    resolver: BTreeMap<String, [u8; 4]>,
    resolve_at: Moment,
    now: Moment,
    /// Servers of services that disappeared at once, where they are, and until when they have to stay.
    held: BTreeMap<String, (Host, u16, Moment)>,
    /// Instances that have left, and keys that blink.
    leaving: LeavingServers,
    /// Since when, and how many.
    passes: (Moment, usize),
    /// When another process changed a server, which only an audit sees.
    meddled: Option<Moment>,
    /// Whether another process used one of the ports.
    crowded: bool,
    rng: fastrand::Rng,
}

/// What happened, to prove that the schedule does something.
#[derive(Debug, Default)]
struct Totals {
    passes: usize,
    reloads: u32,
    held: usize,
    leaps: usize,
    torn: u32,
    /// Times at which no file could be written, or no reload could succeed.
    stuck: usize,
    /// Keys that came back while their instance was leaving, at the same address.
    blinks: usize,
    /// Words that were given.
    words: usize,
    /// Runs of which the end was timed.
    timed: usize,
    /// From the end of all faults until HAProxy had what etcd said, in the worst case.
    slowest: Duration,
}

impl Totals {
    fn join(&mut self, other: &Self) {
        self.passes += other.passes;
        self.reloads += other.reloads;
        self.held += other.held;
        self.leaps += other.leaps;
        self.torn += other.torn;
        self.stuck += other.stuck;
        self.blinks += other.blinks;
        self.words += other.words;
        self.timed += other.timed;
        self.slowest = self.slowest.max(other.slowest);
    }
}

impl AgentScene {
    fn new(seed: u64) -> Self {
        // The backoffs' jitter comes from the thread's own generator.
        fastrand::seed(seed);
        let rng = fastrand::Rng::with_seed(seed);
        let world = FakeWorld {
            rng: fastrand::Rng::with_seed(seed),
            sees: rng.clone().bool(),
            talks: rng.clone().u8(..) < 128,
            ..FakeWorld::default()
        };
        let now = Moment::from_secs(1000);
        let (hosts, _) = watch::channel(BTreeSet::new());
        let mut own = HostAddresses::default();
        own.set_own(BTreeSet::from([[10, 0, 0, 3].into()]));
        let (addresses, seen) = watch::channel(own);
        let (keys, control_keys) = watch::channel(ControlKeys::new());
        let control = ControlPrefix::of("/services");
        let agent = ControlLoop {
            schedule: Schedule::new(now, false, true),
            inputs: Inputs {
                updates: mpsc::channel(1).1,
                hosts,
                addresses: seen,
                etcd_lost: watch::channel(None).1,
            },
            desired: DesiredState {
                catalog: Catalog::new("/services".to_owned()),
                membership: Membership::new(RETENTION, BTreeMap::new(), now),
                backends: Backends::default(),
            },
            reconciler: Reconciler::new(
                FakeHaproxy(world.into()),
                fixed_config(),
                ListenerRules::default(),
                None,
            ),
            report: PassReport::default(),
            health: HealthMonitor::default(),
            draining: Draining::new(control, "agent".to_owned(), keys),
            event_log: EventLog::default(),
            monitor: AgentMonitor::default(),
            systemd: Systemd::default(),
            pulse: Pulse::default(),
        };
        Self {
            agent,
            etcd: FakeEtcd {
                keys: BTreeMap::new(),
                revision: 1,
                undelivered: None,
            },
            addresses,
            control_keys,
            drained_at: BTreeMap::new(),
            resolver: BTreeMap::new(),
            resolve_at: now,
            now,
            held: BTreeMap::new(),
            leaving: LeavingServers::default(),
            passes: (now, 0),
            meddled: None,
            crowded: false,
            rng,
        }
    }

    fn world(&mut self) -> &mut FakeWorld {
        self.agent.reconciler.proxy.0.get_mut()
    }

    fn fault(&mut self, totals: &mut Totals) {
        let service = self.rng.u8(0..4);
        let key = format!("/services/s{service}/i@{}", self.rng.u8(0..4));
        match self.rng.u8(0..50) {
            0..12 => {
                let host = ["10.0.0.1", "10.0.0.2", "db", "web", "nowhere"][self.rng.usize(0..5)];
                let status = ["", "", "draining"][self.rng.usize(0..3)];
                // Now and then the one of the neighbour, or one on the agent's own machine.
                let port = 80 + u16::from(service) + u16::from(self.rng.u8(0..3) == 0);
                let (host, port) = match self.rng.u8(0..10) {
                    0 => (HERE, port),
                    1 => (HERE, port + 10),
                    _ => (host, port),
                };
                let value = format!(r#"{{"host":"{host}","port":{port},"status":"{status}"}}"#);
                self.change(key, Some(value));
            }
            12 => self.change(key, Some("junk".to_owned())),
            13..18 => self.change(key, None),
            18..20 => {
                let prefix = format!("/services/s{service}/");
                let all: Vec<_> = self.etcd.keys.keys().cloned().collect();
                for key in all.into_iter().filter(|key| key.starts_with(&prefix)) {
                    self.change(key, None);
                }
            }
            20 => self.empty(),
            21..23 => self.etcd.undelivered = None,
            23..26 => self.read_again(),
            26 => {
                totals.leaps += 1;
                let longest = if self.rng.bool() { 60 } else { 7200 };
                self.now += Duration::from_secs(self.rng.u64(1..longest));
            }
            27..29 => {
                let name = ["db", "web"][self.rng.usize(0..2)].to_owned();
                let address = [10, 0, 1, self.rng.u8(1..4)];
                self.resolver.insert(name, address);
            }
            29 => self.resolver.clear(),
            30 => drop(self.world().boot()),
            31 => self.world().worker = None,
            32 => {
                self.meddled = Some(self.now);
                self.world().meddle();
            }
            33..35 => {
                self.crowded = true;
                let port = 80 + u16::from(service);
                if !self.world().busy.remove(&port) {
                    self.world().busy.insert(port);
                }
            }
            40 | 41 => {
                let (full, stuck) = (self.rng.bool(), self.rng.bool());
                (self.world().full, self.world().stuck) = (full, stuck);
                totals.stuck += usize::from(full || stuck);
            }
            42 => self.world().held ^= true,
            43 => self.world().older.clear(),
            44..47 => self.world().a_client_comes(),
            47 => self.world().sessions.answer_all(),
            35..38 => self.blink(),
            38 => self.a_check_changes(),
            _ => {
                let most = [0, 0, 50, 100][self.rng.usize(0..4)];
                self.world().failing = self.rng.u8(0..=most);
            }
        }
    }

    /// `names::resolve`, without its waits.
    fn resolve(&mut self) {
        let hosts = self.agent.inputs.hosts.borrow().clone();
        self.resolve_at = self.now + Duration::from_secs(30);
        for host in hosts {
            let before = self.addresses.borrow().get(&host);
            let found = self.resolver.get(&host).map(|ip| (*ip).into());
            if before.is_none() {
                self.resolve_at = self.now + Duration::from_secs(2);
            }
            if let Some(ip) = found.filter(|ip| Some(*ip) != before) {
                self.addresses.send_modify(|all| all.insert(host, ip));
                self.agent.schedule.dirty = true;
            }
        }
    }

    /// One round of `ControlLoop::run`, and the time until the next, `limit` at most.
    fn round(&mut self, limit: Duration, totals: &mut Totals) -> Result<(), String> {
        if self.now >= self.resolve_at {
            self.resolve();
        }
        self.come_back(totals);
        if self.agent.is_due(self.now) {
            totals.passes += 1;
            if self.now >= self.passes.0 + Duration::from_secs(1) {
                self.passes = (self.now, 0);
            }
            self.passes.1 += 1;
            if self.passes.1 > PASSES_A_SECOND {
                return Err(format!("{} passes in a second", self.passes.1));
            }
            self.world().removed.clear();
            let hosts = self.agent.inputs.hosts.borrow().len();
            let mut before = self.world().listening();
            let known = &self.agent.reconciler.listening;
            before
                .binds
                .retain(|name, bind| known.get(name) == Some(bind));
            let result = now_or_never(self.agent.pass(self.now));
            if let Some(result) = result {
                self.agent.passed(result, self.now);
            }
            if self.agent.inputs.hosts.borrow().len() != hosts {
                self.resolve_at = self.now;
            }
            self.no_reload_evicts_who_serves(&before)?;
            self.no_instance_that_stays_is_cut()?;
        }
        self.look(totals)?;
        self.poll_servers();
        let next = self.agent.next_pass(self.now).into_iter();
        let next = next.chain(self.agent.draining.next_look(self.now));
        let next = next.min().unwrap_or(Moment::MAX);
        let pause = next
            .saturating_sub(self.now)
            .clamp(MIN_PAUSE, POLL_INTERVAL);
        if self.world().saving.is_some() && (self.world().failing == 0 || self.rng.bool()) {
            let event = now_or_never(self.agent.reconciler.proxy.next_event());
            self.agent.handle_event(event, self.now);
        }
        self.now += pause.min(limit);
        if pause <= limit {
            now_or_never(self.agent.poll_worker(self.now));
        }
        Ok(())
    }

    /// A port goes to another service only if its own has no server any more. What HAProxy really listened on
    /// counts, as far as the agent could know it, and only the agent's own reload: a HAProxy that was started
    /// by another, in the midst of a pass too, listens on whatever its file says.
    fn no_reload_evicts_who_serves(&mut self, before: &ListeningState) -> Result<(), String> {
        let now = self.world().listening();
        let is_reloaded = now.reloads == before.reloads + 1 && now.starts == before.starts + 1;
        if !is_reloaded || self.crowded {
            return Ok(());
        }
        for (service, bind) in &before.binds {
            let served = self.agent.desired.backends.services().get(service);
            let serves = served.is_some_and(|it| it.port == bind.port() && it.serves());
            if serves && now.binds.get(service) != Some(bind) {
                return Err(format!(
                    "{service} serves, and lost {bind}: {:?}",
                    now.binds
                ));
            }
        }
        Ok(())
    }

    /// No server of an instance that is in etcd or held is removed; except one whose host has no address any
    /// more: without an address there is no server.
    fn no_instance_that_stays_is_cut(&mut self) -> Result<(), String> {
        let now = self.now;
        self.held.retain(|_, (.., until)| *until > now);
        let removed = std::mem::take(&mut self.world().removed);
        let there = self.agent.desired.catalog.services().clone();
        for target in removed {
            let (service, name) = target.split_once('/').ok_or("no target")?;
            let instance = there
                .get(service)
                .and_then(|all| all.get(&name.replace("::", "@")));
            let has_address = |host: &Host| match host {
                Host::Ip(_) => true,
                Host::Name(name) => self.addresses.borrow().get(name).is_some(),
            };
            // An address at which HAProxy listens may be no server.
            let ports = self.agent.reconciler.listening.values().map(|it| it.port());
            let may_go = |host: &Host, port: u16| {
                let is_listener = || ports.clone().any(|own| own == port);
                !has_address(host) || (host.to_string() == HERE && is_listener())
            };
            if instance.is_some_and(|it| !may_go(&it.host, it.port.get())) {
                return Err(format!("{target} was removed and stands in etcd"));
            }
            let held = self.held.get(&target);
            if held.is_some_and(|(host, port, _)| !may_go(host, *port)) {
                return Err(format!("{target} was removed and is to be held"));
            }
            let leaves = self.leaving.has_time(&target, now);
            if leaves.is_some_and(|(host, port)| !may_go(host, port)) {
                return Err(format!(
                    "{target} was removed before its time to leave is over"
                ));
            }
        }
        Ok(())
    }

    fn run(mut self, totals: &mut Totals) -> Result<(), String> {
        for _ in 0..self.rng.usize(5..60) {
            let before = self.held.len();
            self.fault(totals);
            totals.held += usize::from(self.held.len() > before);
            let gap = [50, 500, 5_000, 40_000][self.rng.usize(0..4)];
            let until = self.now + Duration::from_millis(self.rng.u64(0..gap));
            if self.rng.bool() {
                let count = self.rng.usize(0..4);
                self.deliver(count);
            }
            while self.now < until {
                let limit = until - self.now;
                self.round(limit, totals)?;
            }
            if self.rng.bool() {
                self.deliver(usize::MAX);
            }
        }
        self.must_settle(totals)
    }
}

#[test]
fn whatever_happens_around_it_the_agent_comes_to_etcds_truth_and_empties_nothing() {
    let seeds = seeds(500);
    let (shares, wrong) = run_all(&seeds, |seed, totals| AgentScene::new(seed).run(totals));
    let mut totals = Totals::default();
    for share in &shares {
        totals.join(share);
    }
    eprintln!("{totals:?}");
    must_be_none(&wrong, &seeds);
    // The schedule really causes each of these.
    let each = [
        totals.held,
        totals.leaps,
        totals.torn as usize,
        totals.timed,
        totals.stuck,
        totals.blinks,
        totals.words,
    ];
    let runs = seeds.count();
    assert!(
        runs < 100 || each.iter().all(|n| *n > runs / 20),
        "{totals:?}"
    );
}
