//! Holds a run's record against the promises. Pure.

mod deaths;
mod draining;
mod handing_over;
mod serving;

use crate::excuses::{Excuses, REACTION, RECOVERY};
use crate::logs;
use crate::record::{Event, Life, Put, Record, Turn};
use crate::spans::{Ms, Span, Spans};
use std::collections::BTreeMap;

/// What the record says.
#[derive(Debug, Default)]
pub struct Report {
    /// Promises broken, by their number, with the moment and what happened.
    pub violations: Vec<(u8, Ms, String)>,
    /// The greatest of each, and how many there were.
    pub numbers: BTreeMap<&'static str, (Ms, usize)>,
}

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
    checker.deaths();
    checker.deletions();
    checker.absences();
    checker.hand_overs();
    checker.overwrites();
    checker.leases();
    checker.calm();
    checker.agent();
    checker.cuts();
    checker.drains();
    checker.dials();
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
    /// Whether the instance drains, by its value.
    fn drains(&self) -> bool {
        let value = self.put.map(|put| serde_json::from_str(&put.value));
        let value: Option<serde_json::Value> = value.and_then(Result::ok);
        value.is_some_and(|value| value["status"] == "draining")
    }

    /// The life that a sidekick put there.
    fn life(&self, record: &Record) -> Option<Life> {
        let by_hand = |event: &Event| record.by_hand.contains(&event.revision);
        let put = self.put.filter(|_| !self.event.is_some_and(by_hand));
        put.and_then(|put| Life::of(&put.value))
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
            let span = Span::new(from, at);
            standings.push(Standing {
                span,
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
        let ends = turns.iter().skip(1).map(|turn| turn.span.from);
        let spans = turns.iter().zip(ends.chain([self.record.end]));
        let up = |(turn, end): (&&Turn, Ms)| Some((Span::new(turn.span.to, end), turn.up.clone()?));
        spans.filter_map(up).collect()
    }

    /// The container that had this life, and when it may have looked alive to anybody.
    fn alive(&self, life: &Life) -> Option<(usize, Spans)> {
        let mut turns = self.record.turns.iter();
        let turn = turns.find(|turn| turn.up.as_ref() == Some(life))?;
        let turns = self.turns(turn.container);
        let ends = turns.iter().skip(1).map(|turn| turn.span.to);
        let spans = turns.iter().zip(ends.chain([self.record.end]));
        let mine = spans.filter(|(turn, _)| turn.up.as_ref() == Some(life));
        let mine = Spans::of(mine.map(|(turn, end)| Span::new(turn.span.from, end)));
        Some((turn.container, mine))
    }

    /// The sidekicks that announce this container at this key.
    fn claimants(&self, key: &str, container: usize) -> Vec<usize> {
        let claims = self.record.claims.iter();
        let its = claims.filter(|claim| claim.key == key && claim.container == container);
        its.map(|claim| claim.client).collect()
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
                    let left = self.excuses.left_behind(client);
                    all.or(&self.excuses.leftover(client)).or(&left)
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
                    let what = "ms: a key after its container's end, faults included";
                    self.number(what, after.longest());
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
                    let promise = self.promise_of_a_loss(key, container, event.at);
                    self.violation(promise, event.at, text);
                }
            }
        }
    }

    /// 2, second half: the key is there, soon after the start and soon after etcd healed; and of two
    /// that want it, the younger has it.
    fn absences(&mut self) {
        for claim in self.record.claims.clone() {
            let client = claim.client;
            let between = |recovery| self.excuses.between(client, recovery);
            let excused = self
                .excuses
                .absence(client, RECOVERY)
                .or(&between(RECOVERY));
            let troubled = self.excuses.absence(client, 0).or(&between(0));
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

    /// 3: no sidekick overwrites a younger container's key, and none overwrites twice; unless meanwhile the key had
    /// a value without a container or was gone, in which case the older takes it before the younger does.
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
                    let lease = put.lease;
                    let text = format!("{key}: {new:?} on lease {lease:x} overwrote {times} times");
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

    /// 8 and 10: the logs.
    fn logs(&mut self) {
        for log in &self.record.logs {
            let (faults, password) = (self.record.faults, &self.record.password);
            let broken = logs::violations(log, faults, password);
            self.report.violations.extend(broken);
            self.number("lines in one log", log.lines.len() as Ms);
        }
    }
}
