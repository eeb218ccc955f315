//! One pass: from what is wanted to a HAProxy that has it and a file that says it. No I/O of its
//! own: it is handed a [`HaproxyApi`], and the tests hand it one that fails.
//!
//! The running worker's servers come first and always (`adjust`): that takes no reload and no file. What
//! takes a reload, and the file, are apart, each with a backoff of its own: while neither can be had, the
//! servers are adjusted all the same.

mod reload;
mod servers;

pub(crate) use reload::RELOAD_PAUSE;
#[cfg(test)]
pub(crate) use reload::{LONGEST_RELOAD_PAUSE, reload_pause};

use crate::agent::haproxy::api::{HaproxyApi, HaproxyEvent, ProxyError, Worker};
use crate::agent::haproxy::parse::parse;
use crate::agent::haproxy::render::{FixedConfig, Renderer, fingerprint, proxy_name};
use crate::agent::haproxy::running_config::RunningConfig;
use crate::agent::haproxy::runtime::RunningServers;
use crate::agent::haproxy::shared_text::SharedText;
use crate::agent::model::backends::Backends;
use crate::agent::model::bind::Bind;
use crate::agent::model::bind_backoff::{BindBackoff, ServiceBind};
use crate::agent::model::listeners::{ListenerRules, Model, RefusedListener, assign_listeners};
use crate::clock::Moment;
use crate::retry::Retry;
use crate::retry::{FILE, RELOAD};
use servers::WorkerState;
use std::collections::{BTreeMap, BTreeSet};
use tracing::{info, warn};

/// What a pass did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PassReport {
    /// It took a reload.
    pub(crate) reloaded: bool,
    /// HAProxy still listens elsewhere than it should: a reload has to wait, or couldn't be had.
    pub(crate) behind: bool,
    /// So many servers were added, changed or removed without one.
    pub(crate) changes: usize,
    /// Fronts that can't be.
    pub(crate) refusals: Vec<RefusedListener>,
    /// There is more to do then, even if nothing changes.
    pub(crate) again: Option<Moment>,
    /// What it is now.
    pub(crate) listeners: usize,
    /// What it is now, without those that are leaving.
    pub(crate) servers: usize,
}

impl PassReport {
    pub(crate) fn not_after(&mut self, at: Option<Moment>) {
        self.again = self.again.into_iter().chain(at).min();
    }
}

/// Goes through passes, one at a time.
#[derive(Debug)]
pub(crate) struct Reconciler<P> {
    pub(crate) proxy: P,
    frame: FixedConfig,
    rules: ListenerRules,
    renderer: Renderer,
    last_plan: Option<Plan>,
    known: Option<WorkerState>,
    /// What it listens on; `None` if that can't be told.
    bound: Option<RunningConfig>,
    /// What it listened on when that could be told last, at first by the file.
    pub(crate) listening: BTreeMap<String, Bind>,
    /// What the file holds.
    pub(crate) file: Option<SharedText>,
    /// What it will hold when that is saved.
    pub(crate) saving: Option<SharedText>,
    /// What the file held when HAProxy last took it.
    last_good: Option<SharedText>,
    bind_backoff: BindBackoff,
    last_reload: Option<Moment>,
    /// Reloads of a worker that runs.
    reloads: Retry,
    /// Saving the file of what runs.
    saves: Retry,
}

/// Who listens where, with its mark, and what that followed from.
#[derive(Debug)]
struct Plan {
    model: Model,
    fingerprint: String,
    refusals: Vec<RefusedListener>,
    /// The directory's; `None` if some have to wait.
    listener_version: Option<u64>,
    backed_off: BTreeMap<ServiceBind, String>,
}

impl<P: HaproxyApi> Reconciler<P> {
    /// `file` is what is on disk, if it is ours.
    pub(crate) fn new(
        proxy: P,
        frame: FixedConfig,
        rules: ListenerRules,
        file: Option<String>,
    ) -> Self {
        let listeners = file.as_deref().and_then(parse).unwrap_or_default();
        let listeners = Model {
            stats: None,
            listeners,
        };
        Self {
            proxy,
            frame,
            rules,
            renderer: Renderer::default(),
            last_plan: None,
            known: None,
            bound: None,
            listening: owned(&listeners),
            file: file.map(SharedText::from),
            saving: None,
            last_good: None,
            bind_backoff: BindBackoff::default(),
            last_reload: None,
            reloads: Retry::new(RELOAD),
            saves: Retry::new(FILE),
        }
    }

    /// Whether another worker is at work than the one that was last seen, or somebody else was at the
    /// file.
    pub(crate) async fn has_changed(&mut self) -> bool {
        if self.forget_changed_file() {
            return true;
        }
        let worker = self.proxy.worker().await.ok();
        self.proxy.close_connection();
        match (&worker, &self.known) {
            (Some(worker), Some(known)) => !worker.is(&known.worker),
            (worker, known) => worker.is_some() || known.is_some(),
        }
    }

