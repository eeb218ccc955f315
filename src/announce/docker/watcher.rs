//! The watcher: inspects containers whenever an event hints at a change, and publishes what the engine tells.
//! It watches one container by its name, or all that have sidekick labels.

use super::client::{DockerHost, connect, engine_info, inspect, list};
use super::events::{ContainerEvent, EVENTS_WAITING, WatchScope, read_events};
use super::inspect::{ListedContainer, another_life};
use super::inspect_queue::{InspectQueue, InspectTrigger};
use super::process::{ProcessWatcher, publish, shares_our_namespace};
use super::relist::Relist;
use crate::announce::policy::container::{ContainerView, ContainerViews, Observation};
use crate::announce::policy::process::NoPidfd;
use crate::clock::{LastTime, Moment, now};
use crate::log_throttle::LogThrottle;
use crate::retry::{DOCKER, Retry};
use crate::systemd::Pulse;
use bollard::Docker;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::{info, warn};

/// The interval of the relist, which needs no event: the engine keeps 256 events for a slow reader and drops
/// the rest, and a proxy may let the stream fall silent.
const RELIST: Duration = Duration::from_secs(30);

/// The longest wait of an idle loop, which beats for the watchdog.
const TICK: Duration = Duration::from_secs(10);

/// While many containers wait to be inspected, changes are published at this interval, and not one by one.
const CROWD_PAUSE: Duration = Duration::from_millis(20);

/// Watches until it is dropped, and publishes every change.
///
/// The engine may be down at the start, restart, or come back on a new socket: the watcher reconnects for ever.
pub async fn watch(
    host: DockerHost,
    scope: WatchScope,
    views: watch::Sender<ContainerViews>,
    answers: LastTime,
    pulse: Pulse,
) {
    let mut attempts = EngineAttempts {
        host: &host,
        answers,
        retry: Retry::new(DOCKER),
        inspects: LogThrottle::default(),
        lists: LogThrottle::default(),
    };
    let mut processes = ProcessWatcher::new();
    loop {
        let connection = EngineConnection::open(&host, &scope, &views, &pulse);
        let error = match processes.until(&views, connection).await {
            Err(error) => error,
            Ok(mut connection) => match connection.run(&mut attempts, &mut processes).await {
                Ok(never) => match never {},
                Err(error) => error,
            },
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
        if let Some(notice) = attempts.retry.failed(now, fastrand::f64()) {
            let (n, s) = (notice.failures, notice.lasted.as_secs());
            warn!(docker = %host, "Docker unreachable for {s} s ({n} tries), retrying: {error:#}");
        }
        pulse.beat();
        let next = attempts.retry.next().unwrap_or(now);
        let pause = sleep(next.saturating_sub(now));
        processes.until(&views, pause).await;
    }
}

/// Failures of requests, over all connections, and what the log said of them.
struct EngineAttempts<'a> {
    host: &'a DockerHost,
    answers: LastTime,
    retry: Retry,
    /// Inspects of single containers that failed.
    inspects: LogThrottle,
    /// Lists that failed while the engine answers.
    lists: LogThrottle,
}

impl EngineAttempts<'_> {
    fn answered(&mut self) {
        self.answers.is_now();
        if let Some(notice) = self.retry.succeeded(now()) {
            let ms = notice.lasted.as_millis();
            info!(docker = %self.host, "Docker answers again after {ms} ms");
        }
    }
}

type InspectCall = Pin<Box<dyn Future<Output = (String, anyhow::Result<Observation>)> + Send>>;
type ListCall = Pin<Box<dyn Future<Output = anyhow::Result<Vec<ListedContainer>>> + Send>>;

/// One connection to the engine.
struct EngineConnection<'a> {
    docker: Docker,
    scope: &'a WatchScope,
    views: &'a watch::Sender<ContainerViews>,
    pulse: &'a Pulse,
    engine_name: Option<Arc<str>>,
    /// Whether the engine's pids mean anything here.
    pids: Result<(), NoPidfd>,
    events: mpsc::Receiver<ContainerEvent>,
    /// Ends with the connection.
    reader: JoinSet<anyhow::Error>,
    queue: InspectQueue,
    /// The first event of each container that no inspect has answered yet.
    heard: BTreeMap<String, Moment>,
    inspecting: FuturesUnordered<InspectCall>,
    relist: Relist,
    listing: Option<ListCall>,
    /// Changes of the views that their receiver hasn't been woken for.
    unpublished: bool,
    published_at: Moment,
}

