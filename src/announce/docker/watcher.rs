//! The watcher: looks at containers again whenever an event hints at a change, and tells what it
//! sees. One container by its name, or all that have labels of ours.

use super::client::{DockerHost, connect, engine_info, inspect, list};
use super::events::{MARKS_WAITING, Mark, Scope, read_events};
use super::inspect::{Listed, word};
use super::inspect_queue::{Agenda, Why};
use crate::announce::policy::container::{Sighting, View, Views};
use crate::clock::{Moment, now};
use crate::log_throttle::LogThrottle;
use crate::retry::{Backoff, DOCKER};
use crate::systemd::Pulse;
use bollard::Docker;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::ops::Bound;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::{info, warn};

/// How often containers are looked at although no event came: the engine keeps 256 events for a
/// slow reader and drops the rest, and a proxy may let the stream fall silent.
const RELIST: Duration = Duration::from_secs(30);

/// A list shows most changes, and an inspect all: so many containers that look unchanged are
/// inspected at each relist all the same, turn by turn. All of them on most machines.
const RELOOK: usize = 100;

/// How often an idle loop shows that it lives.
const TICK: Duration = Duration::from_secs(10);

/// While many containers wait to be looked at, what was seen is told so often, and not each time.
const CROWD_PAUSE: Duration = Duration::from_millis(20);

/// Watches until it is dropped, and publishes every change.
///
/// The engine may be down at the start, restart, or come back on a new socket: it is asked again
/// for ever.
pub async fn watch(host: DockerHost, scope: Scope, views: watch::Sender<Views>, pulse: Pulse) {
    let mut backoff = Backoff::new(DOCKER);
    let mut outage = LogThrottle::default();
    let mut troubles = LogThrottle::default();
    let mut lists = LogThrottle::default();
    if let Scope::One(name) = &scope {
        let unasked = View::unasked(now());
        views.send_modify(|v| drop(v.containers.insert(name.clone(), unasked)));
    }
    loop {
        let session = Session::open(&host, &scope, &views, &pulse).await;
        let error = match session {
            Err(error) => error,
            Ok(mut session) => {
                let mut luck = Luck {
                    host: &host,
                    backoff: &mut backoff,
                    outage: &mut outage,
                    troubles: &mut troubles,
                    lists: &mut lists,
                };
                match session.run(&mut luck).await {
                    Ok(never) => match never {},
                    Err(error) => error,
                }
            }
        };
        let now = now();
        views.send_if_modified(|v| {
            let first = v.lost_since.is_none();
            v.lost_since.get_or_insert(now);
            for view in v.containers.values_mut() {
                view.lost_since.get_or_insert(now);
            }
            first
        });
        if let Some(notice) = outage.failed(now) {
            let (n, s) = (notice.failures, notice.lasted.as_secs());
            warn!(docker = %host, "Docker unreachable for {s} s ({n} tries), retrying: {error:#}");
        }
        pulse.beat();
        sleep(backoff.next_pause(fastrand::f64())).await;
    }
}

/// How the questions have been going, over all sessions.
struct Luck<'a> {
    host: &'a DockerHost,
    backoff: &'a mut Backoff,
    outage: &'a mut LogThrottle,
    /// Of single containers.
    troubles: &'a mut LogThrottle,
    /// Of the list alone.
    lists: &'a mut LogThrottle,
}

impl Luck<'_> {
    fn answered(&mut self) {
        self.backoff.reset();
        if let Some(notice) = self.outage.recovered(now()) {
            let ms = notice.lasted.as_millis();
            info!(docker = %self.host, "Docker answers again after {ms} ms");
        }
    }
}

type Inspection = Pin<Box<dyn Future<Output = (String, anyhow::Result<Sighting>)> + Send>>;
type Listing = Pin<Box<dyn Future<Output = anyhow::Result<Vec<Listed>>> + Send>>;

/// One connection's life.
struct Session<'a> {
    docker: Docker,
    scope: &'a Scope,
    views: &'a watch::Sender<Views>,
    pulse: &'a Pulse,
    engine_name: Option<Arc<str>>,
    marks: mpsc::Receiver<Mark>,
    /// Ends with the session.
    reader: JoinSet<anyhow::Error>,
    agenda: Agenda,
    looking: FuturesUnordered<Inspection>,
    listing: Option<Listing>,
    /// The first list of a session finds what happened while nobody listened.
    first: bool,
    relist_at: Moment,
    /// Where the next round of routine looks begins.
    turn: String,
    /// Seen and not told yet.
    untold: bool,
    told_at: Moment,
}

