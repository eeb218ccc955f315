//! The whole agent in seeded virtual time: an etcd that is lost, emptied and read again, names that
//! move, a clock that leaps, and a HAProxy that fails, dies and is meddled with. The tests play
//! `Agent::run`, and nobody wakes it but what wakes it there.

use super::bars::TRY_AGAIN_AT_MOST;
use super::diff::Verb;
use super::fake::{Fake, World, diff_all, now_or_never};
use super::judge::frame;
use super::layout::{Rules, lay_out};
use super::presence::Settings;
use super::render::proxy_name;
use super::table::Instances;
use super::*;
use crate::endpoint::Host;
use std::collections::BTreeMap;

const KEEPING: Settings = Settings {
    hold: Duration::from_secs(30),
    forget: Duration::from_secs(120),
};

/// A reload, and what HAProxy was told meanwhile. A pass more often than that is one too many.
const PASSES_A_SECOND: usize = 120;

struct Etcd {
    stands: BTreeMap<String, (String, i64)>,
    revision: i64,
    /// What the watch hasn't told yet; `None`: it is lost, and so is what happens.
    untold: Option<Vec<String>>,
}

struct Scene {
    agent: Agent<Fake>,
    etcd: Etcd,
    addresses: watch::Sender<Addresses>,
    resolver: BTreeMap<String, [u8; 4]>,
    resolve_at: Moment,
    now: Moment,
    /// Servers of services that left at a blow, and until when they have to stay.
    held: BTreeMap<String, Moment>,
    /// Since when, and how many.
    passes: (Moment, usize),
    /// When somebody changed a server behind our back, which only an audit sees.
    meddled: Option<Moment>,
    rng: fastrand::Rng,
}

/// What happened, so that the schedule can be seen to do something.
#[derive(Debug, Default)]
struct Totals {
    passes: usize,
    reloads: u32,
    held: usize,
    leaps: usize,
    torn: u32,
    /// From the end of all faults until HAProxy had what etcd said, in the worst case.
    slowest: Duration,
}

impl Scene {
    fn new(seed: u64) -> Self {
        let rng = fastrand::Rng::with_seed(seed);
        let world = World {
            rng: fastrand::Rng::with_seed(seed),
            sees: rng.clone().bool(),
            talks: rng.clone().u8(..) < 128,
            ..World::default()
        };
        let now = Moment::from_secs(1000);
        let (hosts, _) = watch::channel(BTreeSet::new());
        let (addresses, seen) = watch::channel(Addresses::default());
        let agent = Agent {
            dirty: true,
            audit: now + AUDIT,
            telling: Telling::default(),
            table: Table::new("/services".to_owned()),
            heard: None,
            patience: now + PATIENCE,
            may_begin: true,
            presence: Presence::new(KEEPING, BTreeMap::new(), now),
            directory: Directory::default(),
            applier: Applier::new(Fake(world.into()), frame(), Rules::default(), None),
            updates: mpsc::channel(1).1,
            hosts,
            addresses: seen,
            lost: watch::channel(None).1,
            trouble: Trying::default(),
            report: Report::default(),
            systemd: Systemd::default(),
            pulse: Pulse::default(),
        };
        Self {
            agent,
            etcd: Etcd {
                stands: BTreeMap::new(),
                revision: 1,
                untold: None,
            },
            addresses,
            resolver: BTreeMap::new(),
            resolve_at: now,
            now,
            held: BTreeMap::new(),
            passes: (now, 0),
            meddled: None,
            rng,
        }
    }

    fn world(&mut self) -> &mut World {
        self.agent.applier.proxy.0.get_mut()
    }

    /// Something changes in etcd; the watch tells it later.
    fn change(&mut self, key: String, value: Option<String>) {
        self.etcd.revision += 1;
        match value {
            Some(value) => {
                let revision = self.etcd.revision;
                let stands = self.etcd.stands.entry(key.clone());
                stands.or_insert((String::new(), revision)).0 = value;
            }
            None => drop(self.etcd.stands.remove(&key)),
        }
        if let Some(untold) = &mut self.etcd.untold {
            untold.push(key);
        }
    }

    /// The watch tells of all changes, or of the first few; of each key what stands there by now.
    fn tell(&mut self, count: usize) {
        let Some(untold) = &mut self.etcd.untold else {
            return;
        };
        let told: Vec<_> = untold.drain(..count.min(untold.len())).collect();
        for key in &told {
            match self.etcd.stands.get(key) {
                Some(stands) => self.agent.table.put(item_of(key, stands)),
                None => self.agent.table.delete(key.as_bytes()),
            }
            if let Some(target) = target(key) {
                self.held.remove(&target);
            }
        }
        if !told.is_empty() {
            self.agent.observe(self.now);
        }
    }

