//! One pass: from what is wanted to a HAProxy that has it and a file that says it. No I/O of its
//! own: it is handed a [`Proxy`], and the tests hand it one that fails.
//!
//! The running worker's servers come first and always (`adjust`): that takes no reload and no file. What
//! takes a reload, and the file, are apart, each with a backoff of its own: while neither can be had, the
//! servers are adjusted all the same.

mod reload;
mod servers;

pub(crate) use reload::RELOAD_PAUSE;
#[cfg(test)]
pub(crate) use reload::{LONGEST_RELOAD_PAUSE, reload_pause};

use crate::agent::haproxy::api::{Happening, Proxy, Trouble, Worker};
use crate::agent::haproxy::parse::parse;
use crate::agent::haproxy::render::{Frame, Renderer, proxy_name, structure};
use crate::agent::haproxy::running_config::Bound;
use crate::agent::haproxy::runtime::Running;
use crate::agent::haproxy::shared_text::Text;
use crate::agent::model::backends::Directory;
use crate::agent::model::bind::Bind;
use crate::agent::model::bind_backoff::{Bars, Place};
use crate::agent::model::listeners::{Model, Refusal, Rules, lay_out};
use crate::clock::Moment;
use crate::retry::Retry;
use crate::retry::{FILE, RELOAD};
use servers::Known;
use std::collections::{BTreeMap, BTreeSet};
use tracing::{info, warn};

/// What a pass did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// It took a reload.
    pub(crate) reloaded: bool,
    /// HAProxy still listens elsewhere than it should: a reload has to wait, or couldn't be had.
    pub(crate) behind: bool,
    /// So many servers were added, changed or removed without one.
    pub(crate) changes: usize,
    /// Fronts that can't be.
    pub(crate) refusals: Vec<Refusal>,
    /// There is more to do then, even if nothing changes.
    pub(crate) again: Option<Moment>,
    /// What it is now.
    pub(crate) fronts: usize,
    /// What it is now, without those that are leaving.
    pub(crate) servers: usize,
}

impl Report {
    pub(crate) fn not_after(&mut self, at: Option<Moment>) {
        self.again = self.again.into_iter().chain(at).min();
    }
}

/// Goes through passes, one at a time.
#[derive(Debug)]
pub(crate) struct Applier<P> {
    pub(crate) proxy: P,
    frame: Frame,
    rules: Rules,
    renderer: Renderer,
    laid: Option<Laid>,
    known: Option<Known>,
    /// What it listens on; `None` if that can't be told.
    bound: Option<Bound>,
    /// What it listened on when that could be told last, at first by the file.
    pub(crate) listening: BTreeMap<String, Bind>,
    /// What the file holds.
    pub(crate) file: Option<Text>,
    /// What it will hold when that is saved.
    pub(crate) saving: Option<Text>,
    /// What the file held when HAProxy last took it.
    proven: Option<Text>,
    bars: Bars,
    last_reload: Option<Moment>,
    /// Reloads of a worker that runs.
    reloads: Retry,
    /// Saving the file of what runs.
    saves: Retry,
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

impl<P: Proxy> Applier<P> {
    /// `file` is what is on disk, if it is ours.
    pub(crate) fn new(proxy: P, frame: Frame, rules: Rules, file: Option<String>) -> Self {
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
            reloads: Retry::new(RELOAD),
            saves: Retry::new(FILE),
        }
    }

    /// Whether another worker is at work than the one that was last seen, or somebody else was at the
    /// file.
    pub(crate) async fn has_changed(&mut self) -> bool {
        if self.loses_its_file() {
            return true;
        }
        let worker = self.proxy.worker().await.ok();
        self.proxy.hang_up();
        match (&worker, &self.known) {
            (Some(worker), Some(known)) => !worker.is(&known.worker),
            (worker, known) => worker.is_some() || known.is_some(),
        }
    }

    /// Whether somebody else was at the file: what it holds isn't known any more.
    fn loses_its_file(&mut self) -> bool {
        let meddled = self.proxy.is_meddled_with();
        if meddled && self.file.take().is_some() {
            warn!("somebody else has changed or removed HAProxy's file; writing it anew");
        }
        meddled
    }

