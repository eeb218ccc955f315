//! One pass: from what is wanted to a HAProxy that has it and a file that says it. No I/O of its
//! own: it is handed a [`Proxy`], and the tests hand it one that fails.
//!
//! Instances cost no reload, structure costs one. Whichever it is, the pass is over only when
//! HAProxy's own answer agrees; until then it is gone through again.

use super::diff::{Command, Running, Unreadable, diff};
use super::layout::{Bind, Model, Refusal, Rules, STATS, lay_out};
use super::presence::Wanted;
use super::render::{Frame, mark_of, original_name, parse, render, structure};
use crate::clock::Moment;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

/// The least time between two reloads: each leaves an old worker with its connections behind.
pub const RELOAD_PAUSE: Duration = Duration::from_secs(1);

/// How soon a port that we saw to be in use is looked at again: looking costs nothing.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How soon an address that HAProxy failed to bind is tried again. While HAProxy tries, all of its
/// listeners pause for up to two seconds (seen with 2.6), so the pauses double up to the second.
const TRY_AGAIN: Duration = Duration::from_secs(30);
const TRY_AGAIN_AT_MOST: Duration = Duration::from_secs(1800);

/// The process that takes new connections now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worker {
    /// Its process id, as its master counts.
    pub pid: u32,
    /// What it was started from, by our mark; `None` if it wasn't our file.
    pub mark: Option<String>,
    /// It knows `wait … srv-removable`.
    pub can_wait: bool,
}

/// How a reload ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reload {
    /// A new worker has taken over.
    Done,
    /// The old one goes on. With what HAProxy said, if it can be had.
    Failed(String),
}

/// What happens outside of passes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happening {
    /// The HAProxy that was ours has ended.
    Died,
    /// That text was saved, or wasn't.
    Saved(String, Result<(), Trouble>),
}

/// Why a pass didn't get through.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// There is nobody at the socket.
    #[error("HAProxy can't be reached: {0}")]
    Down(String),
    /// `haproxy -c` says no.
    #[error("haproxy -c refuses the configuration: {0}")]
    Invalid(String),
    /// The file can't be written.
    #[error("{0}")]
    File(String),
    /// The state can't be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// HAProxy doesn't have what it was told.
    #[error("{0} servers of HAProxy's are not yet as they were told to be{1}")]
    Disagrees(usize, String),
    /// The reload failed; the old worker goes on.
    #[error("HAProxy couldn't be reloaded and goes on as before: {0}")]
    Reload(String),
}

/// A HAProxy and its file.
pub(super) trait Proxy {
    /// Temporary file, `haproxy -c`, fsync, rename. Nothing that was to be saved comes after it.
    async fn write(&mut self, text: &str) -> Result<(), Trouble>;
    /// The same in the background; one that still waits is replaced.
    fn save(&mut self, text: String);
    /// What happens by itself. Cancel-safe.
    async fn happens(&mut self) -> Happening;
    /// Who takes new connections now.
    async fn worker(&self) -> Result<Worker, Trouble>;
    /// The servers of those backends, or of all.
    async fn state(
        &self,
        worker: &Worker,
        backends: Option<&BTreeSet<String>>,
    ) -> Result<Running, Trouble>;
    /// Tells it; returns what it complained about.
    async fn tell(&self, worker: &Worker, commands: &[Command]) -> Result<String, Trouble>;
    /// Nobody is there: starts it, if it is ours to start.
    async fn start(&mut self) -> Result<Reload, Trouble>;
    /// Makes it read its file.
    async fn reload(&mut self) -> Result<Reload, Trouble>;
    /// Why it couldn't listen there, so far as can be told without trying.
    async fn obstacle(&self, bind: Bind) -> Option<String>;
}

/// What a pass did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// It took a reload.
    pub reloaded: bool,
    /// So many servers were added, changed or removed without one.
    pub changes: usize,
    /// Fronts that can't be.
    pub refusals: Vec<Refusal>,
    /// There is more to do then, even if nothing changes.
    pub again: Option<Moment>,
    /// What it is now.
    pub fronts: usize,
    /// What it is now.
    pub servers: usize,
}

