//! After the faults: HAProxy matches etcd, and the agent does nothing any more.

use super::etcd::item_of;
use super::{AgentScene, RETENTION, Totals};
use crate::agent::haproxy::render::{proxy_name, render};
use crate::agent::haproxy::runtime::{ServerAction, Traffic};
use crate::agent::model::backends::Backends;
use crate::agent::model::backends::Servers;
use crate::agent::model::bind_backoff::MAX_FAILED_BIND_RETRY;
use crate::agent::model::listeners::Model;
use crate::agent::model::listeners::{ListenerRules, assign_listeners};
use crate::agent::reconcile::reload_pause;
use crate::agent::schedule::{AUDIT_INTERVAL, POLL_INTERVAL};
use crate::catalog::Catalog;
use crate::clock::Moment;
use crate::membership::{Membership, Retention};
use crate::testing::config_grammar::fixed_config;
use crate::testing::fake_haproxy::diff_all;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The seventh promise: HAProxy is at etcd's truth so long after the last fault; where that takes a
/// reload, its pause may come on top.
const PROMISED: Duration = Duration::from_secs(5);

impl AgentScene {
    /// The model that HAProxy has to end with, worked out without the agent's memory.
    fn model(&self) -> Model {
        let mut catalog = Catalog::new("/services".to_owned());
        let keys = self.etcd.keys.iter();
        catalog.replace(keys.map(|(key, keys)| item_of(key, keys)));
        let nothing = Retention {
            hold: Duration::ZERO,
            forget: Duration::ZERO,
            drain: Duration::ZERO,
        };
        let mut membership = Membership::new(nothing, BTreeMap::new(), self.now);
        membership.observe(&catalog.services(), self.now);
        let mut backends = Backends::default();
        backends.update(membership.desired(self.now), &self.addresses.borrow());
        backends.set_listeners(self.agent.reconciler.listeners());
        backends.update(membership.desired(self.now), &self.addresses.borrow());
        backends.adopt_last_up(&self.agent.desired.backends);
        let mut services = backends.services().clone();
        // A service keeps its first port, and what it had on this machine, while it is known; and its
        // port is no other's while instances of it are held.
        let holds = self.agent.desired.membership.held() > 0;
        for (name, known) in self.agent.desired.backends.services() {
            let mut empty = known.clone();
            (empty.servers, empty.leaving) = (Servers::new(), 0);
            let served = services.entry(name.clone()).or_insert(empty);
            served.port = known.port;
            served.local_ports.extend(&known.local_ports);
            if holds && served.servers.is_empty() {
                (served.servers, served.leaving) = (known.servers.clone(), known.leaving);
            }
        }
        let (nothing, listening) = (BTreeMap::new(), &self.agent.reconciler.listening);
        assign_listeners(&ListenerRules::default(), &services, &nothing, listening).0
    }

    /// Whether HAProxy has every server that stands in etcd, as it stands there.
    fn has_all(&mut self) -> bool {
        let model = self.model();
        let holds = self.agent.desired.membership.held() > 0;
        let world = self.world();
        let servers = &world.servers.0;
        let mut listeners = model.listeners.keys();
        let mut commands = diff_all(&model, servers).into_iter();
        // Held instances are there too, and beside one of them the only other instance is no service's last.
        world.worker.is_some()
            && listeners.all(|service| servers.contains_key(&proxy_name(service)))
            && commands.all(|command| match command.action {
                ServerAction::Remove => true,
                ServerAction::SetTraffic(Traffic::Ready) => holds,
                _ => false,
            })
    }

    /// A port that was in use is tried again late, and a server that another process changed is seen by an
    /// audit.
    fn is_timed(&self, start: Moment) -> bool {
        !self.crowded && self.meddled.is_none_or(|at| at + AUDIT_INTERVAL < start)
    }

    /// HAProxy never connects to itself.
    fn no_server_is_a_listener(&mut self) -> Result<(), String> {
        let listening = self.agent.reconciler.listening.clone();
        let ports: BTreeSet<_> = listening.values().map(|bind| bind.port()).collect();
        let own = self.addresses.borrow().own().clone();
        let servers = self.world().servers.0.values().flatten();
        let mut at = servers.filter_map(|(_, live)| live.address);
        match at.find(|at| own.contains(&at.ip()) && ports.contains(&at.port())) {
            Some(at) => Err(format!(
                "a server at {at}, which is a listener: {listening:?}"
            )),
            None => Ok(()),
        }
    }

    /// Without faults HAProxy comes to match etcd, and then the agent does nothing any more.
    pub(super) fn must_settle(&mut self, totals: &mut Totals) -> Result<(), String> {
        (self.world().failing, self.world().busy) = (0, BTreeSet::new());
        (self.world().full, self.world().stuck) = (false, false);
        self.world().sessions.answer_all();
        let limit = PROMISED + reload_pause(self.world().older.len());
        for name in ["db", "web", "nowhere"] {
            self.resolver
                .entry(name.to_owned())
                .or_insert([10, 0, 1, 9]);
        }
        // What disappeared for a moment comes back, were it as a value that is none.
        self.leaving.is_back_at(self.now);
        self.come_back(totals);
        self.read_again();
        let start = self.now;
        // Looked up every 30 s, which isn't what is timed here.
        self.resolve_at = start;
        let end = start + MAX_FAILED_BIND_RETRY + RETENTION.forget + AUDIT_INTERVAL;
        let (mut all_at, mut left) = (None, false);
        let gone_at = start + RETENTION.hold.max(RETENTION.drain) + limit;
        while self.now < end {
            self.round(POLL_INTERVAL, totals)?;
            if all_at.is_none() && self.has_all() {
                all_at = Some(self.now);
            }
            if !left && self.now >= gone_at && self.is_timed(start) {
                left = true;
                self.none_stays()?;
            }
        }
        let took = all_at.ok_or("it never has all servers")? - start;
        if self.is_timed(start) {
            totals.timed += 1;
            totals.slowest = totals.slowest.max(took);
            if took > limit {
                return Err(format!("{took:?} until HAProxy has what etcd says"));
            }
        }
        self.no_server_is_a_listener()?;
        self.every_drain_is_over()?;
        let model = self.model();
        let text = render(&fixed_config(), &model);
        let reloads = self.world().reloads;
        let missing = diff_all(&model, &self.world().servers.0);
        if !missing.is_empty() || self.world().file != text {
            return Err(format!("in the end there is {missing:?} to do"));
        }
        while self.now < end + 2 * AUDIT_INTERVAL {
            self.round(POLL_INTERVAL, totals)?;
            if self.agent.report.changes > 0 {
                return Err("changes in the calm".to_owned());
            }
        }
        if self.world().reloads != reloads {
            return Err("a reload in the calm".to_owned());
        }
        totals.reloads += reloads;
        totals.torn += self.world().torn;
        Ok(())
    }
}
