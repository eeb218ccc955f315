//! One sidekick process: a registrar, the container it watches, its request under way, its watch.

use crate::store::{Author, Event, Store};
use sidekick::announce::exchange::{Answer, LeaseId, Note, Request, Step, Wish};
use sidekick::announce::ownership::Holder;
use sidekick::announce::registrar::{Registrar, Settings};
use sidekick::clock::Moment;
use sidekick::endpoint::{Endpoint, Key, Since};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

pub(crate) const SETTINGS: Settings = Settings {
    ttl: Duration::from_secs(10),
    interval: Duration::from_secs(7),
};

/// The call's deadline, as the real one.
const DEADLINE: Duration = Duration::from_secs(2);

/// A request that left, and what the network does to it.
struct UnderWay {
    request: Request,
    /// When etcd does it; `None`: never.
    done_at: Option<Moment>,
    answer: Option<Answer>,
    /// When the answer is here, or the deadline is over.
    back_at: Moment,
    lost: bool,
}

pub(crate) struct Announcer {
    pub(crate) container: String,
    /// Since when the container runs; `None`: it is down.
    pub(crate) since: Option<Since>,
    last_since: Option<Since>,
    pub(crate) registrar: Registrar,
    pub(crate) leases: Vec<LeaseId>,
    pub(crate) alive: bool,
    pub(crate) notes: Vec<Note>,
    /// Not scheduled until then: a suspended machine, or the pause after a failure.
    pub(crate) asleep_until: Moment,
    keys: Vec<Key>,
    /// Those that the container doesn't claim just now, as if it were gone altogether.
    pub(crate) unclaimed: BTreeSet<Key>,
    under_way: Option<UnderWay>,
    /// Requests whose deadline is over and which etcd does all the same.
    late: Vec<(Moment, Request)>,
    watched: usize,
    watch_back_at: Option<Moment>,
    pending: VecDeque<(Moment, Event)>,
}

impl Announcer {
    pub(crate) fn new(container: String, keys: Vec<Key>) -> Self {
        let mut new = Self {
            container,
            since: None,
            last_since: None,
            registrar: Registrar::new(SETTINGS),
            leases: Vec::new(),
            alive: true,
            notes: Vec::new(),
            asleep_until: Moment::ZERO,
            keys,
            unclaimed: BTreeSet::new(),
            under_way: None,
            late: Vec::new(),
            watched: 0,
            watch_back_at: Some(Moment::ZERO),
            pending: VecDeque::new(),
        };
        new.wish();
        new
    }

    pub(crate) fn start_container(&mut self, since: Since) {
        self.since = Some(since);
        self.last_since = Some(since);
        self.wish();
    }

    /// The container claims this key, or doesn't any more.
    pub(crate) fn turn_claim(&mut self, key: &Key) {
        if !self.unclaimed.remove(key) {
            self.unclaimed.insert(key.clone());
        }
        self.wish();
    }

    pub(crate) fn stop_container(&mut self) {
        self.since = None;
        self.wish();
    }

    pub(crate) fn endpoint(&self, since: Since) -> Endpoint {
        Endpoint {
            host: "10.0.0.7".parse().expect("an address"),
            port: NonZeroU16::MIN,
            container: Some(self.container.clone()),
            since: Some(since),
            status: None,
            meta: BTreeMap::new(),
        }
    }

    fn wish(&mut self) {
        let wish = match (self.since, self.last_since) {
            (Some(since), _) => Wish::Announce(Arc::new(self.endpoint(since))),
            (None, last) => Wish::Withdraw {
                down: last.map(|since| Holder::from(&self.endpoint(since))),
            },
        };
        let wishes = self
            .keys
            .iter()
            .filter(|key| !self.unclaimed.contains(*key))
            .map(|k| (k.clone(), wish.clone()))
            .collect();
        self.registrar.wish(&wishes);
    }

    /// SIGKILL, and a new process in its place.
    pub(crate) fn crash(&mut self, store: &Store) {
        self.registrar = Registrar::new(SETTINGS);
        if let Some(lost) = self.under_way.take() {
            self.late.extend(lost.done_at.map(|at| (at, lost.request)));
        }
        self.break_watch(store, self.asleep_until);
        self.pending.clear();
        self.wish();
    }

