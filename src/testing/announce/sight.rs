//! What one sidekick is told of its container: by inspects, by `kill` and `die` events and by a pidfd, each early, late or
//! never.

use crate::announce::policy::container::{
    ContainerHealth, ContainerSnapshot, ContainerState, ContainerView, Death, Observation,
};
use crate::announce::policy::eligibility::with_effective_state;
use crate::announce::policy::life::Life;
use crate::announce::policy::process::{FirstProcess, WatchedProcess};
use crate::announce::policy::stop::StopSettings;
use crate::clock::Moment;
use crate::endpoint::Since;
use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroI32;
use std::sync::Arc;
use std::time::Duration;

/// What the engine tells, in its order.
enum News {
    /// An inspect's answer.
    Inspected(Observation),
    /// A `kill` event with this signal.
    Signalled(u8),
    /// A `die` event, after which the container is inspected.
    Died(Death),
}

pub(crate) struct Sight {
    view: ContainerView,
    watched: Option<WatchedProcess>,
    /// It is in the engine's pid namespace.
    has_pidfds: bool,
    /// What an inspect would show now.
    truth: Observation,
    engine: VecDeque<(Moment, News)>,
    /// Deaths that pidfds are about to tell.
    kernel: Vec<(Moment, FirstProcess)>,
    /// The last life whose death the kernel told.
    dead: Option<Life>,
    /// Deaths that the kernel told while the engine still said Running; and that the engine told first.
    pub(crate) by_kernel: usize,
    pub(crate) by_engine: usize,
    /// Words of the kernel that came when the death was known already; that came in the container's next life; and deaths of
    /// which there was none, for there was no pidfd, or no longer.
    pub(crate) kernel_late: usize,
    pub(crate) kernel_of_an_earlier_life: usize,
    pub(crate) kernel_missing: usize,
    /// Stops that it was told of when they began.
    pub(crate) told_of_stops: usize,
}

impl Sight {
    pub(crate) fn new(rng: &mut fastrand::Rng) -> Self {
        Self {
            view: ContainerView::unasked(Moment::ZERO),
            watched: None,
            has_pidfds: rng.u8(0..4) > 0,
            truth: Observation::NeverAsked,
            engine: VecDeque::new(),
            kernel: Vec::new(),
            dead: None,
            by_kernel: 0,
            by_engine: 0,
            kernel_late: 0,
            kernel_of_an_earlier_life: 0,
            kernel_missing: 0,
            told_of_stops: 0,
        }
    }

    /// The start of the life that runs, as far as it knows; and of the last one that it knows of.
    pub(crate) fn believes(&self, now: Moment) -> (Option<Since>, Option<Since>) {
        let Observation::Present(container) = &self.view.observation else {
            return (None, None);
        };
        let state = &with_effective_state(container, &self.view, now).state;
        let up = container
            .started_at
            .filter(|_| *state == ContainerState::Running);
        (up, container.started_at)
    }

    /// Whether the container drains, as far as it knows.
    pub(crate) fn drains(&self, now: Moment) -> bool {
        self.believes(now).0.is_some() && self.view.stop_progress(now).is_some()
    }

    /// A stop of the container begins.
    pub(crate) fn stops(&mut self, delays: &mut Delays<'_>) {
        self.push(delays.of(30, 3000), News::Signalled(15));
    }

    /// The container has a new life.
    pub(crate) fn starts(&mut self, id: &str, since: Since, delays: &mut Delays<'_>) {
        self.truth = Observation::Present(Arc::new(running(id, since)));
        let truth = self.truth.clone();
        self.push(delays.of(300, 3000), News::Inspected(truth));
    }

    /// The container's life is over.
    pub(crate) fn ends(&mut self, delays: &mut Delays<'_>) {
        let process = self.truth.first_process();
        if let (Some(process), Some(watched)) = (process, &self.watched)
            && *watched.process() == process
        {
            self.kernel.push((delays.of(2, 3000), process));
        } else {
            self.kernel_missing += 1;
        }
        let stale = self.truth.clone();
        let Observation::Present(container) = &mut self.truth else {
            return;
        };
        let death = Death {
            id: container.id.clone(),
            code: 137,
        };
        let ended = Arc::make_mut(container);
        (ended.state, ended.pid) = (ContainerState::Exited(137), None);
        if delays.rng.u8(0..4) == 0 {
            self.push(delays.of(10, 30), News::Signalled(9));
        }
        // Until it has cleaned up, the engine says Running.
        for _ in 0..delays.rng.u8(0..3) {
            self.push(delays.of(30, 60), News::Inspected(stale.clone()));
        }
        if delays.rng.u8(0..8) > 0 {
            self.push(delays.of(60, 3000), News::Died(death));
        }
        self.look(delays);
    }

    /// A connection to the engine is new, and everything is inspected.
    pub(crate) fn reconnects(&mut self, delays: &mut Delays<'_>) {
        self.engine.clear();
        self.look(delays);
    }

