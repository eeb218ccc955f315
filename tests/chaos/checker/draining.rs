//! The thirteenth promise: who drains, for how long, and that it gets no new connection.

use super::{Checker, overdue};
use crate::excuses::{AGENT_RECOVERY, REACTION, RECOVERY};
use crate::record::Dial;
use crate::spans::{Span, Spans};

impl Checker<'_> {
    /// When a container may have been stopping, or a claimant of this key, or when somebody wished that it drains.
    fn may_drain(&self, key: &str, container: usize) -> Spans {
        let wishes = self.record.wishes.iter().filter(|(of, _)| of == key);
        let wishes = wishes.map(|(_, span)| span.and(RECOVERY));
        let turns = self.turns(container);
        let before = turns.iter().map(|turn| turn.up.as_ref());
        let stops = turns.iter().zip([None].into_iter().chain(before));
        // A restart ends a life as well.
        let stops = stops.filter(|(turn, before)| {
            turn.up.is_none() || (before.is_some() && turn.up.as_ref() != *before)
        });
        let stops = stops.map(|(turn, _)| turn.span.and(RECOVERY));
        let mut may = Spans::of(wishes.chain(stops));
        for client in self.claimants(key, container) {
            may = may.or(&self.excuses.absence(client, RECOVERY));
            may = may.or(&self.excuses.leftover(client));
        }
        may
    }

    /// 13: whoever drains was asked to, and whoever was wished to drain does.
    pub(super) fn drains(&mut self) {
        for (key, standings) in self.keys.clone() {
            for standing in &standings {
                let life = standing.life(self.record);
                let container = life.as_ref().and_then(|life| self.alive(life));
                let Some((container, _)) = container else {
                    continue;
                };
                let span = Spans::of([standing.span]);
                if standing.drains() {
                    self.number("ms: an instance that drains", standing.span.length());
                    let unasked = span.minus(&self.may_drain(key, container));
                    if unasked.total() > 0 {
                        let text = format!("{key} drains, and nobody asked it to: {life:?}");
                        self.violation(13, unasked.from(), text);
                    }
                    continue;
                }
                let wishes = self.record.wishes.iter().filter(|(of, _)| of == key);
                let wishes = Spans::of(wishes.map(|(_, span)| *span));
                let excused = self.claimants(key, container).into_iter();
                let excused = excused.fold(Spans::default(), |all, client| {
                    let between = self.excuses.between(client, RECOVERY);
                    all.or(&self.excuses.absence(client, RECOVERY)).or(&between)
                });
                for ignored in span.and(&wishes).iter() {
                    self.number(
                        "ms: a wish that an instance drains → it does",
                        ignored.length(),
                    );
                    let wrong = overdue(ignored, &excused);
                    if wrong.total() > 0 {
                        let ms = ignored.length();
                        let text = format!("{key} served for {ms} ms against a wish: {life:?}");
                        self.violation(13, wrong.from(), text);
                    }
                }
            }
        }
    }

    /// 13: one that drains gets no new connection while another of its service can take it.
    pub(super) fn dials(&mut self) {
        let excused = self.excuses.agent(self.record.sidekicks, AGENT_RECOVERY);
        for dial in self.record.dials.clone() {
            let before = Span::new(dial.span.from - AGENT_RECOVERY, dial.span.to);
            let agent_was_well = excused.and(&Spans::of([before])).total() == 0;
            if agent_was_well && self.all_drain(&dial) && self.another_serves(&dial, before) {
                let (service, container) = (&dial.service, dial.container);
                let text =
                    format!("a new connection by {service} to container {container}, which drains");
                self.violation(13, dial.span.from, text);
            }
        }
    }

    /// Whether all keys of the service that led to that container drained, from a reaction before it was dialled on.
    fn all_drain(&self, dial: &Dial) -> bool {
        let prefix = format!("/services/{}/", dial.service);
        let port = self.record.ports[dial.container];
        let when = Spans::of([Span::new(dial.span.from - REACTION, dial.span.to)]);
        let keys = self.keys.iter().filter(|(key, _)| key.starts_with(&prefix));
        let standings = keys.flat_map(|(_, standings)| standings);
        let leads_there = |value: &str| {
            let json: Option<serde_json::Value> = serde_json::from_str(value).ok();
            json.is_some_and(|json| json["port"] == port)
        };
        let mut leading = standings
            .filter(|it| when.and(&Spans::of([it.span])).total() > 0)
            .filter(|it| it.put.is_some_and(|put| leads_there(&put.value)))
            .peekable();
        leading.peek().is_some() && leading.all(|it| it.drains())
    }

    /// Whether another instance of the service, whose container is up, was there all that time and did not drain.
    fn another_serves(&self, dial: &Dial, when: Span) -> bool {
        let prefix = format!("/services/{}/", dial.service);
        let keys = self.keys.iter().filter(|(key, _)| key.starts_with(&prefix));
        let mut standings = keys.flat_map(|(_, standings)| standings);
        standings.any(|it| {
            let covers = |span: Span| span.from <= when.from && when.to <= span.to;
            let life = it
                .life(self.record)
                .filter(|_| !it.drains() && covers(it.span));
            let container = life.as_ref().and_then(|life| self.alive(life));
            container.is_some_and(|(container, _)| {
                let up = self.ups(container).into_iter();
                let mut up = up.filter(|(_, of)| Some(of) == life.as_ref());
                container != dial.container && up.any(|(span, _)| covers(span))
            })
        })
    }
}
