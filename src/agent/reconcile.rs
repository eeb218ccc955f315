//! One pass: brings HAProxy's servers, listeners and file to the desired state. No I/O of its own: it is
//! handed a [`HaproxyApi`], and the tests hand it a fake that fails.
//!
//! The running worker's servers come first and always (`servers`): that takes no reload and no file. A
//! reload and the file have a backoff of their own each: while neither succeeds, the servers are updated all
//! the same.

mod look;
mod plan;
mod reload;
mod reload_pause;
mod report;
mod servers;

#[cfg(test)]
pub(crate) use reload_pause::{LONGEST_RELOAD_PAUSE, RELOAD_PAUSE, reload_pause};
pub(crate) use report::{PassReport, PassTotals};

use crate::agent::haproxy::api::{HaproxyApi, HaproxyEvent, ProxyError, Worker};
use crate::agent::haproxy::file_content::FileContent;
use crate::agent::haproxy::parse::parse;
use crate::agent::haproxy::render::{FixedConfig, proxy_name};
use crate::agent::haproxy::running_config::RunningConfig;
use crate::agent::haproxy::server_state::RunningServers;
use crate::agent::model::backends::Backends;
use crate::agent::model::bind::Bind;
use crate::agent::model::bind_backoff::BindBackoff;
use crate::agent::model::listeners::{ListenerRules, Model};
use crate::clock::Moment;
use crate::retry::{FILE, Retry};
use plan::Plan;
use reload::Reloads;
use servers::WorkerState;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tracing::{info, warn};

/// HAProxy's configuration file, as far as the reconciler knows it.
#[derive(Debug)]
pub(crate) struct SavedFile {
    /// What the file holds; `None` if that is unknown.
    pub(crate) file: Option<FileContent>,
    /// The content of a save that is under way.
    pub(crate) saving: Option<FileContent>,
    /// What the file held when HAProxy last loaded it.
    pub(crate) last_good: Option<FileContent>,
    /// Failed saves of the running configuration.
    retry: Retry,
}

/// Runs passes, one at a time.
#[derive(Debug)]
pub(crate) struct Reconciler<P> {
    pub(crate) proxy: P,
    fixed_config: Arc<FixedConfig>,
    rules: ListenerRules,
    last_plan: Option<Plan>,
    known: Option<WorkerState>,
    /// What the running worker was started with; `None` if that is unknown.
    bound: Option<RunningConfig>,
    /// What HAProxy listened on when that was last known, at first from the file.
    pub(crate) listening: BTreeMap<String, Bind>,
    pub(crate) saved: SavedFile,
    bind_backoff: BindBackoff,
    reloads: Reloads,
    pub(crate) totals: PassTotals,
}

impl<P: HaproxyApi> Reconciler<P> {
    /// `file` is the file on disk, if sidekick wrote it.
    pub(crate) fn new(
        proxy: P,
        fixed_config: FixedConfig,
        rules: ListenerRules,
        file: Option<String>,
    ) -> Self {
        let listeners = file.as_deref().and_then(parse).unwrap_or_default();
        let listeners = Model {
            stats: None,
            listeners,
        };
        let fixed_config = Arc::new(fixed_config);
        let file = file.map(|text| FileContent::of_text(text, &fixed_config, rules.stats));
        Self {
            proxy,
            rules,
            last_plan: None,
            known: None,
            bound: None,
            listening: owned(&listeners),
            saved: SavedFile {
                file,
                saving: None,
                last_good: None,
                retry: Retry::new(FILE),
            },
            bind_backoff: BindBackoff::default(),
            reloads: Reloads::default(),
            totals: PassTotals::default(),
            fixed_config,
        }
    }

    /// Whether another worker runs than the one that was last seen, or another process changed the file.
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

    /// Whether another process changed the file: then its content is unknown.
    fn forget_changed_file(&mut self) -> bool {
        let meddled = self.proxy.file_changed_by_others();
        if meddled && self.saved.file.take().is_some() {
            warn!(
                "another process changed or removed HAProxy's configuration file; writing it again"
            );
        }
        meddled
    }

    /// Handles an event from outside a pass; returns when another pass is due because of it.
    pub(crate) fn handle_event(&mut self, event: HaproxyEvent, now: Moment) -> Option<Moment> {
        let (content, result) = match event {
            HaproxyEvent::Exited => return Some(now),
            HaproxyEvent::FileSaved(content, result) => (content, result),
        };
        self.saved.saving.take_if(|saving| *saving == content);
        if let Err(error) = result {
            if let Some(notice) = self.saved.retry.failed(now, fastrand::f64()) {
                warn!(
                    "{error} (try {}); the running HAProxy is still updated, retrying the file",
                    notice.failures
                );
            }
            return self.saved.retry.next();
        }
        if let Some(notice) = self.saved.retry.succeeded(now) {
            let seconds = notice.lasted.as_secs();
            info!("HAProxy's configuration file is written again after {seconds} s");
        }
        self.saved.last_good = Some(content.clone());
        self.saved.file = Some(content);
        None
    }

    /// Since when reloads or saves have been failing.
    pub(crate) fn behind_since(&self) -> Option<Moment> {
        self.reloads
            .retry
            .since()
            .into_iter()
            .chain(self.saved.retry.since())
            .min()
    }

