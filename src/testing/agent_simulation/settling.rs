//! After the storm: HAProxy is what etcd says, and nothing is done any more.

use super::etcd::item_of;
use super::{KEEPING, Scene, Totals};
use crate::agent::haproxy::render::{proxy_name, render};
use crate::agent::haproxy::runtime::Verb;
use crate::agent::model::backends::Directory;
use crate::agent::model::bind_backoff::TRY_AGAIN_AT_MOST;
use crate::agent::model::listeners::Model;
use crate::agent::model::listeners::{Rules, lay_out};
use crate::agent::model::membership::{Presence, Settings};
use crate::agent::reconcile::reload_pause;
use crate::agent::{AUDIT, LOOK};
use crate::catalog::Table;
use crate::clock::Moment;
use crate::testing::config_grammar::frame;
use crate::testing::fake_haproxy::diff_all;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// The seventh promise: HAProxy is at etcd's truth so long after the last fault; where that takes a
/// reload, its pause may come on top.
const PROMISED: Duration = Duration::from_secs(5);

impl Scene {
    /// What HAProxy is to be in the end, worked out by nobody who remembers anything.
    fn model(&self) -> Model {
        let mut table = Table::new("/services".to_owned());
        let stands = self.etcd.stands.iter();
        table.replace(stands.map(|(key, stands)| item_of(key, stands)));
        let nothing = Settings {
            hold: Duration::ZERO,
            forget: Duration::ZERO,
            drain: Duration::ZERO,
        };
        let mut presence = Presence::new(nothing, BTreeMap::new(), self.now);
        presence.observe(table.services(), self.now);
        let mut directory = Directory::default();
        directory.update(presence.wanted(self.now), &self.addresses.borrow());
        directory.listens(self.agent.applier.listeners());
        directory.update(presence.wanted(self.now), &self.addresses.borrow());
        let mut services = directory.services().clone();
        // A service keeps its first port, and what it had on this machine, while it is known; and its
        // port is no other's while instances of it are held.
        let holds = self.agent.presence.held() > 0;
        for (name, known) in self.agent.directory.services() {
            let mut empty = known.clone();
            (empty.servers, empty.leaving) = (Arc::default(), 0);
            let served = services.entry(name.clone()).or_insert(empty);
            served.port = known.port;
            served.ports_here.extend(&known.ports_here);
            if holds && served.servers.is_empty() {
                (served.servers, served.leaving) = (known.servers.clone(), known.leaving);
            }
        }
        let (nothing, listening) = (BTreeMap::new(), &self.agent.applier.listening);
        lay_out(&Rules::default(), &services, &nothing, listening).0
    }

    /// Whether HAProxy has every server that stands in etcd, as it stands there.
    fn has_all(&mut self) -> bool {
        let model = self.model();
        let world = self.world();
        let servers = &world.servers.0;
        let mut fronts = model.fronts.keys();
        let mut commands = diff_all(&model, servers).into_iter();
        // Those that are held are there too.
        world.worker.is_some()
            && fronts.all(|service| servers.contains_key(&proxy_name(service)))
            && commands.all(|command| command.verb == Verb::Remove)
    }

    /// A port that was taken is tried again late, and what is meddled with is seen by an audit.
    fn is_timed(&self, start: Moment) -> bool {
        !self.crowded && self.meddled.is_none_or(|at| at + AUDIT < start)
    }

    /// Nowhere does HAProxy dial itself.
    fn no_server_is_a_listener(&mut self) -> Result<(), String> {
        let listening = self.agent.applier.listening.clone();
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

    /// Without any fault it becomes as it ought to be, and then nothing is done any more.
    pub(super) fn must_settle(&mut self, totals: &mut Totals) -> Result<(), String> {
        (self.world().failing, self.world().busy) = (0, BTreeSet::new());
        (self.world().full, self.world().stuck) = (false, false);
        let limit = PROMISED + reload_pause(self.world().older.len());
        for name in ["db", "web", "nowhere"] {
            self.resolver
                .entry(name.to_owned())
                .or_insert([10, 0, 1, 9]);
        }
        self.read_again();
        let start = self.now;
        // Looked up every 30 s, which isn't what is timed here.
        self.resolve_at = start;
        let end = start + TRY_AGAIN_AT_MOST + KEEPING.forget + AUDIT;
        let (mut all_at, mut left) = (None, false);
        let gone_at = start + KEEPING.hold.max(KEEPING.drain) + limit;
        while self.now < end {
            self.round(LOOK, totals)?;
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
        let model = self.model();
        let text = render(&frame(), &model);
        let reloads = self.world().reloads;
        let missing = diff_all(&model, &self.world().servers.0);
        if !missing.is_empty() || self.world().file != text {
            return Err(format!("in the end there is {missing:?} to do"));
        }
        while self.now < end + 2 * AUDIT {
            self.round(LOOK, totals)?;
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
