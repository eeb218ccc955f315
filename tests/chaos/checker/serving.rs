//! The seventh promise: what HAProxy serves, and whose connections break.

use super::Checker;
use crate::excuses::{AGENT_RECOVERY, REACTION};
use crate::record::{NOWHERE, SERVICES, Sample};
use crate::spans::{Ms, Span, Spans};
use std::collections::{BTreeMap, BTreeSet};

/// What HAProxy serves is what etcd held not longer ago than this, where nothing is wrong; and in the
/// middle of a change it agrees with nothing for no longer than this.
const AGENT_REACTION: Ms = 1000;

/// Of a connection's past, what may explain that it broke: the longest that an agent is away, and
/// its recovery. Less than `--drain-timeout`, whose default the run's agent has.
const MEMORY: Ms = 20_000;

/// What etcd held at a moment: `service/server` → port.
#[derive(Debug, Default)]
struct Table {
    /// What HAProxy is to serve.
    serving: BTreeMap<String, String>,
    /// What it is to drain, unless it is the last of its service.
    draining: BTreeMap<String, String>,
    /// What has a host without an address.
    unresolved: BTreeSet<String>,
}

impl Table {
    fn allows(&self, servers: &BTreeMap<String, String>) -> bool {
        let draining = |name: &String, port: &String| self.draining.get(name) == Some(port);
        let is_serving = |name: &String, port: &String| self.serving.get(name) == Some(port);
        let mut wanted = self.serving.iter();
        let mut here = servers.iter();
        wanted.all(|(name, port)| servers.get(name) == Some(port))
            && here.all(|(name, port)| is_serving(name, port) || draining(name, port))
    }

    fn all(&self) -> impl Iterator<Item = (&String, &String)> {
        self.serving.iter().chain(&self.draining)
    }
}