    /// Where HAProxy listens, or will by the operator's options.
    pub(crate) fn listeners(&self) -> impl Iterator<Item = Bind> + Clone {
        let rules = &self.rules;
        let asked = rules.binds.values().chain(&rules.stats);
        let theirs = asked.chain(&rules.occupied);
        theirs.chain(self.listening.values()).copied()
    }

    /// The servers of the services that the known worker listens for, as it has them.
    pub(crate) async fn servers(&self) -> Option<RunningServers> {
        let worker = &self.known.as_ref()?.worker;
        let mut running = self.proxy.state(worker, None).await.ok()?;
        let ours: BTreeSet<_> = self.listening.keys().map(|name| proxy_name(name)).collect();
        running.retain(|backend, _| ours.contains(backend));
        Some(running)
    }

    /// Records what HAProxy listens on now. A service that is bound keeps its port, so a plan that was made
    /// for other listeners is out of date: HAProxy may have been started from an older file.
    fn set_listeners(&mut self, bound: RunningConfig) {
        let listening = owned(&bound.model);
        if self.listening != listening {
            self.last_plan = None;
        }
        self.listening = listening;
        self.bound = Some(bound);
    }

    /// Makes the next pass read HAProxy's whole state.
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
        self.totals.passes += 1;
        self.totals.failed_passes += u64::from(result.is_err());
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
                &self.fixed_config,
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

    /// First the running worker's servers, then what takes a reload, then the file.
    async fn execute(
        &mut self,
        plan: &Plan,
        backends: &Backends,
        now: Moment,
        report: &mut PassReport,
    ) -> Result<usize, ProxyError> {
        let mut told = self.adjust(backends, now, report).await;
        if told.as_ref().is_err_and(is_lost) {
            return told;
        }
        let runs = self.known.is_some() && self.has_bound(&plan.fingerprint);
        if !runs {
            self.restructure(plan, now, report).await?;
            if report.reloaded {
                let more = self.adjust(backends, now, report).await;
                told = more.map(|more| more + told.unwrap_or_default());
            }
        }
        self.save_file(now, report);
        told
    }

    /// Finds the worker that takes new connections, and reads its servers unless they are known. `None`: no
    /// worker runs.
    async fn find_worker(&mut self) -> Result<Option<Worker>, ProxyError> {
        let worker = match self.proxy.worker().await {
            Ok(worker) => worker,
            Err(ProxyError::Unreachable(_)) => {
                self.known = None;
                // It can listen again on what it listened on until now.
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

    /// Another process started the worker: what it listens on is known only if it was started from the file
    /// that we have.
    fn bound_by_file(&mut self, worker: &Worker) -> Option<RunningConfig> {
        let (file, fingerprint) = (self.saved.file.as_ref()?, worker.fingerprint.as_deref()?);
        let bound = RunningConfig::by_file(
            &self.fixed_config,
            fingerprint,
            &file.text(),
            self.rules.stats,
        )?;
        self.saved.last_good = Some(file.clone());
        Some(bound)
    }

    fn has_bound(&self, fingerprint: &str) -> bool {
        self.bound
            .as_ref()
            .is_some_and(|bound| bound.fingerprint == fingerprint)
    }

    /// Updates the servers in the running worker: those of the services that it listens for.
    async fn adjust(
        &mut self,
        backends: &Backends,
        now: Moment,
        report: &mut PassReport,
    ) -> Result<usize, ProxyError> {
        let (Some(known), Some(bound)) = (&mut self.known, &self.bound) else {
            return Ok(0);
        };
        let (proxy, model) = (&self.proxy, &bound.model);
        let adjusted = known
            .sync(proxy, model, backends, now, &mut self.totals)
            .await?;
        report.not_after(adjusted.confirm_at);
        report.unconfirmed = adjusted.confirm_at.is_some();
        Ok(adjusted.changes)
    }

    /// Saves the file of what runs, in the background, for `haproxy -c` takes longer than all commands. It
    /// is saved even if commands failed: a server must not be right in HAProxy and wrong in the file.
    fn save_file(&mut self, now: Moment, report: &mut PassReport) {
        let bound = self.bound.as_ref().filter(|bound| bound.renders);
        let Some(bound) = bound.filter(|_| self.known.is_some()) else {
            return;
        };
        let content = FileContent::Rendered(self.fixed_config.clone(), bound.model.clone());
        if self.saved.saving.as_ref().or(self.saved.file.as_ref()) == Some(&content) {
            return;
        }
        if let Some(next) = self.saved.retry.next().filter(|next| *next > now) {
            report.not_after(Some(next));
        } else {
            self.proxy.save(content.clone());
            self.saved.saving = Some(content);
        }
    }
}

/// Whether HAProxy's state is unknown after that error; after [`ProxyError::OutOfSync`] it is known.
const fn is_lost(error: &ProxyError) -> bool {
    !matches!(error, ProxyError::OutOfSync(..))
}

fn owned(model: &Model) -> BTreeMap<String, Bind> {
    let binds = model.binds();
    binds.map(|(name, bind)| (name.to_owned(), bind)).collect()
}
