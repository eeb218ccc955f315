//! The fourteenth promise: a restart of sidekick is no gap.

use super::Checker;
use crate::excuses::{RECOVERY, TTL};
use crate::record::What;
use crate::spans::{Ms, Span, Spans};

impl Checker<'_> {
    /// The promise that a key broke that went at this moment without an excuse: the lease on which a process leaves its
    /// keys is over by then, or the next one was to have them.
    pub(super) fn promise_of_a_loss(&self, key: &str, container: usize, at: Ms) -> u8 {
        let claimants = self.claimants(key, container).into_iter();
        let mut handed_over = claimants.map(|client| self.excuses.between(client, TTL + RECOVERY));
        match handed_over.any(|spans| spans.has(at)) {
            true => 14,
            false => 2,
        }
    }

    /// 14: what stands at a key is left on another lease, as it is, and then the next process puts it on its own. (That it
    /// doesn't go meanwhile is [`Checker::deletions`]' work.)
    pub(super) fn hand_overs(&mut self) {
        for trouble in &self.record.troubles {
            let What::HandOver(client) = trouble.what else {
                continue;
            };
            let claims = self.record.claims.iter();
            for claim in claims.filter(|claim| claim.client == client) {
                let when = trouble.span.and(RECOVERY);
                let taken = self.taken_over(&claim.key, when);
                if let Some(at) = taken {
                    let what = "ms: SIGUSR1 → the next process has the key";
                    self.number(what, at - trouble.span.from);
                }
            }
        }
    }

    /// When the second of two puts of what stood there before came, if nothing else did.
    fn taken_over(&self, key: &str, when: Span) -> Option<Ms> {
        let standings = self.keys.get(key)?;
        let before = standings.iter().rfind(|it| it.span.from < when.from)?;
        let value = &before.put?.value;
        let within = Spans::of([when]);
        let puts: Vec<_> = standings
            .iter()
            .filter(|it| within.has(it.span.from))
            .collect();
        let same = |it: &&super::Standing| it.put.is_some_and(|put| put.value == *value);
        let [left, taken] = puts.as_slice() else {
            return None;
        };
        (same(left) && same(taken)).then_some(taken.span.from)
    }
}
