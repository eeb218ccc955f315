//! One pass: from what is wanted to a HAProxy that has it and a file that says it. No I/O of its
//! own: it is handed a [`Proxy`], and the tests hand it one that fails.
//!
//! Instances cost no reload, structure costs one. Whichever it is, the pass is over only when
//! HAProxy's own answer agrees; until then it is gone through again. A front whose servers are the
//! very ones that HAProxy agreed to before isn't looked at.

use super::addresses::{Directory, Servers};
use super::bars::{Bars, Place};
use super::beside::beside;
use super::diff::{Running, agreeing, diff};
use super::layout::{Bind, Model, Refusal, Rules, lay_out};
use super::parse::{mark_of, parse};
use super::proxy::{Happening, Proxy, Reload, Trouble, Worker};
use super::render::{Frame, Renderer, proxy_name, structure};
use super::text::Text;
use crate::clock::Moment;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tracing::warn;

/// The least time between two reloads: each leaves an old worker with its connections behind.
pub const RELOAD_PAUSE: Duration = Duration::from_secs(1);

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
    renderer: Renderer,
    laid: Option<Laid>,
    known: Option<Known>,
    /// What it listens on, and the mark that goes with it; `None` if that can't be told.
    bound: Option<(String, BTreeMap<String, Bind>)>,
    /// What it listened on when that could be told last, at first by the file.
    pub(super) listening: BTreeMap<String, Bind>,
    /// What the file holds.
    file: Option<Text>,
    /// What it will hold when that is saved.
    saving: Option<Text>,
    /// What the file held when HAProxy last took it.
    proven: Option<Text>,
    bars: Bars,
    last_reload: Option<Moment>,
}

/// Who listens where, with its mark, and what that followed from.
#[derive(Debug)]
struct Laid {
    model: Model,
    mark: String,
    refusals: Vec<Refusal>,
    /// The directory's; `None` if some have to wait.
    shape: Option<u64>,
    barred: BTreeMap<Place, String>,
}

/// The worker that was last seen.
#[derive(Debug)]
struct Known {
    worker: Worker,
    /// Servers with which it agreed, by service.
    agreed: BTreeMap<String, Arc<Servers>>,
    /// Backends that have to be looked at, as it has them.
    running: Running,
}

impl<P: Proxy> Applier<P> {
    /// `file` is what is on disk, if it is ours.
    pub(super) fn new(proxy: P, frame: Frame, rules: Rules, file: Option<String>) -> Self {
        let fronts = file.as_deref().and_then(parse).unwrap_or_default();
        let fronts = Model {
            stats: None,
            fronts,
        };
        Self {
            proxy,
            frame,
            rules,
            renderer: Renderer::default(),
            laid: None,
            known: None,
            bound: None,
            listening: owned(&fronts),
            file: file.map(Text::from),
            saving: None,
            proven: None,
            bars: Bars::default(),
            last_reload: None,
        }
    }

    /// Whether another worker is at work than the one that was last seen, or somebody else was at the
    /// file.
    pub(super) async fn has_changed(&mut self) -> bool {
        if self.loses_its_file() {
            return true;
        }
        let worker = self.proxy.worker().await.ok();
        worker.as_ref() != self.known.as_ref().map(|known| &known.worker)
    }

