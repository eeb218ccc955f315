//! One sidekick process: a registrar, the container it watches, its request under way, its watch.

use super::clock::Clock;
use super::draining::{AnnouncerView, DrainTotals, SimulatedDrain};
use super::further::layouts;
use super::handover::must_be_gone;
use super::network::{UnderWay, send};
use super::sight::{Delays, Sight};
use super::store::{Author, Event, Store};
use crate::announce::drain::overlay;
use crate::announce::drain::shutdown_drain::DrainStep;
use crate::announce::lease::ownership::Holder;
use crate::announce::lease::protocol::{
    DesiredKey, DesiredKeys, KeyStatus, LeaseEvent, LeaseId, Request, Response, Step,
};
use crate::announce::lease::registrar::{LeaseSettings, Registrar};
use crate::clock::Moment;
use crate::endpoint::{Endpoint, Key, Since, Status};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

pub(crate) const SETTINGS: LeaseSettings = LeaseSettings {
    ttl: Duration::from_secs(10),
    interval: Duration::from_secs(7),
};

/// Writes within so long of each other are one wish's.
const ONE_WISH: Duration = Duration::from_secs(5);

pub(crate) struct Announcer {
    pub(crate) container: String,
    /// Since when the container runs, as far as it can see; `None`: it is down.
    pub(crate) since: Option<Since>,
    last_since: Option<Since>,
    /// A stop of the container is under way, as far as it knows.
    pub(crate) stopping: bool,
    /// Docker's wire to it is black-holed: it goes by what it saw last, and by the kernel.
    pub(crate) blind: bool,
    pub(crate) sight: Sight,
    pub(crate) registrar: Registrar,
    /// Every lease that this process has asked for.
    leases: Vec<LeaseId>,
    pub(crate) alive: bool,
    pub(crate) events: Vec<LeaseEvent>,
    /// Not scheduled until then: a suspended machine, or the pause after a failure.
    pub(crate) asleep_until: Moment,
    clock: Clock,
    /// Until then most requests come to harm.
    pub(crate) harm_until: Moment,
    keys: Vec<Key>,
    /// Those that the container doesn't claim just now, as if it were gone altogether.
    pub(crate) unclaimed: BTreeSet<Key>,
    under_way: Option<UnderWay>,
    /// Requests whose deadline is over and which etcd does all the same.
    late: Vec<(Moment, Request, Author)>,
    watched: usize,
    watch_back_at: Option<Moment>,
    pending: VecDeque<(Moment, Event)>,
    /// The registrar has nothing to do until its clock shows this, unless it is told something.
    idle_until: Moment,
    /// When the last transaction of several keys came back, and whether it was done.
    batch: (Moment, bool),
    /// How often of a wish in several transactions some were done and some were not.
    pub(crate) torn: usize,
    /// What the registrar was told last.
    pub(crate) desired: DesiredKeys,
    /// An operator wishes that the instances drain.
    wish: bool,
    drain: Option<SimulatedDrain>,
    /// It leaves its keys to the next process.
    pub(crate) hands_over: bool,
    pub(crate) drains: DrainTotals,
}

impl Announcer {
    pub(crate) fn new(container: String, keys: Vec<Key>, rng: &mut fastrand::Rng) -> Self {
        let mut new = Self {
            container,
            since: None,
            last_since: None,
            stopping: false,
            blind: false,
            sight: Sight::new(rng),
            registrar: Registrar::new(SETTINGS, rng.u64(..)).with_layouts(layouts()),
            leases: Vec::new(),
            alive: true,
            events: Vec::new(),
            asleep_until: Moment::ZERO,
            clock: Clock::new(rng),
            harm_until: Moment::ZERO,
            keys,
            unclaimed: BTreeSet::new(),
            under_way: None,
            late: Vec::new(),
            watched: 0,
            watch_back_at: Some(Moment::ZERO),
            pending: VecDeque::new(),
            idle_until: Moment::ZERO,
            batch: (Moment::ZERO, true),
            torn: 0,
            desired: DesiredKeys::new(),
            wish: false,
            drain: None,
            hands_over: false,
            drains: DrainTotals::default(),
        };
        new.desire();
        new
    }

    /// It takes in what it was told of its container.
    fn look(&mut self, now: Moment) -> Result<(), String> {
        if self.sight.run(now, self.blind)? {
            self.believe(now);
        }
        Ok(())
    }

    fn believe(&mut self, now: Moment) {
        let known = (self.since, self.last_since, self.stopping);
        (self.since, self.last_since) = self.sight.believes(now);
        self.stopping = self.sight.drains(now);
        if known != (self.since, self.last_since, self.stopping) {
            self.desire();
        }
    }

    /// The container claims these keys, or doesn't any more.
    pub(crate) fn turn_claims(&mut self, keys: &BTreeSet<Key>) {
        self.unclaimed = &self.unclaimed ^ keys;
        self.desire();
    }

