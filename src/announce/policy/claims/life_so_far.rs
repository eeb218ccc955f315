//! What is known of a container's present life beside the engine's answer. Pure.

use super::Evaluation;
use crate::announce::policy::container::{ContainerHealth, ContainerSnapshot, ContainerView};
use crate::announce::policy::eligibility::Verdict;
use crate::announce::policy::stop::StopProgress;
use crate::clock::Moment;
use crate::endpoint::Key;
use std::sync::Arc;

/// A container's life, from its start until now.
pub(super) struct LifeSoFar<'a> {
    /// How far its stop is.
    pub(super) stop: Option<StopProgress>,
    /// Since when it has outlived that.
    pub(super) outlived_since: Option<Moment>,
    /// Whether the container's own health check finds it well, or there is none.
    is_healthy: bool,
    /// How it was evaluated the last time.
    before: Option<&'a Evaluation>,
}

impl<'a> LifeSoFar<'a> {
    /// The life that the container is shown in.
    pub(super) fn of(
        container: &ContainerSnapshot,
        view: &ContainerView,
        before: Option<&'a Evaluation>,
        now: Moment,
    ) -> Self {
        let stop = view.stop_of_this_life();
        Self {
            stop: view.stop_progress(now),
            outlived_since: stop.and_then(|stop| stop.outlived_since(now)),
            is_healthy: container.health == ContainerHealth::Good,
            before: before.filter(|before| before.is_of_life(container)),
        }
    }

    /// Whether it drains at this key, whatever its checks say: its stop is under way, or it has outlived that and isn't well.
    pub(super) fn only_drains(&self, key: &Key) -> bool {
        let is_under_way = match self.stop {
            Some(StopProgress::Begun(_)) => true,
            Some(StopProgress::Outlived(..)) => !self.is_healthy,
            None => false,
        };
        is_under_way && self.was_announced(key)
    }

    /// Whether it was to be announced at this key until now.
    pub(super) fn was_announced(&self, key: &Key) -> bool {
        self.announced_keys().any(|known| known == key)
    }

    /// The container, whose health counts as good where it was announced when its stop began: a server that closes its
    /// listener on its stop signal fails the container's own health check, too, while it finishes what it has.
    pub(super) fn with_effective_health(
        &self,
        container: &Arc<ContainerSnapshot>,
    ) -> Arc<ContainerSnapshot> {
        let mut container = container.clone();
        if self.stop.is_some() && self.announced_keys().next().is_some() {
            Arc::make_mut(&mut container).health = ContainerHealth::Good;
        }
        container
    }

    fn announced_keys(&self) -> impl Iterator<Item = &Key> {
        let claims = self.before.map(|before| before.claims.iter().flatten());
        let announced = claims.into_iter().flatten();
        let announced = announced.filter(|claim| matches!(claim.verdict, Verdict::Announce(_)));
        announced.map(|claim| &claim.key)
    }
}