    /// A new process in its place.
    pub(crate) fn crashes(&mut self, delays: &mut Delays<'_>) {
        (self.watched, self.dead) = (None, None);
        self.kernel.clear();
        self.view = ContainerView::unasked(Moment::ZERO);
        self.reconnects(delays);
    }

    fn look(&mut self, delays: &mut Delays<'_>) {
        let truth = self.truth.clone();
        if truth != Observation::NeverAsked {
            self.push(delays.of(100, 3000), News::Inspected(truth));
        }
    }

    fn push(&mut self, at: Moment, news: News) {
        let after = self.engine.back().map_or(Moment::ZERO, |(at, _)| *at);
        self.engine.push_back((at.max(after), news));
    }

    pub(crate) fn due(&self, is_blind: bool) -> Option<Moment> {
        let engine = self.engine.front().filter(|_| !is_blind).map(|(at, _)| *at);
        self.kernel.iter().map(|(at, _)| *at).chain(engine).min()
    }

    /// Takes in what is due. Returns whether that may have changed what it believes.
    pub(crate) fn run(&mut self, now: Moment, is_blind: bool) -> Result<bool, String> {
        let mut changed = false;
        let due: Vec<_> = self.kernel.extract_if(.., |(at, _)| *at <= now).collect();
        for (_, process) in due {
            changed |= self.hear_kernel(&process, now);
        }
        while !is_blind && self.engine.front().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, news)) = self.engine.pop_front() {
                self.hear_engine(news, now);
                changed = true;
            }
        }
        let up = self.believes(now).0;
        match &self.dead {
            Some(dead) if up == Some(dead.started_at) => Err(format!("{dead:?} lives again")),
            _ => Ok(changed),
        }
    }

    /// As `ProcessWatcher::next_death` and `publish`.
    fn hear_kernel(&mut self, process: &FirstProcess, now: Moment) -> bool {
        let was_up = self.believes(now).0.is_some();
        match self.view.observation.shows(&process.life) {
            true => self.kernel_late += usize::from(!was_up),
            false => self.kernel_of_an_earlier_life += 1,
        }
        let watched = self.watched.as_mut().filter(|it| it.process() == process);
        let Some(watched) = watched else {
            return false;
        };
        watched.died();
        let Some(life) = watched.ended().cloned() else {
            return false;
        };
        self.dead = Some(life.clone());
        let changed = self.view.process_died(&life);
        self.by_kernel += usize::from(was_up && changed);
        changed
    }

    /// As `EngineConnection::hear`, `learn` and `ProcessWatcher::learn`.
    fn hear_engine(&mut self, news: News, now: Moment) {
        let was_up = self.believes(now).0.is_some();
        match news {
            News::Signalled(signal) => {
                let shown = self.view.observation.present();
                let id = shown.map(|container| container.id.clone());
                self.view.signalled(&id.unwrap_or_default(), signal, now);
                self.by_engine += usize::from(was_up && self.believes(now).0.is_none());
                self.told_of_stops += usize::from(self.drains(now));
            }
            News::Died(death) => {
                self.view.died(&death);
                self.by_engine += usize::from(was_up && self.believes(now).0.is_none());
                let truth = self.truth.clone();
                self.push(now, News::Inspected(truth));
            }
            News::Inspected(shown) => {
                let mut view = ContainerView::seen(shown, None, Some(&self.view), now);
                let stands = self.watched.as_mut().is_some_and(|it| it.shown(&mut view));
                if !stands {
                    let process = view.observation.first_process();
                    // A process that is dead can't be opened.
                    let alive =
                        process.filter(|it| self.truth.first_process().as_ref() == Some(it));
                    self.watched = alive
                        .filter(|_| self.has_pidfds && view.ended.is_none())
                        .map(WatchedProcess::opened);
                    if self.watched.is_some() {
                        let truth = self.truth.clone();
                        self.push(now + Duration::from_millis(3), News::Inspected(truth));
                    }
                }
                self.view = view;
            }
        }
    }
}

/// How long things take.
pub(crate) struct Delays<'a> {
    pub(crate) now: Moment,
    pub(crate) rng: &'a mut fastrand::Rng,
    pub(crate) is_calm: bool,
}

impl Delays<'_> {
    /// Within so many milliseconds, and now and then within so many.
    fn of(&mut self, usually: u64, seldom: u64) -> Moment {
        let most = match self.rng.u8(0..6) {
            0 if !self.is_calm => seldom,
            _ => usually,
        };
        self.now + Duration::from_millis(self.rng.u64(0..=most))
    }
}

fn running(id: &str, since: Since) -> ContainerSnapshot {
    ContainerSnapshot {
        id: id.to_owned(),
        name: "redis1".to_owned(),
        state: ContainerState::Running,
        // The number is in use again and again.
        pid: NonZeroI32::new(4711),
        health: ContainerHealth::Good,
        started_at: Some(since),
        stop: StopSettings::default(),
        host_network: false,
        ports: BTreeMap::new(),
        labels: BTreeMap::new(),
        refusal: None,
        addresses: Vec::new(),
    }
}