    /// Whether somebody else was at the file: what it holds isn't known any more.
    fn loses_its_file(&mut self) -> bool {
        let meddled = self.proxy.is_meddled_with();
        if meddled && self.file.take().is_some() {
            warn!("somebody else has changed or removed HAProxy's file; writing it anew");
        }
        meddled
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

    /// Where HAProxy listens, or was told to by the operator.
    pub(super) fn listeners(&self) -> impl Iterator<Item = Bind> + Clone {
        let rules = &self.rules;
        let asked = rules.binds.values().chain(&rules.stats);
        let theirs = asked.chain(&rules.occupied);
        theirs.chain(self.listening.values()).copied()
    }

    fn listens(&mut self, mark: &str, model: &Model) {
        self.listening = owned(model);
        self.bound = Some((mark.to_owned(), self.listening.clone()));
    }

    /// The next pass asks HAProxy for everything again.
    pub(super) fn forget(&mut self) {
        self.known = None;
    }

    /// One pass.
    pub(super) async fn pass(
        &mut self,
        directory: &Directory,
        now: Moment,
    ) -> Result<Report, Trouble> {
        let worker = self.meet().await?;
        let mut report = Report::default();
        let laid = self.plan(directory, now, &mut report).await;
        let (model, mark) = (&laid.model, &laid.mark);
        let result = if worker.is_some_and(|worker| worker.mark.as_ref() == Some(mark)) {
            if !self.has_bound(mark) {
                self.listens(mark, model);
            }
            self.adjust(model).await
        } else {
            let earliest = self.last_reload.map(|at| at + RELOAD_PAUSE);
            if let Some(earliest) = earliest.filter(|at| *at > now) {
                report.again = Some(earliest);
                return Ok(report);
            }
            self.last_reload = Some(now);
            report.reloaded = true;
            self.restructure(model, mark, now).await
        };
        // One that disagrees has said how; of any other nothing is known any more.
        if result
            .as_ref()
            .is_err_and(|trouble| !matches!(trouble, Trouble::Disagrees(..)))
        {
            self.known = None;
        }
        (report.fronts, report.servers) = (model.fronts.len(), model.servers());
        self.laid = laid.shape.is_some().then_some(laid);
        report.changes = result?;
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
            .is_none_or(|known| known.worker != worker)
        {
            let running = self.proxy.state(&worker, None).await?;
            if self.bound.as_ref().map(|(mark, _)| mark) != worker.mark.as_ref() {
                self.bound = self.bound_by_file(&worker);
                if let Some((_, bound)) = &self.bound {
                    self.listening.clone_from(bound);
                }
            }
            self.known = Some(Known {
                worker: worker.clone(),
                agreed: BTreeMap::new(),
                running,
            });
        }
        Ok(Some(worker))
    }

    /// Somebody else started it: what it listens on shows only if it was from the file that we have.
    fn bound_by_file(&self, worker: &Worker) -> Option<(String, BTreeMap<String, Bind>)> {
        let file = self.file.as_ref()?.to_string();
        let mark = worker
            .mark
            .as_deref()
            .filter(|mark| mark_of(&file) == Some(mark))?;
        let stats = self.rules.stats;
        let model = Model {
            stats,
            fronts: parse(&file)?,
        };
        Some((mark.to_owned(), owned(&model)))
    }

    /// What HAProxy is to be after this pass.
    async fn plan(&mut self, directory: &Directory, now: Moment, report: &mut Report) -> Laid {
        loop {
            let barred = self.bars.active(now);
            let mut laid = self.lay_out(directory, barred);
            let new = if self.has_bound(&laid.mark) {
                Vec::new()
            } else {
                self.unproven(&laid.model)
            };
            if self.bar_the_hopeless(&new, now).await {
                continue;
            }
            for (service, _) in new.iter().skip(self.bars.daring()) {
                drop(laid.model.fronts.remove(service));
                laid.shape = None;
            }
            if laid.shape.is_none() {
                laid.mark = structure(&self.frame, &laid.model);
                report.again = Some(now + RELOAD_PAUSE);
            }
            let next_try = self.bars.next_try(now);
            report.again = report.again.into_iter().chain(next_try).min();
            report.refusals.clone_from(&laid.refusals);
            return laid;
        }
    }

    /// As last time, if nothing has changed but servers.
    fn lay_out(&mut self, directory: &Directory, barred: BTreeMap<Place, String>) -> Laid {
        let shape = Some(directory.shape());
        let before = self.laid.take();
        if let Some(mut laid) = before.filter(|it| it.shape == shape && it.barred == barred) {
            laid.model.follow(directory.services());
            return laid;
        }
        let (model, refusals) =
            lay_out(&self.rules, directory.services(), &barred, &self.listening);
        Laid {
            mark: structure(&self.frame, &model),
            model,
            refusals,
            shape,
            barred,
        }
    }

    fn has_bound(&self, mark: &str) -> bool {
        self.bound.as_ref().is_some_and(|(bound, _)| bound == mark)
    }

    /// Fronts that HAProxy hasn't got yet.
    fn unproven(&self, model: &Model) -> Vec<Place> {
        let has = |name: &str, bind| {
            self.bound
                .as_ref()
                .is_some_and(|(_, bound)| bound.get(name) == Some(&bind))
        };
        let new = model.binds().filter(|(name, bind)| !has(name, *bind));
        new.map(|(name, bind)| (name.to_owned(), bind)).collect()
    }

    /// A port that another process has is found out here, and not by a reload that fails.
    async fn bar_the_hopeless(&mut self, new: &[Place], now: Moment) -> bool {
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
                self.bars.hopeless((name.clone(), *bind), why, now);
                found = true;
            }
        }
        found
    }

    /// Same structure: the servers are put right one by one, and then the file.
    async fn adjust(&mut self, model: &Model) -> Result<usize, Trouble> {
        let told = self.tell(model).await;
        // Whatever became of it: a server's line can't be right at the socket and wrong in the file.
        // Beside whatever comes next, for `haproxy -c` takes longer than all commands.
        let text = self.renderer.render(&self.frame, model);
        if self.saving.as_ref().or(self.file.as_ref()) != Some(&text) {
            self.proxy.save(text.clone());
            self.saving = Some(text);
        } else if self.saving.is_none() {
            // The same text, but in pieces that are in use anyway.
            self.file = Some(text);
        }
        told
    }

    /// Puts right those servers about which HAProxy and the model may disagree.
    async fn tell(&mut self, model: &Model) -> Result<usize, Trouble> {
        let Some(Known {
            worker,
            agreed,
            running,
        }) = &mut self.known
        else {
            return Ok(0);
        };
        let mut open: Vec<(&str, &Arc<Servers>)> = Vec::new();
        for (service, front, servers) in beside(model.fronts.iter(), agreed.iter()) {
            match servers {
                Some(servers) if Arc::ptr_eq(servers, &front.servers) => continue,
                Some(servers) => drop(running.insert(proxy_name(service), agreeing(servers))),
                None => {}
            }
            open.push((service, &front.servers));
        }
        let rest = |running: &Running| diff(open.iter().map(|(s, it)| (*s, &***it)), running);
        let commands = rest(running);
        if !commands.is_empty() {
            let complaint = self.proxy.tell(worker, &commands).await?;
            let backends: BTreeSet<_> = commands
                .iter()
                .filter_map(|c| c.target.split_once('/'))
                .map(|(b, _)| b.to_owned())
                .collect();
            let now = self.proxy.state(worker, Some(&backends)).await?;
            running.retain(|name, _| !backends.contains(name));
            running.extend(now);
            let rest = rest(running).len();
            if rest > 0 {
                for (service, _) in open {
                    agreed.remove(service);
                }
                return Err(Trouble::Disagrees(rest, complaint));
            }
        }
        running.clear();
        let open = open.into_iter();
        agreed.extend(open.map(|(service, servers)| (service.to_owned(), servers.clone())));
        Ok(commands.len())
    }

    /// Another structure: the file first, then a reload, then whatever a file can't say.
    async fn restructure(
        &mut self,
        model: &Model,
        mark: &str,
        now: Moment,
    ) -> Result<usize, Trouble> {
        let text = self.renderer.render(&self.frame, model);
        self.loses_its_file();
        if self.saving.take().is_some() || self.file.as_ref() != Some(&text) {
            self.proxy.write(&text).await?;
            self.file = Some(text.clone());
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
            self.bars.blame(&self.unproven(model), &log, now);
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
        self.listens(mark, model);
        self.proven = Some(text);
        self.bars.proven(model);
        self.adjust(model).await
    }
}

fn owned(model: &Model) -> BTreeMap<String, Bind> {
    model
        .binds()
        .map(|(name, bind)| (name.to_owned(), bind))
        .collect()
}

#[cfg(test)]
#[path = "simulation.rs"]
mod simulation;