/// Goes through passes, one at a time.
#[derive(Debug)]
pub(super) struct Applier<P> {
    pub(super) proxy: P,
    frame: Frame,
    rules: Rules,
    /// The worker that was last seen, with its servers.
    known: Option<(Worker, Running)>,
    /// What it listens on, and the mark that goes with it; `None` if that can't be told.
    bound: Option<(String, BTreeMap<String, Bind>)>,
    /// What the file holds.
    file: Option<String>,
    /// What it will hold when that is saved.
    saving: Option<String>,
    /// What the file held when HAProxy last took it.
    proven: Option<String>,
    barred: BTreeMap<(String, Bind), Bar>,
    /// How many new fronts one reload may bring. Halved when a reload fails and nobody says why.
    daring: usize,
    last_reload: Option<Moment>,
}

#[derive(Debug)]
struct Bar {
    why: String,
    until: Moment,
    pause: Duration,
}

impl<P: Proxy> Applier<P> {
    /// `file` is what is on disk, if it is ours.
    pub(super) const fn new(proxy: P, frame: Frame, rules: Rules, file: Option<String>) -> Self {
        Self {
            proxy,
            frame,
            rules,
            known: None,
            bound: None,
            file,
            saving: None,
            proven: None,
            barred: BTreeMap::new(),
            daring: usize::MAX,
            last_reload: None,
        }
    }

    /// Whether another worker is at work than the one that was last seen.
    pub(super) async fn has_changed(&self) -> bool {
        let worker = self.proxy.worker().await.ok();
        worker.as_ref() != self.known.as_ref().map(|(worker, _)| worker)
    }

    /// Waits for what happens by itself; tells whether another pass is needed. Cancel-safe.
    ///
    /// # Errors
    /// The file couldn't be written: another pass is needed.
    pub(super) async fn happens(&mut self) -> Result<bool, Trouble> {
        match self.proxy.happens().await {
            Happening::Died => Ok(true),
            Happening::Saved(text, result) => {
                self.saving.take_if(|saving| *saving == text);
                result?;
                self.proven = Some(text.clone());
                self.file = Some(text);
                Ok(false)
            }
        }
    }

    /// The next pass asks HAProxy for everything again.
    pub(super) fn forget(&mut self) {
        self.known = None;
    }

    /// One pass.
    pub(super) async fn pass(
        &mut self,
        wanted: &BTreeMap<String, Wanted>,
        addresses: &BTreeMap<String, IpAddr>,
        now: Moment,
    ) -> Result<Report, Trouble> {
        let worker = self.meet().await?;
        let (model, mut report) = self.plan(wanted, addresses, now).await;
        let text = render(&self.frame, &model);
        let mark = structure(&self.frame, &model);
        let fits = worker
            .as_ref()
            .is_some_and(|w| w.mark.as_ref() == Some(&mark));
        let result = if fits {
            self.bound = Some((mark, owned(&model)));
            self.adjust(&model, &text).await
        } else {
            let earliest = self.last_reload.map(|at| at + RELOAD_PAUSE);
            if let Some(earliest) = earliest.filter(|at| *at > now) {
                report.again = Some(earliest);
                return Ok(report);
            }
            self.last_reload = Some(now);
            report.reloaded = true;
            self.restructure(&model, &text, &mark, now).await
        };
        if result.is_err() {
            self.known = None;
        }
        report.changes = result?;
        (report.fronts, report.servers) = (model.fronts.len(), model.servers());
        Ok(report)
    }

    /// Asks who is at work, and what it has unless that is known. `None`: nobody.
    async fn meet(&mut self) -> Result<Option<Worker>, Trouble> {
        let worker = match self.proxy.worker().await {
            Ok(worker) => worker,
            Err(Trouble::Down(_)) => {
                self.known = None;
                // What it listened on until now, it will be able to listen on again.
                self.bound.get_or_insert_default();
                return Ok(None);
            }
            Err(trouble) => return Err(trouble),
        };
        if self
            .known
            .as_ref()
            .is_none_or(|(known, _)| *known != worker)
        {
            let running = self.proxy.state(&worker, None).await?;
            if self.bound.as_ref().map(|(mark, _)| mark) != worker.mark.as_ref() {
                self.bound = self.bound_by_file(&worker);
            }
            self.known = Some((worker.clone(), running));
        }
        Ok(Some(worker))
    }