impl<'a> EngineConnection<'a> {
    async fn open(
        host: &DockerHost,
        scope: &'a WatchScope,
        views: &'a watch::Sender<ContainerViews>,
        pulse: &'a Pulse,
    ) -> anyhow::Result<Self> {
        let docker = connect(host).await?;
        pulse.beat();
        let engine = engine_info(&docker).await;
        pulse.beat();
        let pids = shares_our_namespace(host).await;
        pulse.beat();
        // Subscribed before the first inspect. The reader only passes events on; nothing that this
        // connection does can make it slow.
        let (sender, events) = mpsc::channel(EVENTS_WAITING);
        let mut reader = JoinSet::new();
        let (asking, watched) = (docker.clone(), scope.clone());
        reader.spawn(read_events(asking, watched, engine.clock, sender));
        Ok(Self {
            docker,
            scope,
            views,
            pulse,
            engine_name: engine.name,
            pids,
            events,
            reader,
            queue: InspectQueue::default(),
            heard: BTreeMap::new(),
            inspecting: FuturesUnordered::new(),
            relist: Relist::default(),
            listing: None,
            unpublished: false,
            published_at: Moment::ZERO,
        })
    }

    async fn run(
        &mut self,
        attempts: &mut EngineAttempts<'_>,
        processes: &mut ProcessWatcher,
    ) -> anyhow::Result<std::convert::Infallible> {
        loop {
            self.pulse.beat();
            self.begin_list();
            self.begin_looks();
            self.publish();
            let silent = self.queue.misses_events(now());
            // A stream that leaves out an event has to be opened again.
            anyhow::ensure!(!silent, "GET /events: a container changed without an event");
            let pause = if self.unpublished { CROWD_PAUSE } else { TICK };
            let pause = pause.min(self.queue.pause(now()).unwrap_or(TICK));
            // Cancel-safe: a channel keeps what isn't received, a set its futures, and the list is
            // polled by reference. Deaths and events come first: a death is known before an answer that is older.
            tokio::select! {
                biased;
                death = processes.next_death() => publish(self.views, &death),
                Some(event) = self.events.recv() => self.hear(event),
                Some(ended) = self.reader.join_next() => return Err(ended.unwrap_or_else(Into::into)),
                Some((id, answer)) = self.inspecting.next() => self.learn(id, answer, attempts, processes)?,
                all = poll(&mut self.listing) => {
                    self.listing = None;
                    self.learn_list(all, attempts)?;
                }
                () = sleep(pause) => {}
            }
        }
    }

    /// Begins a relist when it is due.
    fn begin_list(&mut self) {
        if now() < self.relist.at {
            return;
        }
        self.relist.at = now() + RELIST;
        match self.scope {
            WatchScope::One(name) => {
                self.queue.want(name.clone(), self.relist.trigger());
                self.relist.done_once = true;
            }
            WatchScope::Labelled | WatchScope::Registrator => {
                let docker = self.docker.clone();
                self.listing
                    .get_or_insert_with(|| Box::pin(async move { list(&docker).await }));
            }
        }
    }

    fn begin_looks(&mut self) {
        for id in self.queue.begin(now()) {
            let (docker, scope) = (self.docker.clone(), self.scope.clone());
            self.inspecting.push(Box::pin(async move {
                let answer = inspect(&docker, &id, &scope).await;
                (id, answer)
            }));
        }
    }

    fn hear(&mut self, event: ContainerEvent) {
        let subject = match event {
            ContainerEvent::Inspect(subject) => subject,
            ContainerEvent::Died(subject, death) => {
                // Published at once, and before an answer that may be older.
                self.change(&subject, |view| view.died(&death));
                self.queue.died(&subject, death);
                subject
            }
            ContainerEvent::Unpaused(subject) => {
                self.change(&subject, ContainerView::unpaused);
                subject
            }
            ContainerEvent::Signalled {
                subject,
                id,
                signal,
            } => {
                self.change(&subject, |view| view.signalled(&id, signal, now()));
                subject
            }
            ContainerEvent::Connected(container) => match self.watched_as(container) {
                Some(subject) => subject,
                None => return,
            },
        };
        if self.relist.is_stranger(&subject) {
            return;
        }
        self.heard.entry(subject.clone()).or_insert_with(now);
        self.queue.want(subject, InspectTrigger::Event);
    }

    /// Publishes at once what an event says of a container.
    fn change(&self, subject: &str, change: impl FnOnce(&mut ContainerView) -> bool) {
        let now = now();
        self.views
            .send_if_modified(|views| views.change(subject, now, change));
    }

    /// The name or id that the container with this id is watched by, if it may be a watched one.
    fn watched_as(&self, container: String) -> Option<String> {
        let views = self.views.borrow();
        let view = |subject: &String| views.containers.get(subject);
        let (subject, known) = match self.scope {
            WatchScope::One(name) => {
                let seen = view(name).map(|view| &view.observation);
                let other =
                    matches!(seen, Some(Observation::Present(seen)) if seen.id != container);
                (name.clone(), !other)
            }
            WatchScope::Labelled | WatchScope::Registrator => {
                let known = view(&container).is_some();
                (container, known)
            }
        };
        (known || self.queue.concerns(&subject)).then_some(subject)
    }