    /// Takes in what happened by itself; tells when that needs another pass.
    pub(crate) fn happened(&mut self, happening: Happening, now: Moment) -> Option<Moment> {
        let (text, result) = match happening {
            Happening::Died => return Some(now),
            Happening::Saved(text, result) => (text, result),
        };
        self.saving.take_if(|saving| *saving == text);
        if let Err(trouble) = result {
            if let Some(notice) = self.saves.failed(now, fastrand::f64()) {
                warn!(
                    "{trouble} (try {}); HAProxy itself goes on being told of instances, retrying the file",
                    notice.failures
                );
            }
            return self.saves.next();
        }
        if let Some(notice) = self.saves.succeeded(now) {
            let seconds = notice.lasted.as_secs();
            info!("HAProxy's file can be written again, after {seconds} s");
        }
        self.proven = Some(text.clone());
        self.file = Some(text);
        None
    }

    /// Since when a reload or the file can't be had.
    pub(crate) fn behind_since(&self) -> Option<Moment> {
        self.reloads
            .since()
            .into_iter()
            .chain(self.saves.since())
            .min()
    }

    /// Where HAProxy listens, or was told to by the operator.
    pub(crate) fn listeners(&self) -> impl Iterator<Item = Bind> + Clone {
        let rules = &self.rules;
        let asked = rules.binds.values().chain(&rules.stats);
        let theirs = asked.chain(&rules.occupied);
        theirs.chain(self.listening.values()).copied()
    }

    /// The servers of the services that HAProxy listens for, as the worker that was met last has them.
    pub(crate) async fn servers(&self) -> Option<Running> {
        let worker = &self.known.as_ref()?.worker;
        let mut running = self.proxy.state(worker, None).await.ok()?;
        let ours: BTreeSet<_> = self.listening.keys().map(|name| proxy_name(name)).collect();
        running.retain(|backend, _| ours.contains(backend));
        Some(running)
    }

    /// HAProxy listens for this model from now on. Who is bound decides who stays bound, so a layout that
    /// followed from another is out of date: HAProxy may have been started from an older file.
    fn listens(&mut self, bound: Bound) {
        let listening = owned(&bound.model);
        if self.listening != listening {
            self.laid = None;
        }
        self.listening = listening;
        self.bound = Some(bound);
    }

    /// The next pass asks HAProxy for everything again.
    pub(crate) fn forget(&mut self) {
        self.known = None;
    }

    /// One pass, on one connection to HAProxy.
    pub(crate) async fn pass(
        &mut self,
        directory: &Directory,
        now: Moment,
    ) -> Result<Report, Trouble> {
        let result = self.steps(directory, now).await;
        self.proxy.hang_up();
        result
    }

    async fn steps(&mut self, directory: &Directory, now: Moment) -> Result<Report, Trouble> {
        let worker = self.meet().await?;
        let mut report = Report::default();
        let laid = self.plan(directory, now, &mut report).await;
        if worker.is_some_and(|worker| worker.mark.as_ref() == Some(&laid.mark))
            && !self.has_bound(&laid.mark)
        {
            self.listens(Bound::new(&self.frame, &laid.mark, laid.model.clone()));
        }
        if let Some(bound) = &mut self.bound {
            bound.model.follow(directory.services());
        }
        report.fronts = laid.model.fronts.len();
        let leaving = |service| directory.services().get(service).map_or(0, |it| it.leaving);
        let leaving: usize = laid.model.fronts.keys().map(leaving).sum();
        report.servers = laid.model.servers().saturating_sub(leaving);
        let result = self.carry_out(&laid, directory, now, &mut report).await;
        if result.as_ref().is_err_and(is_lost) {
            self.known = None;
        }
        self.laid = laid.shape.is_some().then_some(laid);
        report.changes = result?;
        Ok(report)
    }