    /// Somebody else started it: what it listens on shows only if it was from the file that we have.
    fn bound_by_file(&self, worker: &Worker) -> Option<(String, BTreeMap<String, Bind>)> {
        let file = self.file.as_deref()?;
        let mark = worker
            .mark
            .as_deref()
            .filter(|mark| mark_of(file) == Some(mark))?;
        let stats = self.rules.stats;
        let model = Model {
            stats,
            fronts: parse(file)?,
        };
        Some((mark.to_owned(), owned(&model)))
    }

    /// What HAProxy is to be after this pass.
    async fn plan(
        &mut self,
        wanted: &BTreeMap<String, Wanted>,
        addresses: &BTreeMap<String, IpAddr>,
        now: Moment,
    ) -> (Model, Report) {
        let mut report = Report::default();
        loop {
            let barred = self.barred.iter().filter(|(_, bar)| bar.until > now);
            let barred: BTreeMap<_, _> = barred
                .map(|(front, bar)| (front.clone(), bar.why.clone()))
                .collect();
            let (mut model, refusals) = lay_out(&self.rules, wanted, addresses, &barred);
            report.refusals = refusals;
            let new = self.unproven(&model);
            if self.bar_the_hopeless(&new, now).await {
                continue;
            }
            for (service, _) in new.iter().skip(self.daring) {
                drop(model.fronts.remove(service));
                report.again = Some(now + RELOAD_PAUSE);
            }
            let next_try = self
                .barred
                .values()
                .map(|bar| bar.until)
                .filter(|until| *until > now)
                .min();
            report.again = report.again.into_iter().chain(next_try).min();
            return (model, report);
        }
    }

    /// Fronts that HAProxy hasn't got yet.
    fn unproven(&self, model: &Model) -> Vec<(String, Bind)> {
        let has = |name: &str, bind| {
            self.bound
                .as_ref()
                .is_some_and(|(_, bound)| bound.get(name) == Some(&bind))
        };
        let new = model.binds().filter(|(name, bind)| !has(name, *bind));
        new.map(|(name, bind)| (name.to_owned(), bind)).collect()
    }

    /// A port that another process has is found out here, and not by a reload that fails.
    async fn bar_the_hopeless(&mut self, new: &[(String, Bind)], now: Moment) -> bool {
        let Some((_, bound)) = &self.bound else {
            return false;
        };
        let mut found = false;
        for (name, bind) in new {
            // Where HAProxy itself listens, it will go on listening.
            if bound.values().any(|ours| ours.overlaps(*bind)) {
                continue;
            }
            if let Some(why) = self.proxy.obstacle(*bind).await {
                let bar = Bar {
                    why,
                    until: now + LOOK_AGAIN,
                    pause: LOOK_AGAIN,
                };
                self.barred.insert((name.clone(), *bind), bar);
                found = true;
            }
        }
        found
    }

    /// Same structure: the servers are put right one by one, and the file beside it.
    async fn adjust(&mut self, model: &Model, text: &str) -> Result<usize, Trouble> {
        let Some((worker, running)) = &mut self.known else {
            return Ok(0);
        };
        // Beside the commands, for `haproxy -c` takes longer than all of them, and a server's line
        // can't be right at the socket and wrong in the file.
        let latest = self.saving.as_ref().or(self.file.as_ref());
        if latest.is_none_or(|latest| latest != text) {
            self.proxy.save(text.to_owned());
            self.saving = Some(text.to_owned());
        }
        let commands = diff(model, running);
        let complaint = if commands.is_empty() {
            String::new()
        } else {
            self.proxy.tell(worker, &commands).await?
        };
        if !commands.is_empty() {
            let backends: BTreeSet<_> = commands
                .iter()
                .filter_map(|c| c.target.split_once('/'))
                .map(|(b, _)| b.to_owned())
                .collect();
            let now = self.proxy.state(worker, Some(&backends)).await?;
            running.retain(|name, _| !backends.contains(name));
            running.extend(now);
            let rest = diff(model, running).len();
            if rest > 0 {
                return Err(Trouble::Disagrees(rest, complaint));
            }
        }
        Ok(commands.len())
    }

