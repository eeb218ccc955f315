//! What the agent looks at in HAProxy though etcd has said nothing, its worker and what its checks say; and what
//! it tells systemd of all that.

use super::{Agent, status};
use crate::agent::haproxy::api::Proxy;
use crate::agent::haproxy::parse::original_name;
use crate::clock::{Moment, now};

impl<P: Proxy> Agent<P> {
    /// Whether HAProxy is still the one that is known.
    pub(crate) async fn look(&mut self, time: Moment) {
        self.dirty |= self.has_begun(time) && self.applier.has_changed().await;
    }

    /// Which servers HAProxy's checks have down: the log tells of them, and one that has left etcd is gone with
    /// its connections. `false`: it isn't time for that yet.
    pub(crate) async fn look_at_servers(&mut self, time: Moment) -> bool {
        if time < self.health.next() {
            return false;
        }
        let Some(running) = self.applier.servers().await else {
            return true;
        };
        self.telling.turns(self.health.observe(&running, time));
        for (backend, servers) in &running {
            for (server, _) in servers.iter().filter(|(_, live)| live.down) {
                let (service, name) = (original_name(backend), original_name(server));
                let is_gone = service
                    .zip(name)
                    .is_some_and(|(service, name)| self.presence.is_down(&service, &name));
                if is_gone {
                    self.report.again = Some(time);
                }
            }
        }
        true
    }

    /// How it all stands, for systemd.
    pub(crate) fn tell_status(&mut self) {
        let counts = status::Counts {
            fronts: self.report.fronts,
            servers: self.report.servers,
            quarantined: self.table.quarantined() + self.directory.refused(),
            refused: self.report.refusals.len(),
            held: self.presence.held(),
            down: self.health.down(),
            leaving: self.directory.leaving(),
        };
        let etcd_lost = *self.lost.borrow_and_update();
        let haproxy_lost = [self.trouble.since(), self.applier.behind_since()];
        let haproxy_lost = haproxy_lost.into_iter().flatten();
        let line = status::line(
            &counts,
            self.heard.is_some(),
            etcd_lost,
            haproxy_lost.min(),
            now(),
        );
        self.systemd.status(line);
    }
}