    /// First the worker that runs, then what takes a reload, then the file.
    async fn carry_out(
        &mut self,
        laid: &Laid,
        directory: &Directory,
        now: Moment,
        report: &mut Report,
    ) -> Result<usize, Trouble> {
        let mut told = self.adjust(directory).await;
        if told.as_ref().is_err_and(is_lost) {
            return told;
        }
        let runs = self.known.is_some() && self.has_bound(&laid.mark);
        if !runs {
            self.restructure(laid, now, report).await?;
            if report.reloaded {
                let more = self.adjust(directory).await;
                told = more.map(|more| more + told.unwrap_or_default());
            }
        }
        self.keep_file(now, report);
        told
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
        match &mut self.known {
            Some(known) if known.worker.is(&worker) => known.worker = worker.clone(),
            _ => {
                let running = self.proxy.state(&worker, None).await?;
                if self.bound.as_ref().map(|bound| &bound.mark) != worker.mark.as_ref() {
                    self.bound = None;
                    if let Some(bound) = self.bound_by_file(&worker) {
                        self.listens(bound);
                    }
                }
                self.known = Some(Known::new(worker.clone(), running));
            }
        }
        Ok(Some(worker))
    }

    /// Another has started it: what it listens on shows only if it was from the file that we have.
    fn bound_by_file(&mut self, worker: &Worker) -> Option<Bound> {
        let (file, mark) = (self.file.as_ref()?, worker.mark.as_deref()?);
        let bound = Bound::by_file(&self.frame, mark, &file.to_string(), self.rules.stats)?;
        self.proven = Some(file.clone());
        Some(bound)
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
            report.not_after(self.bars.next_try(now));
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
        self.bound.as_ref().is_some_and(|bound| bound.mark == mark)
    }

    /// Fronts that HAProxy hasn't got yet, as far as can be told; those that it had last come first.
    fn unproven(&self, model: &Model) -> Vec<Place> {
        let has = |name: &str, bind| self.bound.as_ref().is_some_and(|it| it.has(name, bind));
        let new = model.binds().filter(|(name, bind)| !has(name, *bind));
        let new = new.map(|(name, bind)| (name.to_owned(), bind));
        let (known, unknown): (Vec<_>, Vec<_>) =
            new.partition(|(name, bind)| self.listening.get(name) == Some(bind));
        [known, unknown].concat()
    }

    /// A port that another process has is found out here, and not by a reload that fails.
    async fn bar_the_hopeless(&mut self, new: &[Place], now: Moment) -> bool {
        let Some(bound) = &self.bound else {
            return false;
        };
        let mut found = false;
        for (name, bind) in new {
            // Where HAProxy itself listens, it will go on listening.
            if bound.overlaps(*bind) {
                continue;
            }
            if let Some(why) = self.proxy.obstacle(*bind).await {
                self.bars.hopeless((name.clone(), *bind), why, now);
                found = true;
            }
        }
        found
    }

    /// The servers that are wanted, in the worker that runs: those of the services that it listens for.
    async fn adjust(&mut self, directory: &Directory) -> Result<usize, Trouble> {
        match (&mut self.known, &self.bound) {
            (Some(known), Some(bound)) => known.agree(&self.proxy, &bound.model, directory).await,
            _ => Ok(0),
        }
    }

    /// The file of what runs, beside whatever comes next, for `haproxy -c` takes longer than all
    /// commands. Whatever became of those: a server's line can't be right at the socket and wrong in the
    /// file.
    fn keep_file(&mut self, now: Moment, report: &mut Report) {
        let bound = self.bound.as_ref().filter(|bound| bound.renders);
        let Some(bound) = bound.filter(|_| self.known.is_some()) else {
            return;
        };
        let text = self.renderer.render(&self.frame, &bound.model);
        if self.saving.as_ref().or(self.file.as_ref()) == Some(&text) {
            if self.saving.is_none() {
                // The same text, but in pieces that are in use anyway.
                self.file = Some(text);
            }
        } else if let Some(next) = self.saves.next().filter(|next| *next > now) {
            report.not_after(Some(next));
        } else {
            self.proxy.save(text.clone());
            self.saving = Some(text);
        }
    }
}

/// One that disagrees has said how; of HAProxy after any other trouble nothing is known any more.
const fn is_lost(trouble: &Trouble) -> bool {
    !matches!(trouble, Trouble::Disagrees(..))
}

fn owned(model: &Model) -> BTreeMap<String, Bind> {
    let binds = model.binds();
    binds.map(|(name, bind)| (name.to_owned(), bind)).collect()
}