impl<'a> Session<'a> {
    async fn open(
        host: &DockerHost,
        scope: &'a Scope,
        views: &'a watch::Sender<Views>,
        pulse: &'a Pulse,
    ) -> anyhow::Result<Self> {
        let docker = connect(host).await?;
        pulse.beat();
        let engine = engine_info(&docker).await;
        pulse.beat();
        // Subscribed before the first look. The reader only marks; nothing that the session does
        // can make it slow.
        let (mark, marks) = mpsc::channel(MARKS_WAITING);
        let mut reader = JoinSet::new();
        let (asking, watched) = (docker.clone(), scope.clone());
        reader.spawn(read_events(asking, watched, engine.clock, mark));
        Ok(Self {
            docker,
            scope,
            views,
            pulse,
            engine_name: engine.name,
            marks,
            reader,
            agenda: Agenda::default(),
            looking: FuturesUnordered::new(),
            listing: None,
            first: true,
            relist_at: Moment::ZERO,
            turn: String::new(),
            untold: false,
            told_at: Moment::ZERO,
        })
    }

    async fn run(&mut self, luck: &mut Luck<'_>) -> anyhow::Result<std::convert::Infallible> {
        loop {
            self.pulse.beat();
            self.begin_list();
            self.begin_looks();
            self.tell();
            let silent = self.agenda.misses_events(now());
            // A stream of events that keeps silent about a change has to be opened anew.
            anyhow::ensure!(!silent, "GET /events: a change came without an event");
            let pause = if self.untold { CROWD_PAUSE } else { TICK };
            let pause = pause.min(self.agenda.pause(now()).unwrap_or(TICK));
            // Cancel-safe: a channel keeps what isn't received, a set its futures, and the list is
            // polled by reference. Marks first: a death is known before an answer that is older.
            tokio::select! {
                biased;
                Some(mark) = self.marks.recv() => self.hear(mark),
                Some(ended) = self.reader.join_next() => return Err(ended.unwrap_or_else(Into::into)),
                Some((id, answer)) = self.looking.next() => self.learn(id, answer, luck)?,
                all = poll(&mut self.listing) => {
                    self.listing = None;
                    self.learn_list(all, luck)?;
                }
                () = sleep(pause) => {}
            }
        }
    }

    /// Looks at everything again, when it is time to.
    fn begin_list(&mut self) {
        if now() < self.relist_at {
            return;
        }
        self.relist_at = now() + RELIST;
        match self.scope {
            Scope::One(name) => {
                let why = self.routine();
                self.agenda.want(name.clone(), why);
                self.first = false;
            }
            Scope::Labelled => {
                let docker = self.docker.clone();
                self.listing
                    .get_or_insert_with(|| Box::pin(async move { list(&docker).await }));
            }
        }
    }

    const fn routine(&self) -> Why {
        if self.first { Why::Hint } else { Why::Time }
    }

    fn begin_looks(&mut self) {
        for id in self.agenda.begin(now()) {
            let docker = self.docker.clone();
            self.looking.push(Box::pin(async move {
                let answer = inspect(&docker, &id).await;
                (id, answer)
            }));
        }
    }

    fn hear(&mut self, mark: Mark) {
        let subject = match mark {
            Mark::Look(subject) => subject,
            Mark::Died(subject, death) => {
                // Believed at once, and before an answer that may be older.
                self.views.send_if_modified(|views| {
                    let view = views.containers.get_mut(&subject);
                    view.is_some_and(|view| view.died(&death))
                });
                self.agenda.died(&subject, death);
                subject
            }
            Mark::Unpaused(subject) => {
                self.views.send_if_modified(|views| {
                    let view = views.containers.get_mut(&subject);
                    view.is_some_and(View::unpaused)
                });
                subject
            }
            Mark::Connected(container) => match self.watched_as(container) {
                Some(subject) => subject,
                None => return,
            },
        };
        self.agenda.want(subject, Why::Hint);
    }

    /// As what the container with this id is watched, if it may be.
    fn watched_as(&self, container: String) -> Option<String> {
        let views = self.views.borrow();
        let view = |subject: &String| views.containers.get(subject);
        let (subject, known) = match self.scope {
            Scope::One(name) => {
                let seen = view(name).map(|view| &view.sighting);
                let other = matches!(seen, Some(Sighting::Present(seen)) if seen.id != container);
                (name.clone(), !other)
            }
            Scope::Labelled => {
                let known = view(&container).is_some();
                (container, known)
            }
        };
        (known || self.agenda.concerns(&subject)).then_some(subject)
    }

