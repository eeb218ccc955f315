//! Holds a run's record against the promises. Pure.

use crate::excuses::{AGENT_RECOVERY, Excuses, REACTION, RECOVERY};
use crate::logs;
use crate::record::{Event, Life, Put, Record, SERVICES, Sample, Turn};
use crate::spans::{Ms, Span, Spans};
use std::collections::{BTreeMap, BTreeSet};

/// What the record says.
#[derive(Debug, Default)]
pub struct Report {
    /// Promises broken, by their number, with the moment and what happened.
    pub violations: Vec<(u8, Ms, String)>,
    /// The greatest of each, and how many there were.
    pub numbers: BTreeMap<&'static str, (Ms, usize)>,
}

/// What HAProxy serves is what etcd held not longer ago than this, where nothing is wrong; and in the
/// middle of a change it agrees with nothing for no longer than this.
pub const AGENT_REACTION: Ms = 1000;

/// Of a connection's past, what may explain that it broke: the longest that an agent is away, and
/// its recovery.
const MEMORY: Ms = 20_000;

/// Reads the whole record.
pub fn check(record: &Record) -> Report {
    let mut checker = Checker {
        excuses: Excuses::of(record),
        report: Report::default(),
        record,
        keys: timelines(record),
    };
    checker.completeness();
    checker.leftovers();
    checker.deletions();
    checker.absences();
    checker.overwrites();
    checker.leases();
    checker.calm();
    checker.agent();
    checker.cuts();
    checker.logs();
    checker.report.violations.sort();
    checker.report
}

struct Checker<'r> {
    record: &'r Record,
    excuses: Excuses<'r>,
    keys: BTreeMap<&'r str, Vec<Standing<'r>>>,
    report: Report,
}

/// What stood at a key for a while.
#[derive(Clone)]
struct Standing<'r> {
    span: Span,
    put: Option<&'r Put>,
    /// The event that began it.
    event: Option<&'r Event>,
}

impl<'r> Standing<'r> {
    /// The life that a sidekick put there.
    fn life(&self, record: &Record) -> Option<Life> {
        let by_hand = self
            .event
            .is_some_and(|e| record.by_hand.contains(&e.revision));
        self.put
            .filter(|_| !by_hand)
            .and_then(|put| Life::of(&put.value))
    }
}

fn timelines(record: &Record) -> BTreeMap<&str, Vec<Standing<'_>>> {
    let mut keys: BTreeMap<&str, Vec<Standing>> = BTreeMap::new();
    for claim in &record.claims {
        keys.entry(&claim.key).or_default();
    }
    for event in &record.events {
        keys.entry(&event.key).or_default();
    }
    for (key, standings) in &mut keys {
        let (mut from, mut last): (Ms, Option<&Event>) = (0, None);
        for event in record.events.iter().filter(|event| event.key == *key) {
            // Seen by way of several members: a later one may come to light first.
            let at = event.at.max(from);
            let put = last.and_then(|event| event.put.as_ref());
            standings.push(Standing {
                span: Span::new(from, at),
                put,
                event: last,
            });
            (from, last) = (at, Some(event));
        }
        let put = last.and_then(|event| event.put.as_ref());
        let span = Span::new(from, record.end.max(from));
        standings.push(Standing {
            span,
            put,
            event: last,
        });
    }
    keys
}

/// What is left of a wrong when it had time for a reaction, and when what excuses it is over.
fn overdue(wrong: Span, excused: &Spans) -> Spans {
    Spans::of([Span::new(wrong.from + REACTION, wrong.to)]).minus(excused)
}