    fn learn(
        &mut self,
        id: String,
        answer: anyhow::Result<Observation>,
        attempts: &mut EngineAttempts<'_>,
        processes: &mut ProcessWatcher,
    ) -> anyhow::Result<()> {
        let observation = match (answer, self.scope) {
            (Ok(observation), _) => observation,
            (Err(error), WatchScope::One(_)) => return Err(error),
            (Err(error), WatchScope::Labelled | WatchScope::Registrator) => {
                self.inspect_failed(id, &error, &mut attempts.inspects);
                return Ok(());
            }
        };
        attempts.answered();
        let inspect = self.queue.answered(&id);
        let heard = self.heard.get(&id).copied().unwrap_or_else(now);
        if !self.queue.concerns(&id) {
            self.heard.remove(&id);
        }
        if self.queue.is_well() {
            attempts.inspects.recovered(now());
        }
        let observation = self.relist.without_strangers(observation, self.scope);
        let observation = observation.after(&inspect.deaths);
        let before = self.views.borrow().containers.get(&id).cloned();
        let engine_name = self.engine_name.clone();
        let mut view = ContainerView::seen(observation, engine_name, before.as_ref(), now());
        if processes.learn(&id, &mut view, &self.pids) {
            self.queue.want(id.clone(), InspectTrigger::Pidfd);
        }
        if view.observation.is_puzzling() {
            self.queue.puzzled(id.clone(), now());
        }
        let before = before.map_or(Observation::Absent, |view| view.observation);
        if !inspect.hinted && another_life(&before, &view.observation) {
            self.queue.suspect(id.clone(), now());
        }
        let mut changed = false;
        self.views.send_if_modified(|views| {
            changed = views.lost_since.take().is_some() | views.first_look.asked(&id);
            changed |= match self.scope {
                WatchScope::Labelled | WatchScope::Registrator
                    if view.observation == Observation::Absent =>
                {
                    views.changed_at.remove(&id);
                    views.containers.remove(&id).is_some()
                }
                _ if views.containers.get(&id) == Some(&view) => false,
                _ => {
                    views.changed_at.insert(id.clone(), heard);
                    views.containers.insert(id, view);
                    true
                }
            };
            false
        });
        self.unpublished |= changed;
        Ok(())
    }

    /// The container's view says that the engine doesn't answer, as if it were unreachable for this one alone.
    fn inspect_failed(&mut self, id: String, error: &anyhow::Error, failures: &mut LogThrottle) {
        let now = now();
        if let Some(notice) = failures.failed(now) {
            warn!("{error:#} ({} times); retrying", notice.failures);
        }
        self.queue.failed(id.clone(), now);
        self.views.send_if_modified(|views| {
            views.first_look.asked(&id);
            let unasked = || ContainerView::unasked(now);
            let view = views.containers.entry(id).or_insert_with(unasked);
            view.lost_since.get_or_insert(now);
            false
        });
        self.unpublished = true;
    }

    fn learn_list(
        &mut self,
        all: anyhow::Result<Vec<ListedContainer>>,
        attempts: &mut EngineAttempts<'_>,
    ) -> anyhow::Result<()> {
        let trigger = self.relist.trigger();
        let known: Vec<String> = self.views.borrow().containers.keys().cloned().collect();
        let all = match all {
            // An engine that can't list may be able to inspect: the known containers are inspected.
            Err(error) if !self.relist.done_once && !known.is_empty() => {
                if let Some(notice) = attempts.lists.happened(now()) {
                    let n = notice.failures;
                    warn!("{error:#} ({n} times); inspecting each known container");
                }
                self.relist.done_once = true;
                known
                    .into_iter()
                    .for_each(|id| self.queue.want(id, trigger));
                return Ok(());
            }
            all => all?,
        };
        attempts.answered();
        self.relist.keep_strangers(&all);
        let there: BTreeMap<_, _> = all
            .iter()
            .filter(|listed| listed.may_ask(self.scope) && !self.relist.is_stranger(&listed.id))
            .map(|listed| (&listed.id, listed))
            .collect();
        let due = self.relist.due(&self.views.borrow(), &there);
        let is_first = !std::mem::replace(&mut self.relist.done_once, true);
        self.views.send_if_modified(|views| {
            views.lost_since.take().is_some() | views.first_look.listed(&due, is_first)
        });
        due.into_iter().for_each(|id| self.queue.want(id, trigger));
        self.queue.retain(|id| there.contains_key(id));
        self.heard.retain(|id, _| self.queue.concerns(id));
        Ok(())
    }

    /// Wakes the receiver of the views; while many inspects wait, at intervals.
    fn publish(&mut self) {
        let crowd = !self.queue.is_empty() && now() < self.published_at + CROWD_PAUSE;
        if self.unpublished && !crowd {
            self.unpublished = false;
            self.published_at = now();
            self.views.send_modify(|_| {});
        }
    }
}

/// Never ready while there is no future.
async fn poll<T>(future: &mut Option<Pin<Box<dyn Future<Output = T> + Send>>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