    pub(crate) fn endpoint(&self, since: Since) -> Endpoint {
        Endpoint {
            host: "10.0.0.7".parse().expect("an address"),
            port: NonZeroU16::MIN,
            protocol: crate::endpoint::Protocol::Tcp,
            container: Some(self.container.clone()),
            since: Some(since),
            status: (self.wish || self.stopping).then_some(Status::Draining),
            meta: BTreeMap::new(),
        }
    }

    fn desire(&mut self) {
        let desire = match (self.since, self.last_since) {
            (Some(since), _) => DesiredKey::Announce(Arc::new(self.endpoint(since))),
            (None, last) => DesiredKey::Withdraw {
                down: last.map(|since| Holder::from(&self.endpoint(since))),
            },
        };
        let desired: DesiredKeys = self
            .keys
            .iter()
            .filter(|key| !self.unclaimed.contains(*key))
            .map(|k| (k.clone(), desire.clone()))
            .collect();
        self.desired = match &self.drain {
            Some(drain) => overlay::leaving(&desired, &drain.leaving),
            None => desired,
        };
        self.registrar.set_desired(&self.desired);
        self.idle_until = Moment::ZERO;
    }

    /// An operator's wish comes, or goes.
    pub(crate) fn turn_wish(&mut self) {
        self.wish = !self.wish;
        self.desire();
    }

    /// The keys that are announced.
    pub(crate) fn held_keys(&self) -> impl Iterator<Item = Key> {
        let statuses = self.registrar.statuses().into_iter();
        statuses
            .filter_map(|(key, status)| matches!(status, KeyStatus::Announced(_)).then_some(key))
    }

    /// Whether a key is announced.
    pub(crate) fn holds_a_key(&self) -> bool {
        self.held_keys().next().is_some()
    }

    /// SIGTERM, with `--drain`; the agents' words come after `words`, or never.
    pub(crate) fn drain(&mut self, now: Moment, longest: Duration, words: Option<Duration>) {
        if self.alive && self.drain.is_none() && !self.hands_over {
            let shown = self.clock.at(now);
            self.drain = Some(SimulatedDrain::new(shown, longest, words, self));
            self.desire();
        }
    }

    /// Whether the drain is over; without one it never is.
    fn look_at_drain(&mut self, shown: Moment) -> Result<(), String> {
        let Some(drain) = &mut self.drain else {
            return Ok(());
        };
        let statuses = self.registrar.statuses();
        let view = AnnouncerView {
            desired: &self.desired,
            statuses: &statuses,
        };
        match drain.poll(shown, &view) {
            DrainStep::Wait(until) => {
                drain.must_not_outlast_its_time(shown)?;
                self.idle_until = self.idle_until.min(until);
            }
            DrainStep::Over(end) => {
                self.drains.count(&end);
                self.drain = None;
                self.leave();
            }
        }
        Ok(())
    }

    pub(crate) fn leave(&mut self) {
        self.registrar.shut_down();
        self.idle_until = Moment::ZERO;
    }

    /// SIGUSR1; without a lease it leaves as by SIGTERM.
    pub(crate) fn hand_over(&mut self) {
        if self.alive && self.drain.is_none() {
            self.hands_over |= self.registrar.lease().is_some();
            self.registrar.hand_over();
            self.idle_until = Moment::ZERO;
        }
    }

    /// The machine is suspended, and its clock shows it afterwards; or it is a virtual one that is
    /// paused, and its clock doesn't.
    pub(crate) fn sleep(&mut self, now: Moment, time: Duration, clock_stands_still: bool) {
        // One sleep at a time, or the clock would go back.
        if self.asleep_until <= now {
            self.asleep_until = now + time;
            if clock_stands_still {
                self.clock.stand_still(time);
            }
        }
    }

    /// The clock leaps. CLOCK_BOOTTIME doesn't do that to a put that is on its way: its
    /// lateness is counted on this clock.
    pub(crate) fn leap(&mut self, by: Duration) {
        if self.late.is_empty() && self.under_way.is_none() {
            self.clock.leap(by);
        }
    }

    /// SIGKILL, and a new process in its place.
    pub(crate) fn crash(&mut self, store: &Store, delays: &mut Delays<'_>) {
        self.blind = false;
        self.sight.crashes(delays);
        (self.since, self.last_since, self.stopping) = (None, None, false);
        let rng = &mut *delays.rng;
        self.registrar = Registrar::new(SETTINGS, rng.u64(..)).with_layouts(layouts());
        if let Some(lost) = self.under_way.take() {
            let late = lost.done_at.map(|at| (at, lost.request, lost.author));
            self.late.extend(late);
        }
        self.leases.clear();
        self.drain = None;
        self.hands_over = false;
        self.break_watch(store, self.asleep_until);
        self.pending.clear();
        self.desire();
    }

    pub(crate) fn break_watch(&mut self, store: &Store, back_at: Moment) {
        self.watched = store.history.len();
        self.watch_back_at = Some(back_at);
    }

    fn author(&self) -> Author {
        Author {
            container: self.container.clone(),
            last_since: self.last_since,
            leases: self.leases.clone(),
            hands_over: self.hands_over,
        }
    }

