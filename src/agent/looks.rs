//! What the agent looks at in HAProxy though etcd has said nothing: its worker, and what its checks say.

use super::Agent;
use super::parse::original_name;
use super::proxy::Proxy;
use crate::clock::Moment;

impl<P: Proxy> Agent<P> {
    /// Whether HAProxy is still the one that is known.
    pub(super) async fn look(&mut self, time: Moment) {
        self.dirty |= self.has_begun(time) && self.applier.has_changed().await;
    }

    /// Which servers HAProxy's checks have down: the log tells of them, and one that has left etcd is gone with
    /// its connections. `false`: it isn't time for that yet.
    pub(super) async fn look_at_servers(&mut self, time: Moment) -> bool {
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
}