impl Checker<'_> {
    fn table(&self, at: Ms) -> Table {
        let mut unresolved = BTreeSet::new();
        let keys = self.keys.iter().filter_map(|(key, standings)| {
            let name = key.strip_prefix("/services/")?.replace('@', "::");
            let standing = standings.iter().rfind(|it| it.span.from <= at)?;
            let json: serde_json::Value = serde_json::from_str(&standing.put?.value).ok()?;
            if json["host"].as_str()? == NOWHERE {
                unresolved.insert(name);
                return None;
            }
            Some((name, json["port"].as_u64()?.to_string(), standing.drains()))
        });
        let (mut serving, mut draining) = (BTreeMap::new(), BTreeMap::new());
        for (name, port, drains) in keys {
            match drains {
                true => draining.insert(name, port),
                false => serving.insert(name, port),
            };
        }
        Table {
            serving,
            draining,
            unresolved,
        }
    }

    /// Every table that etcd held between two moments.
    fn tables(&self, span: Span) -> Vec<Table> {
        let changes = self.record.events.iter().map(|event| event.at);
        let within = changes.filter(|at| span.from < *at && *at <= span.to);
        let moments = [span.from].into_iter().chain(within);
        moments.map(|at| self.table(at)).collect()
    }

    /// Whether one of the tables that etcd held then allows HAProxy these servers.
    fn allow(&self, window: Span, servers: &BTreeMap<String, String>) -> bool {
        self.tables(window)
            .iter()
            .any(|table| table.allows(servers))
    }

    /// 7: no refused configuration, the table is etcd's, and no error empties a service.
    pub(super) fn agent(&mut self) {
        for (at, why) in self.record.refused.clone() {
            let text = format!("a configuration that HAProxy refuses: {why}");
            self.violation(7, at, text);
        }
        let excused = self.excuses.agent(self.record.sidekicks, AGENT_RECOVERY);
        let (mut wrong_since, mut told) = (None, false);
        let (mut in_step, mut last) = (0, BTreeMap::new());
        for sample in &self.record.samples.clone() {
            let window = Span::new(sample.at - AGENT_REACTION, sample.at);
            let servers = sample.servers.as_ref();
            let agrees = servers.is_some_and(|servers| self.allow(window, servers));
            if agrees {
                in_step = sample.at;
            }
            if agrees || excused.has(sample.at) {
                (wrong_since, told) = (None, false);
            } else if sample.at - *wrong_since.get_or_insert(sample.at) > AGENT_REACTION && !told {
                told = true;
                let wanted = self.table(sample.at);
                let text = format!("HAProxy serves {servers:?}, etcd holds {wanted:?}");
                self.violation(7, sample.at, text);
            }
            let Some(servers) = &sample.servers else {
                continue;
            };
            let tables = self.tables(Span::new(in_step - AGENT_REACTION, sample.at));
            for service in SERVICES {
                let its = |key: &String| key.split('/').next() == Some(service);
                let has = |servers: &BTreeMap<String, String>| servers.keys().any(its);
                let held = tables.iter().all(|table| has(&table.serving));
                if has(&last) && !has(servers) && held {
                    let text = format!("{service} was emptied, and etcd never was");
                    self.violation(7, sample.at, text);
                }
            }
            last.clone_from(servers);
        }
        self.recoveries();
    }

    /// 7: how long after the end of its last trouble HAProxy is at the truth.
    fn recoveries(&mut self) {
        let troubles = self.excuses.agent(self.record.sidekicks, 0);
        let ends: Vec<Ms> = troubles.iter().map(|span| span.to).collect();
        for end in ends {
            let samples = self.record.samples.iter();
            let agrees = |sample: &&Sample| {
                let window = Span::new(sample.at - AGENT_REACTION, sample.at);
                let servers = sample.servers.as_ref();
                servers.is_some_and(|servers| self.allow(window, servers))
            };
            let later = samples.skip_while(|sample| sample.at < end).find(agrees);
            // Where the next trouble came first nothing is told.
            if let Some(sample) = later
                && troubles.minus(&Spans::of([Span::new(0, end)])).from() > sample.at
            {
                let what = "ms: the last fault over → HAProxy at the truth of etcd, as seen four times a second";
                self.number(what, sample.at - end);
            }
        }
    }

    /// 7: no connection is cut for a change that doesn't concern it.
    pub(super) fn cuts(&mut self) {
        let haproxy = self.excuses.haproxy();
        for cut in self.record.cuts.clone() {
            let past = Span::new(cut.span.from - MEMORY, cut.span.to);
            let turned = self.turns(cut.container).into_iter();
            let turned = Spans::of(turned.map(|turn| turn.span.and(REACTION)));
            let turned = turned.and(&Spans::of([past])).total() > 0;
            let port = self.record.ports[cut.container].to_string();
            let prefix = format!("{}/", cut.service);
            // Any server that led there then; a server that moved takes its old connections along
            // when it goes.
            let then = self.tables(Span::new(cut.opened - MEMORY, cut.opened));
            let led_there =
                |(name, at): &(&String, &String)| name.starts_with(&prefix) && **at == port;
            let servers = then.iter().flat_map(|table| table.all().filter(led_there));
            let servers: BTreeSet<&String> = servers.map(|(name, _)| name).collect();
            let tables = self.tables(past);
            // An instance that was away for less than `--drain-timeout` finds its connections again.
            let unchanged = |name: &&String| {
                let all = tables.iter().flat_map(Table::all);
                let its = all.filter(|(other, _)| other == name);
                let ports: BTreeSet<_> = its.map(|(_, port)| port).collect();
                // One that is somewhere else now takes them along, wherever that is.
                let moved = tables.iter().any(|table| table.unresolved.contains(*name));
                ports.len() == 1 && !moved
            };
            // The sessions of one that drains are ended while they are idle.
            let mut drained = tables.iter().flat_map(|table| &table.draining);
            let drained = drained.any(|it| led_there(&it));
            let steady = servers.iter().all(unchanged);
            self.number("client connections that broke, for a reason or not", 0);
            let excused = haproxy.or(&self.excuses.stalls());
            let excused = excused.and(&Spans::of([cut.span]));
            if steady && !turned && !drained && excused.total() == 0 {
                let (container, service) = (cut.container, &cut.service);
                let text = format!("a connection to container {container} by {service} was cut");
                self.violation(7, cut.span.to, text);
            }
        }
    }
}
