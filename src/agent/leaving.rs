//! An instance that has left etcd is gone as soon as HAProxy's check says that it is down.

use super::parse::original_name;
use super::proxy::Proxy;
use super::render::proxy_name;
use super::{Agent, LOOK};
use crate::clock::Moment;
use std::collections::BTreeSet;

impl<P: Proxy> Agent<P> {
    /// When HAProxy is to be asked again; `None`: no instance is leaving.
    pub(super) fn next_verdicts(&self) -> Option<Moment> {
        let is_any = self.presence.leaving().next().is_some();
        is_any.then_some(self.verdicts)
    }

    /// Asks HAProxy, once in [`LOOK`], which of the instances that are leaving are down.
    pub(super) async fn heed_checks(&mut self, time: Moment) {
        if self.next_verdicts().is_none_or(|next| next > time) {
            return;
        }
        self.verdicts = time + LOOK;
        let services = self.presence.leaving().map(|(service, _)| service);
        let backends: BTreeSet<_> = services.map(|service| proxy_name(service)).collect();
        for (backend, server) in self.applier.down(&backends).await {
            if let (Some(service), Some(name)) = (original_name(&backend), original_name(&server))
                && self.presence.is_down(&service, &name)
            {
                self.report.again = Some(time);
            }
        }
    }
}