    /// Another structure: the file first, then a reload, then whatever a file can't say.
    async fn restructure(
        &mut self,
        model: &Model,
        text: &str,
        mark: &str,
        now: Moment,
    ) -> Result<usize, Trouble> {
        if self.saving.take().is_some() || self.file.as_deref() != Some(text) {
            self.proxy.write(text).await?;
            self.file = Some(text.to_owned());
        }
        let outcome = match self.known {
            Some(_) => self.proxy.reload().await?,
            None => self.proxy.start().await?,
        };
        if let Reload::Failed(log) = outcome {
            if self.known.is_none() {
                // Not even what it had will do.
                self.bound = Some(<_>::default());
            }
            self.blame(&self.unproven(model), &log, now);
            let log = if log.is_empty() {
                "it doesn't say why".to_owned()
            } else {
                log
            };
            // A file that HAProxy can't start from must not be what it finds after a crash.
            if let Some(proven) = self.proven.clone() {
                self.proxy.write(&proven).await?;
                self.file = Some(proven);
            }
            return Err(Trouble::Reload(log));
        }
        self.known = None;
        let worker = self.meet().await?;
        if worker.is_none_or(|worker| worker.mark.as_deref() != Some(mark)) {
            return Err(Trouble::Down(
                "the reload was taken, but not its configuration".to_owned(),
            ));
        }
        self.bound = Some((mark.to_owned(), owned(model)));
        self.proven = Some(text.to_owned());
        self.daring = self.daring.saturating_mul(2);
        self.barred
            .retain(|(name, bind), _| !model.binds().any(|front| front == (name, *bind)));
        self.adjust(model, text).await
    }

    /// Whose fault it was that the reload failed: HAProxy says so, or says nothing and there is only one,
    /// or fewer are let in at the next try.
    fn blame(&mut self, new: &[(String, Bind)], log: &str, now: Moment) {
        let mut named = accused(log);
        // One that says something else died of something else.
        if let [(only, _)] = new
            && log.is_empty()
        {
            named.insert(only.clone(), "HAProxy couldn't listen there".to_owned());
        }
        let guilty: Vec<_> = new
            .iter()
            .filter_map(|front| Some((front, named.remove(&front.0)?)))
            .collect();
        if guilty.is_empty() {
            self.daring = (new.len() / 2).max(1);
        }
        for (front, why) in guilty {
            let before = self.barred.get(front).map(|bar| bar.pause);
            let pause = before.map_or(TRY_AGAIN, |p| (p * 2).clamp(TRY_AGAIN, TRY_AGAIN_AT_MOST));
            self.barred.insert(
                front.clone(),
                Bar {
                    why,
                    until: now + pause,
                    pause,
                },
            );
        }
    }
}

fn owned(model: &Model) -> BTreeMap<String, Bind> {
    model
        .binds()
        .map(|(name, bind)| (name.to_owned(), bind))
        .collect()
}

/// The services that HAProxy names when it can't bind, with its words: "Binding [file:22] for proxy
/// web: cannot bind socket (Address already in use) for [:::80]".
fn accused(log: &str) -> BTreeMap<String, String> {
    let lines = log.lines().filter(|line| line.contains("cannot bind"));
    let named = lines.filter_map(|line| line.split_once("proxy ")?.1.split_once(": "));
    named
        .filter_map(|(name, why)| {
            let name = if name == STATS {
                STATS.to_owned()
            } else {
                original_name(name)?
            };
            Some((name, format!("HAProxy says {why:?}")))
        })
        .collect()
}

#[cfg(test)]
#[path = "simulation.rs"]
mod simulation;