impl Checker<'_> {
    fn violation(&mut self, promise: u8, at: Ms, what: String) {
        self.report.violations.push((promise, at, what));
    }

    fn number(&mut self, what: &'static str, value: Ms) {
        let (longest, count) = self.report.numbers.entry(what).or_default();
        *longest = (*longest).max(value);
        *count += 1;
    }

    fn turns(&self, container: usize) -> Vec<&Turn> {
        let turns = self.record.turns.iter();
        turns.filter(|turn| turn.container == container).collect()
    }

    /// From when to when a container was up for certain, with the life it had.
    fn ups(&self, container: usize) -> Vec<(Span, Life)> {
        let turns = self.turns(container);
        let ends = turns
            .iter()
            .skip(1)
            .map(|turn| turn.span.from)
            .chain([self.record.end]);
        let spans = turns.iter().zip(ends);
        spans
            .filter_map(|(turn, end)| Some((Span::new(turn.span.to, end), turn.up.clone()?)))
            .collect()
    }

    /// The container that had this life, and when it may have looked alive to anybody.
    fn alive(&self, life: &Life) -> Option<(usize, Spans)> {
        let turn = self
            .record
            .turns
            .iter()
            .find(|turn| turn.up.as_ref() == Some(life))?;
        let turns = self.turns(turn.container);
        let ends = turns
            .iter()
            .skip(1)
            .map(|turn| turn.span.to)
            .chain([self.record.end]);
        let spans = turns.iter().zip(ends);
        let mine = spans.filter(|(turn, _)| turn.up.as_ref() == Some(life));
        let mine = Spans::of(mine.map(|(turn, end)| Span::new(turn.span.from, end)));
        Some((turn.container, mine))
    }

    /// The sidekicks that announce this container at this key.
    fn claimants(&self, key: &str, container: usize) -> Vec<usize> {
        let claims = self.record.claims.iter();
        claims
            .filter(|claim| claim.key == key && claim.container == container)
            .map(|claim| claim.client)
            .collect()
    }

    /// Puts between creation and deletion are numbered: a hole is an event that the run missed.
    fn completeness(&mut self) {
        let mut versions: BTreeMap<&str, i64> = BTreeMap::new();
        for event in &self.record.events {
            let before = versions.insert(&event.key, event.put.as_ref().map_or(0, |p| p.version));
            if let Some(put) = &event.put
                && put.version != before.unwrap_or(0) + 1
            {
                let text = format!("the record of {} has a hole: {event:?}", event.key);
                self.violation(0, event.at, text);
            }
        }
    }

    /// 1: a key never outlives its container, nor its announcer.
    fn leftovers(&mut self) {
        for (key, standings) in self.keys.clone() {
            for standing in standings {
                let Some(life) = standing.life(self.record) else {
                    continue;
                };
                let Some((container, alive)) = self.alive(&life) else {
                    let text = format!("{key} names {life:?}, which no container of the run had");
                    self.violation(1, standing.span.from, text);
                    continue;
                };
                let after = Spans::of([standing.span]).minus(&alive);
                let excused = self.claimants(key, container).into_iter();
                let excused = excused.fold(Spans::default(), |all, client| {
                    all.or(&self.excuses.leftover(client))
                });
                let ends = self.ups(container).into_iter().map(|(span, _)| span.to);
                let within = |at: &Ms| standing.span.from < *at && *at < standing.span.to;
                if let Some(at) = ends.filter(within).find(|at| !excused.has(*at))
                    && standing.span.to < self.record.end
                {
                    let what = "ms: from the command that ends a container to its key's end";
                    self.number(what, standing.span.to - at);
                }
                for stretch in after.iter() {
                    let wrong = overdue(stretch, &excused);
                    if wrong.total() > 0 {
                        let ms = stretch.length();
                        let text =
                            format!("{key} outlived container {container} by {ms} ms: {life:?}");
                        self.violation(1, wrong.from(), text);
                    }
                }
                let unexcused = after.minus(&excused).longest();
                if unexcused > 0 {
                    self.number("ms: a key after its container's end", unexcused);
                }
                if after.total() > 0 {
                    self.number(
                        "ms: a key after its container's end, faults included",
                        after.longest(),
                    );
                }
            }
        }
    }

    /// 2, first half: while container, announcer and a majority live, no key goes.
    fn deletions(&mut self) {
        for (key, standings) in self.keys.clone() {
            for pair in standings.windows(2) {
                let [before, after] = pair else { continue };
                let (Some(event), None) = (after.event, after.put) else {
                    continue;
                };
                let Some(life) = before.life(self.record) else {
                    continue;
                };
                let Some((container, _)) = self.alive(&life) else {
                    continue;
                };
                let by_hand = self.record.by_hand.contains(&event.revision);
                let ups = self.ups(container).into_iter();
                let up = Spans::of(ups.filter(|(_, l)| *l == life).map(|(span, _)| span));
                let lost = self.claimants(key, container).into_iter();
                let lost = lost.fold(Spans::default(), |all, client| {
                    all.or(&self.excuses.loss(client))
                });
                if !by_hand && up.has(event.at) && !lost.has(event.at) {
                    let text =
                        format!("{key} went, while its container {container} was up: {life:?}");
                    self.violation(2, event.at, text);
                }
            }
        }
    }

    /// 2, second half: the key is there, soon after the start and soon after etcd healed; and of two
    /// that want it, the younger has it.
    fn absences(&mut self) {
        for claim in self.record.claims.clone() {
            let client = claim.client;
            let excused = self.excuses.absence(client, RECOVERY);
            let troubled = self.excuses.absence(client, 0);
            let standings = self.keys[claim.key.as_str()].clone();
            for (up, life) in self.ups(claim.container) {
                let unmet = standings.iter().filter(|standing| {
                    let holder = standing.life(self.record);
                    let leased = standing.put.is_some_and(|put| put.lease != 0);
                    !(leased && holder.is_some_and(|holder| holder >= life))
                });
                let unmet = Spans::of(unmet.map(|standing| standing.span)).and(&Spans::of([up]));
                for gap in unmet.iter() {
                    self.number("ms: a key missing or wrong, faults included", gap.length());
                    let after = Spans::of([gap]).minus(&troubled).last();
                    if let Some(after) = after.filter(|after| after.from > gap.from) {
                        self.number("ms: the last fault over → key back", after.length());
                    }
                }
                for gap in unmet.iter() {
                    let wrong = overdue(gap, &excused);
                    if wrong.total() > 0 {
                        let (key, ms) = (&claim.key, gap.length());
                        let text = format!("sidekick {client}: {key} lacked {life:?} for {ms} ms");
                        self.violation(2, wrong.from(), text);
                    }
                }
                let unexcused = unmet.minus(&excused).longest();
                if unexcused > 0 {
                    self.number("ms: a key missing or wrong", unexcused);
                }
            }
        }
    }

    /// 3: nobody overwrites a younger container's key, and nobody overwrites twice: unless nobody's
    /// value or nothing stood there meanwhile, which the older takes before the younger does.
    fn overwrites(&mut self) {
        for (key, standings) in self.keys.clone() {
            let mut claims: BTreeMap<(String, i64), usize> = BTreeMap::new();
            for pair in standings.windows(2) {
                let [before, after] = pair else { continue };
                if after.life(self.record).is_none() {
                    claims.clear();
                }
                let (Some(old), Some(new)) = (before.life(self.record), after.life(self.record))
                else {
                    continue;
                };
                let (Some(old_put), Some(put)) = (before.put, after.put) else {
                    continue;
                };
                if old_put.lease == put.lease || old_put.lease == 0 {
                    continue;
                }
                if old > new {
                    let text = format!("{key}: {new:?} overwrote the younger {old:?}");
                    self.violation(3, after.span.from, text);
                }
                self.number("overwrites of another's key", 0);
                let times = claims.entry((put.value.clone(), put.lease)).or_default();
                *times += 1;
                if *times > 1 {
                    let text = format!(
                        "{key}: {new:?} on lease {:x} overwrote {times} times",
                        put.lease
                    );
                    self.violation(3, after.span.from, text);
                }
            }
        }
    }

    /// 4: nothing is put without a lease.
    fn leases(&mut self) {
        for event in &self.record.events {
            let by_hand = self.record.by_hand.contains(&event.revision);
            if !by_hand && event.put.as_ref().is_some_and(|put| put.lease == 0) {
                self.violation(4, event.at, format!("put without a lease: {event:?}"));
            }
        }
    }

    /// 5: nothing is written while nothing happens.
    fn calm(&mut self) {
        let motion = self.excuses.motion();
        for event in &self.record.events {
            let by_hand = self.record.by_hand.contains(&event.revision);
            if !by_hand && !motion.has(event.at) {
                self.violation(5, event.at, format!("written in a calm: {event:?}"));
            }
        }
        let calm = Spans::of([Span::new(0, self.record.end)]).minus(&motion);
        self.number("ms: calm stretches, in all", calm.total());
    }

    /// What HAProxy is to serve by what etcd held at a moment.
    fn table(&self, at: Ms) -> BTreeMap<String, String> {
        let keys = self.keys.iter().filter_map(|(key, standings)| {
            let name = key.strip_prefix("/services/")?.replace('@', "::");
            let standing = standings
                .iter()
                .rfind(|standing| standing.span.from <= at)?;
            let json: serde_json::Value = serde_json::from_str(&standing.put?.value).ok()?;
            json["host"].as_str()?;
            Some((name, json["port"].as_u64()?.to_string()))
        });
        keys.collect()
    }

    /// Every table that etcd held between two moments.
    fn tables(&self, span: Span) -> Vec<BTreeMap<String, String>> {
        let changes = self.record.events.iter().map(|event| event.at);
        let within = changes.filter(|at| span.from < *at && *at <= span.to);
        [span.from]
            .into_iter()
            .chain(within)
            .map(|at| self.table(at))
            .collect()
    }

    /// 7: no refused configuration, the table is etcd's, and no error empties a service.
    fn agent(&mut self) {
        for (at, why) in self.record.refused.clone() {
            self.violation(
                7,
                at,
                format!("a configuration that HAProxy refuses: {why}"),
            );
        }
        let excused = self.excuses.agent(self.record.sidekicks, AGENT_RECOVERY);
        let (mut wrong_since, mut told) = (None, false);
        let (mut in_step, mut last) = (0, BTreeMap::new());
        for sample in &self.record.samples.clone() {
            let window = Span::new(sample.at - AGENT_REACTION, sample.at);
            let servers = sample.servers.as_ref();
            let agrees = servers.is_some_and(|servers| self.tables(window).contains(servers));
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
                let has = |servers: &BTreeMap<String, String>| {
                    servers
                        .keys()
                        .any(|key| key.split('/').next() == Some(service))
                };
                if has(&last) && !has(servers) && tables.iter().all(has) {
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
                servers.is_some_and(|servers| self.tables(window).contains(servers))
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

    /// 8 and 10: the logs.
    fn logs(&mut self) {
        for log in &self.record.logs {
            let (faults, password) = (self.record.faults, &self.record.password);
            let broken = logs::violations(log, faults, password);
            self.report.violations.extend(broken);
            self.number("lines in one log", log.lines.len() as Ms);
        }
    }

    /// 7: no connection is cut for a change that doesn't concern it.
    fn cuts(&mut self) {
        let haproxy = self.excuses.haproxy();
        for cut in self.record.cuts.clone() {
            let past = Span::new(cut.span.from - MEMORY, cut.span.to);
            let turned = self.turns(cut.container).iter().any(|turn| {
                Spans::of([turn.span.and(REACTION)])
                    .and(&Spans::of([past]))
                    .total()
                    > 0
            });
            let port = self.record.ports[cut.container].to_string();
            let prefix = format!("{}/", cut.service);
            // Any server that led there then; a server that moved takes its old connections along
            // when it goes.
            let then = self.tables(Span::new(cut.opened - MEMORY, cut.opened));
            let led_there =
                |(name, at): &(&String, &String)| name.starts_with(&prefix) && **at == port;
            let servers: BTreeSet<&String> = then
                .iter()
                .flat_map(|table| table.iter().filter(led_there).map(|(name, _)| name))
                .collect();
            let tables = self.tables(past);
            let unchanged = |name: &&String| {
                tables
                    .windows(2)
                    .all(|p| p[0].get(*name) == p[1].get(*name))
            };
            let steady = servers.iter().all(unchanged);
            self.number("client connections that broke, for a reason or not", 0);
            let excused = haproxy
                .or(&self.excuses.stalls())
                .and(&Spans::of([cut.span]));
            if steady && !turned && excused.total() == 0 {
                let text = format!(
                    "a connection to container {} by {} was cut",
                    cut.container, cut.service
                );
                self.violation(7, cut.span.to, text);
            }
        }
    }
}
