//! Which listeners HAProxy is to have after a pass.

use super::Reconciler;
use super::reload_pause::RELOAD_PAUSE;
use super::report::PassReport;
use crate::agent::haproxy::api::HaproxyApi;
use crate::agent::haproxy::render::fingerprint;
use crate::agent::model::backends::Backends;
use crate::agent::model::bind_backoff::ServiceBind;
use crate::agent::model::listeners::{Model, RefusedListener, assign_listeners};
use crate::clock::Moment;
use std::collections::BTreeMap;

/// Which listeners HAProxy is to have, and what that followed from.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) model: Model,
    pub(super) fingerprint: String,
    pub(super) refusals: Vec<RefusedListener>,
    /// The backends' `listener_version`; `None` if some listeners have to wait for the next reload.
    pub(super) listener_version: Option<u64>,
    pub(super) backed_off: BTreeMap<ServiceBind, String>,
}

impl<P: HaproxyApi> Reconciler<P> {
    /// Decides which listeners HAProxy is to have after this pass.
    pub(super) async fn plan(
        &mut self,
        backends: &Backends,
        now: Moment,
        report: &mut PassReport,
    ) -> Plan {
        loop {
            let backed_off = self.bind_backoff.active(now);
            let mut plan = self.assign_listeners(backends, backed_off);
            let new = if self.has_bound(&plan.fingerprint) {
                Vec::new()
            } else {
                self.new_listeners(&plan.model)
            };
            if self.back_off_ports_in_use(&new, now).await {
                continue;
            }
            for (service, _) in new.iter().skip(self.bind_backoff.max_new_listeners()) {
                drop(plan.model.listeners.remove(service));
                plan.listener_version = None;
            }
            if plan.listener_version.is_none() {
                plan.fingerprint = fingerprint(&self.fixed_config, &plan.model);
                report.again = Some(now + RELOAD_PAUSE);
            }
            report.not_after(self.bind_backoff.next_try(now));
            report.refusals.clone_from(&plan.refusals);
            return plan;
        }
    }

    /// The last plan, if nothing has changed but servers.
    fn assign_listeners(
        &mut self,
        backends: &Backends,
        backed_off: BTreeMap<ServiceBind, String>,
    ) -> Plan {
        let listener_version = Some(backends.listener_version());
        let before = self.last_plan.take();
        if let Some(mut plan) = before
            .filter(|it| it.listener_version == listener_version && it.backed_off == backed_off)
        {
            plan.model.follow(backends.services());
            return plan;
        }
        let (model, refusals) = assign_listeners(
            &self.rules,
            backends.services(),
            &backed_off,
            &self.listening,
        );
        Plan {
            fingerprint: fingerprint(&self.fixed_config, &model),
            model,
            refusals,
            listener_version,
            backed_off,
        }
    }

    /// Listeners that HAProxy does not have yet, as far as is known; those that it had last come first.
    pub(super) fn new_listeners(&self, model: &Model) -> Vec<ServiceBind> {
        let has = |name: &str, bind| self.bound.as_ref().is_some_and(|it| it.has(name, bind));
        let new = model.binds().filter(|(name, bind)| !has(name, *bind));
        let new = new.map(|(name, bind)| (name.to_owned(), bind));
        let (known, unknown): (Vec<_>, Vec<_>) =
            new.partition(|(name, bind)| self.listening.get(name) == Some(bind));
        [known, unknown].concat()
    }

    /// Finds ports that another process uses, so that no reload fails for them.
    async fn back_off_ports_in_use(&mut self, new: &[ServiceBind], now: Moment) -> bool {
        let Some(bound) = &self.bound else {
            return false;
        };
        let mut found = false;
        for (name, bind) in new {
            // Where HAProxy itself listens, it can go on listening.
            if bound.overlaps(*bind) {
                continue;
            }
            if let Some(why) = self.proxy.bind_obstacle(*bind).await {
                self.bind_backoff
                    .port_in_use((name.clone(), *bind), why, now);
                found = true;
            }
        }
        found
    }
}