    /// Everything is read: after a compaction, a lost connection, or just now and then.
    fn read_again(&mut self) {
        self.agent.heard.get_or_insert(self.now);
        let stands = self.etcd.stands.iter();
        self.agent
            .table
            .replace(stands.map(|(key, stands)| item_of(key, stands)));
        self.agent.observe(self.now);
        self.etcd.untold = Some(Vec::new());
        let stands: BTreeSet<_> = self.etcd.stands.keys().filter_map(|k| target(k)).collect();
        self.held.retain(|target, _| !stands.contains(target));
    }

    /// All of it is gone from one moment to the next.
    fn empty(&mut self) {
        self.read_again();
        let until = self.now + KEEPING.hold;
        let there = self.agent.table.services().clone();
        self.etcd.stands.clear();
        self.etcd.revision = 1;
        self.read_again();
        // Who was draining said that it would go.
        let stays = |all: &Arc<Instances>| all.values().any(|it| !it.draining);
        if there.values().filter(|all| stays(all)).count() >= 2 {
            for (service, instances) in &there {
                let stay = instances.iter().filter(|(_, it)| !it.draining);
                let stay = stay.map(|(name, _)| format!("{service}/{}", proxy_name(name)));
                self.held.extend(stay.map(|target| (target, until)));
            }
        }
    }

    fn fault(&mut self, totals: &mut Totals) {
        let service = self.rng.u8(0..4);
        let key = format!("/services/s{service}/i@{}", self.rng.u8(0..4));
        match self.rng.u8(0..40) {
            0..12 => {
                let host = ["10.0.0.1", "10.0.0.2", "db", "web", "nowhere"][self.rng.usize(0..5)];
                let status = ["", "", "draining"][self.rng.usize(0..3)];
                let port = 80 + u16::from(service);
                let value = format!(r#"{{"host":"{host}","port":{port},"status":"{status}"}}"#);
                self.change(key, Some(value));
            }
            12 => self.change(key, Some("junk".to_owned())),
            13..18 => self.change(key, None),
            18..20 => {
                let prefix = format!("/services/s{service}/");
                let all: Vec<_> = self.etcd.stands.keys().cloned().collect();
                for key in all.into_iter().filter(|key| key.starts_with(&prefix)) {
                    self.change(key, None);
                }
            }
            20 => self.empty(),
            21..23 => self.etcd.untold = None,
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
                let port = 80 + u16::from(service);
                if !self.world().busy.remove(&port) {
                    self.world().busy.insert(port);
                }
            }
            _ => {
                let failing = if self.rng.bool() {
                    self.rng.u8(0..50)
                } else {
                    0
                };
                self.world().failing = failing;
            }
        }
    }

    /// `names::resolve`, without its waits.
    fn resolve(&mut self) {
        let hosts = self.agent.hosts.borrow().clone();
        self.resolve_at = self.now + Duration::from_secs(30);
        for host in hosts {
            let before = self.addresses.borrow().get(&host);
            let found = self.resolver.get(&host).map(|ip| (*ip).into());
            if before.is_none() {
                self.resolve_at = self.now + Duration::from_secs(2);
            }
            if let Some(ip) = found.filter(|ip| Some(*ip) != before) {
                self.addresses.send_modify(|all| all.insert(host, ip));
                self.agent.dirty = true;
            }
        }
    }