    /// When something happens here next, as long as nothing happens elsewhere.
    pub(crate) fn due(&self, store: &Store) -> Moment {
        let late = self.late.iter().map(|(at, ..)| *at);
        let done = self.under_way.iter().filter_map(|sent| sent.done_at);
        let there = late.chain(done).min().unwrap_or(Moment::MAX);
        if !self.alive {
            return there;
        }
        let unseen = self.watch_back_at.is_none() && self.watched < store.history.len();
        let here = [
            self.under_way.as_ref().map(|sent| sent.back_at),
            self.watch_back_at,
            self.pending.front().map(|(at, _)| *at),
            self.sight.due(self.blind),
            unseen.then_some(Moment::ZERO),
            self.under_way
                .is_none()
                .then(|| self.clock.when(self.idle_until)),
        ];
        let here = here.into_iter().flatten().min().unwrap_or(Moment::MAX);
        there.min(here.max(self.asleep_until))
    }

    /// Everything of its that is due at `now`. `calm`: the network does no harm any more.
    pub(crate) fn run(
        &mut self,
        store: &mut Store,
        now: Moment,
        rng: &mut fastrand::Rng,
        calm: bool,
    ) -> Result<(), String> {
        self.run_late(store, now)?;
        self.run_request(store, now)?;
        if self.asleep_until > now || !self.alive {
            return Ok(());
        }
        self.look(now)?;
        self.run_watch(store, now, rng);
        let shown = self.clock.at(now);
        self.look_at_drain(shown)?;
        while self.under_way.is_none() && self.asleep_until <= now && self.idle_until <= shown {
            match self.registrar.poll(shown) {
                Step::Do(request) => {
                    if let Request::Grant(lease, _) = request
                        && !self.leases.contains(&lease)
                    {
                        self.leases.push(lease);
                    }
                    let harm = match calm {
                        true => 0,
                        false if self.harm_until > now => 60,
                        false => 16,
                    };
                    self.under_way = Some(send(request, self.author(), now, rng, harm));
                    self.run_request(store, now)?;
                }
                Step::Wait(until) => {
                    self.idle_until = until.max(shown + Duration::from_millis(1));
                    self.look_at_drain(shown)?;
                }
                Step::Done => {
                    self.alive = false;
                    must_be_gone(&self.author(), &self.registrar, store)?;
                    break;
                }
            }
        }
        self.events.extend(self.registrar.take_events());
        Ok(())
    }

    fn run_late(&mut self, store: &mut Store, now: Moment) -> Result<(), String> {
        for (at, request, author) in self.late.extract_if(.., |(at, ..)| *at <= now) {
            store.execute_late(&request, &author, at)?;
        }
        Ok(())
    }

    fn run_request(&mut self, store: &mut Store, now: Moment) -> Result<(), String> {
        let Some(sent) = &mut self.under_way else {
            return Ok(());
        };
        if let Some(at) = sent.done_at.take_if(|at| *at <= now) {
            sent.answer = Some(store.execute(&sent.request, &sent.author, at)?);
        }
        // A suspended process hears of nothing.
        if sent.back_at > now || self.asleep_until > now {
            return Ok(());
        }
        let Some(sent) = self.under_way.take() else {
            return Ok(());
        };
        let late = sent
            .done_at
            .map(|at| (at, sent.request.clone(), sent.author));
        self.late.extend(late);
        let answer = sent
            .answer
            .filter(|_| !sent.lost)
            .unwrap_or(Response::Failed);
        if matches!(answer, Response::Failed | Response::Rejected) {
            self.asleep_until = now + Duration::from_millis(300);
        }
        if let Request::Write(_, ops) = &sent.request
            && ops.len() > 1
        {
            let (before, done) = (self.batch, matches!(answer, Response::Written(_)));
            self.torn += usize::from(now - before.0 < ONE_WISH && before.1 != done);
            self.batch = (now, done);
        }
        self.registrar.answer(&sent.request, answer);
        self.idle_until = Moment::ZERO;
        Ok(())
    }

    fn run_watch(&mut self, store: &Store, now: Moment, rng: &mut fastrand::Rng) {
        if self.watch_back_at.is_some_and(|at| at <= now) {
            self.watch_back_at = None;
            self.watched = store.history.len();
            for key in &self.keys {
                self.registrar.watch_opened(key);
            }
            self.idle_until = Moment::ZERO;
        }
        if self.watch_back_at.is_none() {
            let mut at = self.pending.back().map_or(now, |(at, _)| *at);
            for event in store.history.get(self.watched..).unwrap_or_default() {
                let lag = if rng.u8(0..20) == 0 { 3000 } else { 200 };
                at = at.max(now + Duration::from_millis(rng.u64(0..lag)));
                self.pending.push_back((at, event.clone()));
            }
            self.watched = store.history.len();
        }
        while self.pending.front().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, event)) = self.pending.pop_front() {
                self.registrar
                    .observe(&event.key, event.entry, event.revision);
                self.idle_until = Moment::ZERO;
            }
        }
    }
}