    fn learn(
        &mut self,
        id: String,
        answer: anyhow::Result<Sighting>,
        luck: &mut Luck<'_>,
    ) -> anyhow::Result<()> {
        let sighting = match (answer, self.scope) {
            (Ok(sighting), _) => sighting,
            (Err(error), Scope::One(_)) => return Err(error),
            (Err(error), Scope::Labelled) => {
                self.trouble(id, &error, luck.troubles);
                return Ok(());
            }
        };
        luck.answered();
        let look = self.agenda.answered(&id);
        if self.agenda.is_well() {
            luck.troubles.recovered(now());
        }
        let sighting = sighting.after(&look.deaths);
        let before = self.views.borrow().containers.get(&id).cloned();
        let engine_name = self.engine_name.clone();
        let view = View::seen(sighting, engine_name, before.as_ref(), now());
        let before = before.map_or(Sighting::Absent, |view| view.sighting);
        if !look.hinted && another_life(&before, &view.sighting) {
            self.agenda.suspect(id.clone(), now());
        }
        let mut changed = false;
        self.views.send_if_modified(|views| {
            changed = views.lost_since.take().is_some();
            changed |= match self.scope {
                Scope::Labelled if view.sighting == Sighting::Absent => {
                    views.containers.remove(&id).is_some()
                }
                _ if views.containers.get(&id) == Some(&view) => false,
                _ => {
                    views.containers.insert(id, view);
                    true
                }
            };
            false
        });
        self.untold |= changed;
        Ok(())
    }

    /// Nothing is known of that one, as if the engine were gone for it alone.
    fn trouble(&mut self, id: String, error: &anyhow::Error, troubles: &mut LogThrottle) {
        let now = now();
        if let Some(notice) = troubles.failed(now) {
            warn!("{error:#} ({} times); retrying", notice.failures);
        }
        self.agenda.failed(id.clone(), now);
        self.views.send_if_modified(|views| {
            let unasked = || View::unasked(now);
            let view = views.containers.entry(id).or_insert_with(unasked);
            view.lost_since.get_or_insert(now);
            false
        });
        self.untold = true;
    }

    fn learn_list(
        &mut self,
        all: anyhow::Result<Vec<Listed>>,
        luck: &mut Luck<'_>,
    ) -> anyhow::Result<()> {
        let why = self.routine();
        let known: Vec<String> = self.views.borrow().containers.keys().cloned().collect();
        let all = match all {
            // An engine that can't list may be able to inspect; what is known is looked at.
            Err(error) if self.first && !known.is_empty() => {
                if let Some(notice) = luck.lists.happened(now()) {
                    let n = notice.failures;
                    warn!("{error:#} ({n} times); asking about each container that is known");
                }
                self.first = false;
                known.into_iter().for_each(|id| self.agenda.want(id, why));
                return Ok(());
            }
            all => all?,
        };
        luck.answered();
        let there: BTreeMap<_, _> = all
            .iter()
            .filter(|listed| listed.labelled)
            .map(|listed| (&listed.id, listed))
            .collect();
        let gone = known.iter().filter(|id| !there.contains_key(id));
        let views = self.views.borrow();
        let changed = there.values().filter(|listed| {
            let view = views.containers.get(&listed.id);
            self.first || view.is_none_or(|view| differs(view, listed))
        });
        let from = (Bound::Excluded(self.turn.clone()), Bound::Unbounded);
        let turn = views.containers.range(from).map(|(id, _)| id).take(RELOOK);
        let turn: Vec<_> = turn.cloned().collect();
        // At the end the next round begins at the start.
        self.turn = turn.get(RELOOK - 1).cloned().unwrap_or_default();
        let ids: BTreeSet<_> = gone
            .cloned()
            .chain(changed.map(|listed| listed.id.clone()))
            .chain(turn)
            .collect();
        drop(views);
        ids.into_iter().for_each(|id| self.agenda.want(id, why));
        self.agenda.retain(|id| there.contains_key(id));
        self.first = false;
        self.views
            .send_if_modified(|views| views.lost_since.take().is_some());
        Ok(())
    }

    /// Tells what was seen; not each time while there is a crowd.
    fn tell(&mut self) {
        let crowd = !self.agenda.is_empty() && now() < self.told_at + CROWD_PAUSE;
        if self.untold && !crowd {
            self.untold = false;
            self.told_at = now();
            self.views.send_modify(|_| {});
        }
    }
}

/// Never ready while there is none.
async fn poll<T>(future: &mut Option<Pin<Box<dyn Future<Output = T> + Send>>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

/// Whether a list's line shows another state of things than was seen last.
fn differs(view: &View, listed: &Listed) -> bool {
    match &view.sighting {
        Sighting::Present(container) => {
            container.name != listed.name || word(&container.state) != listed.state
        }
        Sighting::Absent | Sighting::NeverAsked => true,
    }
}

/// Whether something happened between the two that the engine has an event for. (A health check's
/// count of failures has none.)
fn another_life(before: &Sighting, after: &Sighting) -> bool {
    let life = |sighting: &Sighting| match sighting {
        Sighting::Present(c) => Some((c.id.clone(), c.state.clone(), c.started_at)),
        Sighting::Absent | Sighting::NeverAsked => None,
    };
    life(before) != life(after)
}
