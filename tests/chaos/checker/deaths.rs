//! The first promise where the kernel tells of a death: the engine's troubles are no excuse then.

use super::{Checker, overdue};
use crate::excuses::RECOVERY;
use crate::logs::{BY_EVENTS, BY_KERNEL};
use crate::record::Life;
use crate::spans::{Ms, Span, Spans};

/// From the moment at which a container, or its sidekick, runs: two inspects, the second of which confirms a pidfd. So long
/// for the reason that a recovery takes so long.
const CONFIRMED: Ms = RECOVERY;

impl Checker<'_> {
    /// 1: what the kernel tells is told while the engine is away, and is believed whatever the engine says afterwards.
    pub(super) fn deaths(&mut self) {
        for (key, standings) in self.keys.clone() {
            for standing in standings {
                let life = standing.life(self.record);
                let container = life.as_ref().and_then(|life| self.alive(life));
                let (Some(life), Some((container, _))) = (life, container) else {
                    continue;
                };
                for client in self.who_must_know(key, container) {
                    let Some(known) = self.known_dead(client, container, &life) else {
                        continue;
                    };
                    let untold = self.excuses.untold(client);
                    for stretch in Spans::of([standing.span]).and(&Spans::of([known])).iter() {
                        let what = "ms: a key after a death that the kernel told";
                        self.number(what, Spans::of([stretch]).minus(&untold).longest());
                        let wrong = overdue(stretch, &untold);
                        if wrong.total() > 0 {
                            let ms = stretch.length();
                            let text = format!(
                                "{key} outlived container {container} by {ms} ms, of whose death the kernel has told \
                                 sidekick {client}: {life:?}"
                            );
                            self.violation(1, wrong.from(), text);
                        }
                    }
                }
            }
        }
        self.sources();
    }

    /// The claimants of a key, if all of them go by the kernel: another one may have put what stands there.
    fn who_must_know(&self, key: &str, container: usize) -> Vec<usize> {
        let claimants = self.claimants(key, container);
        let by_kernel = |client: &usize| self.record.by_kernel.contains(client);
        match claimants.iter().all(by_kernel) {
            true => claimants,
            false => Vec::new(),
        }
    }

    /// From when to when a sidekick knows for certain that a life is over, because it held a pidfd that counted.
    fn known_dead(&self, client: usize, container: usize, life: &Life) -> Option<Span> {
        let turns = self.turns(container);
        let is_its = |turn: &&&crate::record::Turn| turn.up.as_ref() == Some(life);
        let began = turns.iter().find(is_its)?.span.to;
        let last = turns.iter().rposition(|turn| is_its(&turn))?;
        let death = turns[last + 1..].iter().find(|turn| turn.died)?.span;
        let downs = self.excuses.downs(client);
        let before = downs.iter().filter(|down| down.from < death.from);
        let runs_since = before.map(|down| down.to).max().unwrap_or(0);
        let can_see = Span::new(began.max(runs_since) + CONFIRMED, death.from);
        let sees = Spans::of([can_see]).minus(&self.excuses.unseen(client));
        if sees.total() == 0 {
            return None;
        }
        let mut after = downs.iter().filter(|down| down.from >= death.from);
        let runs_until = after.next().map_or(self.record.end, |down| down.from);
        Some(Span::new(death.to, runs_until))
    }

    /// Whoever is to hold pidfds never says that it can't, and no other ever says that one of its pidfds counts: there the
    /// engine's pids are strangers.
    fn sources(&mut self) {
        for (client, log) in self.record.logs.iter().enumerate() {
            let (source, other) = match self.record.by_kernel.contains(&client) {
                true => ("the kernel", BY_EVENTS),
                false => ("events", BY_KERNEL),
            };
            if let Some(line) = log.lines.iter().find(|line| line.contains(other)) {
                let text = format!("{} is to go by {source}, and says: {line}", log.name);
                self.report.violations.push((1, 0, text));
            }
        }
    }
}