    /// Whether somebody else was at the file: what it holds isn't known any more.
    fn forget_changed_file(&mut self) -> bool {
        let meddled = self.proxy.file_changed_by_others();
        if meddled && self.file.take().is_some() {
            warn!("somebody else has changed or removed HAProxy's file; writing it anew");
        }
        meddled
    }

    /// Takes in what happened by itself; tells when that needs another pass.
    pub(crate) fn handle_event(&mut self, event: HaproxyEvent, now: Moment) -> Option<Moment> {
        let (text, result) = match event {
            HaproxyEvent::Exited => return Some(now),
            HaproxyEvent::FileSaved(text, result) => (text, result),
        };
        self.saving.take_if(|saving| *saving == text);
        if let Err(error) = result {
            if let Some(notice) = self.saves.failed(now, fastrand::f64()) {
                warn!(
                    "{error} (try {}); HAProxy itself goes on being told of instances, retrying the file",
                    notice.failures
                );
            }
            return self.saves.next();
        }
        if let Some(notice) = self.saves.succeeded(now) {
            let seconds = notice.lasted.as_secs();
            info!("HAProxy's file can be written again, after {seconds} s");
        }
        self.last_good = Some(text.clone());
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
    pub(crate) async fn servers(&self) -> Option<RunningServers> {
        let worker = &self.known.as_ref()?.worker;
        let mut running = self.proxy.state(worker, None).await.ok()?;
        let ours: BTreeSet<_> = self.listening.keys().map(|name| proxy_name(name)).collect();
        running.retain(|backend, _| ours.contains(backend));
        Some(running)
    }

    /// HAProxy listens for this model from now on. Who is bound decides who stays bound, so a layout that
    /// followed from another is out of date: HAProxy may have been started from an older file.
    fn set_listeners(&mut self, bound: RunningConfig) {
        let listening = owned(&bound.model);
        if self.listening != listening {
            self.last_plan = None;
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
        backends: &Backends,
        now: Moment,
    ) -> Result<PassReport, ProxyError> {
        let result = self.run_pass(backends, now).await;
        self.proxy.close_connection();
        result
    }

    async fn run_pass(
        &mut self,
        backends: &Backends,
        now: Moment,
    ) -> Result<PassReport, ProxyError> {
        let worker = self.find_worker().await?;
        let mut report = PassReport::default();
        let plan = self.plan(backends, now, &mut report).await;
        if worker.is_some_and(|worker| worker.fingerprint.as_ref() == Some(&plan.fingerprint))
            && !self.has_bound(&plan.fingerprint)
        {
            self.set_listeners(RunningConfig::new(
                &self.frame,
                &plan.fingerprint,
                plan.model.clone(),
            ));
        }
        if let Some(bound) = &mut self.bound {
            bound.model.follow(backends.services());
        }
        report.listeners = plan.model.listeners.len();
        let leaving = |service| backends.services().get(service).map_or(0, |it| it.leaving);
        let leaving: usize = plan.model.listeners.keys().map(leaving).sum();
        report.servers = plan.model.servers().saturating_sub(leaving);
        let result = self.execute(&plan, backends, now, &mut report).await;
        if result.as_ref().is_err_and(is_lost) {
            self.known = None;
        }
        self.last_plan = plan.listener_version.is_some().then_some(plan);
        report.changes = result?;
        Ok(report)
    }

    /// First the worker that runs, then what takes a reload, then the file.
    async fn execute(
        &mut self,
        plan: &Plan,
        backends: &Backends,
        now: Moment,
        report: &mut PassReport,
    ) -> Result<usize, ProxyError> {
        let mut told = self.adjust(backends).await;
        if told.as_ref().is_err_and(is_lost) {
            return told;
        }
        let runs = self.known.is_some() && self.has_bound(&plan.fingerprint);
        if !runs {
            self.restructure(plan, now, report).await?;
            if report.reloaded {
                let more = self.adjust(backends).await;
                told = more.map(|more| more + told.unwrap_or_default());
            }
        }
        self.save_file(now, report);
        told
    }

    /// Asks who is at work, and what it has unless that is known. `None`: nobody.
    async fn find_worker(&mut self) -> Result<Option<Worker>, ProxyError> {
        let worker = match self.proxy.worker().await {
            Ok(worker) => worker,
            Err(ProxyError::Unreachable(_)) => {
                self.known = None;
                // What it listened on until now, it will be able to listen on again.
                self.bound.get_or_insert_default();
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        match &mut self.known {
            Some(known) if known.worker.is(&worker) => known.worker = worker.clone(),
            _ => {
                let running = self.proxy.state(&worker, None).await?;
                if self.bound.as_ref().map(|bound| &bound.fingerprint)
                    != worker.fingerprint.as_ref()
                {
                    self.bound = None;
                    if let Some(bound) = self.bound_by_file(&worker) {
                        self.set_listeners(bound);
                    }
                }
                self.known = Some(WorkerState::new(worker.clone(), running));
            }
        }
        Ok(Some(worker))
    }

    /// Another has started it: what it listens on shows only if it was from the file that we have.
    fn bound_by_file(&mut self, worker: &Worker) -> Option<RunningConfig> {
        let (file, fingerprint) = (self.file.as_ref()?, worker.fingerprint.as_deref()?);
        let bound = RunningConfig::by_file(
            &self.frame,
            fingerprint,
            &file.to_string(),
            self.rules.stats,
        )?;
        self.last_good = Some(file.clone());
        Some(bound)
    }

    /// What HAProxy is to be after this pass.
    async fn plan(&mut self, backends: &Backends, now: Moment, report: &mut PassReport) -> Plan {
        loop {
            let backed_off = self.bind_backoff.active(now);
            let mut plan = self.assign_listeners(backends, backed_off);
            let new = if self.has_bound(&plan.fingerprint) {
                Vec::new()
            } else {
                self.new_listeners(&plan.model)
            };
            if self.back_off_ports_in_use(&new, now).await {
                continue;
            }
            for (service, _) in new.iter().skip(self.bind_backoff.max_new_listeners()) {
                drop(plan.model.listeners.remove(service));
                plan.listener_version = None;
            }
            if plan.listener_version.is_none() {
                plan.fingerprint = fingerprint(&self.frame, &plan.model);
                report.again = Some(now + RELOAD_PAUSE);
            }
            report.not_after(self.bind_backoff.next_try(now));
            report.refusals.clone_from(&plan.refusals);
            return plan;
        }
    }

    /// As last time, if nothing has changed but servers.
    fn assign_listeners(
        &mut self,
        backends: &Backends,
        backed_off: BTreeMap<ServiceBind, String>,
    ) -> Plan {
        let listener_version = Some(backends.listener_version());
        let before = self.last_plan.take();
        if let Some(mut plan) = before
            .filter(|it| it.listener_version == listener_version && it.backed_off == backed_off)
        {
            plan.model.follow(backends.services());
            return plan;
        }
        let (model, refusals) = assign_listeners(
            &self.rules,
            backends.services(),
            &backed_off,
            &self.listening,
        );
        Plan {
            fingerprint: fingerprint(&self.frame, &model),
            model,
            refusals,
            listener_version,
            backed_off,
        }
    }

    fn has_bound(&self, fingerprint: &str) -> bool {
        self.bound
            .as_ref()
            .is_some_and(|bound| bound.fingerprint == fingerprint)
    }

    /// Fronts that HAProxy hasn't got yet, as far as can be told; those that it had last come first.
    fn new_listeners(&self, model: &Model) -> Vec<ServiceBind> {
        let has = |name: &str, bind| self.bound.as_ref().is_some_and(|it| it.has(name, bind));
        let new = model.binds().filter(|(name, bind)| !has(name, *bind));
        let new = new.map(|(name, bind)| (name.to_owned(), bind));
        let (known, unknown): (Vec<_>, Vec<_>) =
            new.partition(|(name, bind)| self.listening.get(name) == Some(bind));
        [known, unknown].concat()
    }

    /// A port that another process has is found out here, and not by a reload that fails.
    async fn back_off_ports_in_use(&mut self, new: &[ServiceBind], now: Moment) -> bool {
        let Some(bound) = &self.bound else {
            return false;
        };
        let mut found = false;
        for (name, bind) in new {
            // Where HAProxy itself listens, it will go on listening.
            if bound.overlaps(*bind) {
                continue;
            }
            if let Some(why) = self.proxy.bind_obstacle(*bind).await {
                self.bind_backoff
                    .port_in_use((name.clone(), *bind), why, now);
                found = true;
            }
        }
        found
    }

    /// The servers that are wanted, in the worker that runs: those of the services that it listens for.
    async fn adjust(&mut self, backends: &Backends) -> Result<usize, ProxyError> {
        match (&mut self.known, &self.bound) {
            (Some(known), Some(bound)) => known.sync(&self.proxy, &bound.model, backends).await,
            _ => Ok(0),
        }
    }

    /// The file of what runs, beside whatever comes next, for `haproxy -c` takes longer than all
    /// commands. Whatever became of those: a server's line can't be right at the socket and wrong in the
    /// file.
    fn save_file(&mut self, now: Moment, report: &mut PassReport) {
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
const fn is_lost(error: &ProxyError) -> bool {
    !matches!(error, ProxyError::OutOfSync(..))
}

fn owned(model: &Model) -> BTreeMap<String, Bind> {
    let binds = model.binds();
    binds.map(|(name, bind)| (name.to_owned(), bind)).collect()
}