    pub(crate) fn break_watch(&mut self, store: &Store, back_at: Moment) {
        self.watched = store.history.len();
        self.watch_back_at = Some(back_at);
    }

    fn author(&self) -> (String, Vec<LeaseId>) {
        (self.container.clone(), self.leases.clone())
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
        self.run_watch(store, now, rng);
        while self.under_way.is_none() && self.asleep_until <= now {
            match self.registrar.poll(now) {
                Step::Do(request) => {
                    self.under_way = Some(send(request, now, rng, calm));
                    self.run_request(store, now)?;
                }
                Step::Wait(_) => break,
                Step::Done => {
                    self.alive = false;
                    break;
                }
            }
        }
        self.notes.extend(self.registrar.take_notes());
        Ok(())
    }

    fn run_late(&mut self, store: &mut Store, now: Moment) -> Result<(), String> {
        let (container, leases) = self.author();
        let author = Author {
            container: &container,
            leases: &leases,
        };
        let due: Vec<_> = self.late.extract_if(.., |(at, _)| *at <= now).collect();
        for (at, request) in due {
            if let Answer::Granted(lease, _) = store.execute(&request, &author, at)? {
                self.leases.push(lease);
            }
        }
        Ok(())
    }

    fn run_request(&mut self, store: &mut Store, now: Moment) -> Result<(), String> {
        let (container, leases) = self.author();
        let author = Author {
            container: &container,
            leases: &leases,
        };
        let Some(sent) = &mut self.under_way else {
            return Ok(());
        };
        if let Some(at) = sent.done_at.take_if(|at| *at <= now) {
            let answer = store.execute(&sent.request, &author, at)?;
            if let Answer::Granted(lease, _) = answer {
                self.leases.push(lease);
            }
            sent.answer = Some(answer);
        }
        // A suspended process hears of nothing.
        if sent.back_at > now || self.asleep_until > now {
            return Ok(());
        }
        let Some(sent) = self.under_way.take() else {
            return Ok(());
        };
        self.late
            .extend(sent.done_at.map(|at| (at, sent.request.clone())));
        let answer = sent.answer.filter(|_| !sent.lost).unwrap_or(Answer::Failed);
        if matches!(answer, Answer::Failed | Answer::Rejected) {
            self.asleep_until = now + Duration::from_millis(300);
        }
        self.registrar.answer(&sent.request, answer);
        Ok(())
    }

    fn run_watch(&mut self, store: &Store, now: Moment, rng: &mut fastrand::Rng) {
        if self.watch_back_at.is_some_and(|at| at <= now) {
            self.watch_back_at = None;
            self.watched = store.history.len();
            for key in &self.keys {
                self.registrar.watch_opened(key);
            }
        }
        if self.watch_back_at.is_none() {
            let mut at = self.pending.back().map_or(now, |(at, _)| *at);
            for event in store.history.get(self.watched..).unwrap_or_default() {
                at = at.max(now) + Duration::from_millis(rng.u64(0..200));
                self.pending.push_back((at, event.clone()));
            }
            self.watched = store.history.len();
        }
        while self.pending.front().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, event)) = self.pending.pop_front() {
                self.registrar
                    .observe(&event.key, event.entry, event.revision);
            }
        }
    }
}

/// What the network does to a request.
fn send(request: Request, now: Moment, rng: &mut fastrand::Rng, calm: bool) -> UnderWay {
    let ms = Duration::from_millis;
    let (done_at, back_at, lost) = match if calm { 99 } else { rng.u32(0..100) } {
        // Lost on the way, done and the answer lost, and done after everybody had given up.
        0..6 => (None, now + DEADLINE, true),
        6..12 => (Some(now + ms(rng.u64(1..1500))), now + DEADLINE, true),
        12..16 => (
            Some(now + DEADLINE + ms(rng.u64(1..6000))),
            now + DEADLINE,
            true,
        ),
        _ => {
            let done = now + ms(rng.u64(1..30));
            (Some(done), done + ms(rng.u64(1..30)), false)
        }
    };
    UnderWay {
        request,
        done_at,
        answer: None,
        back_at,
        lost,
    }
}