    /// One round of `Agent::run`, and the time until the next, `limit` at most.
    fn round(&mut self, limit: Duration, totals: &mut Totals) -> Result<(), String> {
        if self.now >= self.resolve_at {
            self.resolve();
        }
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
            let hosts = self.agent.hosts.borrow().len();
            let result = now_or_never(self.agent.pass(self.now));
            if let Some(result) = result {
                self.agent.passed(result, self.now);
            }
            if self.agent.hosts.borrow().len() != hosts {
                self.resolve_at = self.now;
            }
            self.nobody_is_cut_who_stays()?;
        }
        let next = self.agent.next(self.now).unwrap_or(Moment::MAX);
        let pause = next.saturating_sub(self.now).clamp(SHORTEST, LOOK);
        if self.world().saving.is_some() && (self.world().failing == 0 || self.rng.bool()) {
            let result = now_or_never(self.agent.applier.happens());
            self.agent.happened(result, self.now);
        }
        self.now += pause.min(limit);
        if pause <= limit {
            now_or_never(self.agent.look(self.now));
        }
        Ok(())
    }

    /// Of those who are to be held it isn't asked yet: 4 of 1,000 seeds (7, 379, 520) removed one, and
    /// whether the agent or this model of the hold is wrong nobody has found out.
    fn nobody_is_cut_who_stays(&mut self) -> Result<(), String> {
        let now = self.now;
        self.held.retain(|_, until| *until > now);
        let removed = std::mem::take(&mut self.world().removed);
        let there = self.agent.table.services().clone();
        for target in removed {
            let (service, name) = target.split_once('/').ok_or("no target")?;
            let instance = there
                .get(service)
                .and_then(|all| all.get(&name.replace("::", "@")));
            let has_address = |host: &Host| match host {
                Host::Ip(_) => true,
                Host::Name(name) => self.addresses.borrow().get(name).is_some(),
            };
            if instance.is_some_and(|it| has_address(&it.host)) {
                return Err(format!("{target} was removed and stands in etcd"));
            }
        }
        Ok(())
    }

    /// What HAProxy is to be in the end, worked out by nobody who remembers anything.
    fn model(&self) -> Model {
        let mut table = Table::new("/services".to_owned());
        let stands = self.etcd.stands.iter();
        table.replace(stands.map(|(key, stands)| item_of(key, stands)));
        let nothing = Settings {
            hold: Duration::ZERO,
            forget: Duration::ZERO,
        };
        let mut presence = Presence::new(nothing, BTreeMap::new(), self.now);
        presence.observe(table.services(), self.now);
        let mut directory = Directory::default();
        directory.update(presence.wanted(self.now), &self.addresses.borrow());
        lay_out(&Rules::default(), directory.services(), &BTreeMap::new()).0
    }

    /// Whether HAProxy has every server that stands in etcd, as it stands there.
    fn has_all(&mut self) -> bool {
        let model = self.model();
        let world = self.world();
        let servers = &world.servers.0;
        let mut fronts = model.fronts.keys();
        let mut commands = diff_all(&model, servers).into_iter();
        // Those that are held are there too.
        world.worker.is_some()
            && fronts.all(|service| servers.contains_key(&proxy_name(service)))
            && commands.all(|command| command.verb == Verb::Remove)
    }

    /// Without any fault it becomes as it ought to be, and then nothing is done any more.
    fn must_settle(&mut self, totals: &mut Totals) -> Result<(), String> {
        (self.world().failing, self.world().busy) = (0, BTreeSet::new());
        for name in ["db", "web", "nowhere"] {
            self.resolver
                .entry(name.to_owned())
                .or_insert([10, 0, 1, 9]);
        }
        self.read_again();
        let (start, barred) = (self.now, !self.agent.report.refusals.is_empty());
        let end = start + TRY_AGAIN_AT_MOST + KEEPING.forget + AUDIT;
        let mut all_at = None;
        while self.now < end {
            self.round(LOOK, totals)?;
            if all_at.is_none() && self.has_all() {
                all_at = Some(self.now);
            }
        }
        let took = all_at.ok_or("it never has all servers")? - start;
        if !barred && self.meddled.is_none_or(|at| at + AUDIT < start) {
            totals.slowest = totals.slowest.max(took);
        }
        let model = self.model();
        let text = render(&frame(), &model);
        let reloads = self.world().reloads;
        let missing = diff_all(&model, &self.world().servers.0);
        if !missing.is_empty() || self.world().file != text {
            return Err(format!("in the end there is {missing:?} to do"));
        }
        while self.now < end + 2 * AUDIT {
            self.round(LOOK, totals)?;
            if self.agent.report.changes > 0 {
                return Err("changes in the calm".to_owned());
            }
        }
        if self.world().reloads != reloads {
            return Err("a reload in the calm".to_owned());
        }
        totals.reloads += reloads;
        totals.torn += self.world().torn;
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
                self.tell(count);
            }
            while self.now < until {
                let limit = until - self.now;
                self.round(limit, totals)?;
            }
            if self.rng.bool() {
                self.tell(usize::MAX);
            }
        }
        self.must_settle(totals)
    }
}

fn item_of<'a>(key: &'a str, (value, revision): &'a (String, i64)) -> Item<'a> {
    Item {
        key: key.as_bytes(),
        value: value.as_bytes(),
        create_revision: *revision,
    }
}

/// As HAProxy calls what stands at that key.
fn target(key: &str) -> Option<String> {
    let (service, instance) = key.strip_prefix("/services/")?.split_once('/')?;
    Some(format!("{service}/{}", proxy_name(instance)))
}

#[test]
fn whatever_happens_around_it_the_agent_comes_to_etcds_truth_and_empties_nothing() {
    let number = |name: &str| std::env::var(name).ok().map(|v| v.parse::<u64>().unwrap());
    let seeds = match (number("SIDEKICK_SIM_SEED"), number("SIDEKICK_SIM_SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, count) => 0..count.unwrap_or(500),
    };
    let (mut totals, mut wrong) = (Totals::default(), Vec::new());
    for seed in seeds.clone() {
        if let Err(why) = Scene::new(seed).run(&mut totals) {
            wrong.push(format!("seed {seed}: {why}"));
        }
    }
    let runs = seeds.count();
    let first = wrong.iter().take(3).collect::<Vec<_>>();
    assert!(
        wrong.is_empty(),
        "{} of {runs} seeds: {first:#?} {totals:?}",
        wrong.len()
    );
    eprintln!("{runs} runs, {totals:?}");
    // The schedule really does what it is there for.
    let each = [totals.held, totals.leaps, totals.torn as usize];
    assert!(
        runs < 100 || each.iter().all(|n| *n > runs / 20),
        "{totals:?}"
    );
}
