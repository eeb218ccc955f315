//! Changes that take a reload: the file first, then HAProxy, and back to the previous file if the reload
//! fails.

use super::Reconciler;
use super::plan::Plan;
use super::reload_pause::{RELOAD_PAUSE, reload_pause};
use super::report::PassReport;
use crate::agent::haproxy::api::{HaproxyApi, ProxyError, ReloadOutcome};
use crate::agent::haproxy::bind_errors::reload_failure;
use crate::agent::haproxy::file_content::FileContent;
use crate::agent::haproxy::parse::parse;
use crate::agent::haproxy::running_config::RunningConfig;
use crate::agent::model::listeners::Model;
use crate::clock::Moment;
use crate::retry::{RELOAD, Retry};
use tracing::{info, warn};

/// When HAProxy was reloaded last, and failed reloads of a running worker.
#[derive(Debug)]
pub(super) struct Reloads {
    pub(super) last: Option<Moment>,
    pub(super) retry: Retry,
}

impl Default for Reloads {
    fn default() -> Self {
        Self {
            last: None,
            retry: Retry::new(RELOAD),
        }
    }
}

impl<P: HaproxyApi> Reconciler<P> {
    /// Reloads or starts HAProxy for other listeners. A reload waits for its pause and for its backoff, and
    /// a failed one is no error: the running worker's servers are updated all the same.
    pub(super) async fn restructure(
        &mut self,
        plan: &Plan,
        now: Moment,
        report: &mut PassReport,
    ) -> Result<(), ProxyError> {
        let running = self.known.as_ref().map(|known| known.worker.older.len());
        let after_last = self
            .reloads
            .last
            .map(|at| at + reload_pause(running.unwrap_or(0)));
        let after_failure = running.and(self.reloads.retry.next());
        report.behind = true;
        if let Some(earliest) = after_last.max(after_failure).filter(|at| *at > now) {
            // Sooner, if old workers exit meanwhile.
            report.not_after(Some(earliest.min(now + RELOAD_PAUSE)));
            return Ok(());
        }
        self.reloads.last = Some(now);
        match self.apply_plan(plan, now).await {
            Ok(()) => {
                (report.reloaded, report.behind) = (true, false);
                self.totals.reloads += u64::from(running.is_some());
                if let Some(notice) = self.reloads.retry.succeeded(now) {
                    let seconds = notice.lasted.as_secs();
                    info!("HAProxy reloaded after {seconds} s of failures");
                }
            }
            Err(error) if running.is_none() => return Err(error),
            Err(error) => {
                self.totals.failed_reloads += 1;
                if let Some(notice) = self.reloads.retry.failed(now, fastrand::f64()) {
                    warn!(
                        "{error} (try {}); instances of the services that HAProxy listens for are still updated, retrying the reload",
                        notice.failures
                    );
                }
                report.not_after(self.reloads.retry.next());
            }
        }
        Ok(())
    }

    /// The file first, then a reload, or a start where nothing runs.
    async fn apply_plan(&mut self, plan: &Plan, now: Moment) -> Result<(), ProxyError> {
        let content = FileContent::Rendered(self.fixed_config.clone(), plan.model.clone());
        let before = self.bootable_content();
        self.forget_changed_file();
        let written = self.write(&content).await;
        let outcome = if self.known.is_some() {
            written.clone()?;
            self.proxy.reload().await
        } else {
            // On a full disk HAProxy starts from the existing file.
            let is_there = self
                .saved
                .file
                .as_ref()
                .is_some_and(|file| parse(&file.text()).is_some());
            written
                .clone()
                .or_else(|error| is_there.then_some(()).ok_or(error))?;
            self.proxy.start().await
        };
        let started = self.known.take().is_none();
        if let ReloadOutcome::Failed(log) = outcome? {
            if written.is_ok() {
                self.restore_file(&plan.model, &log, before, started, now)
                    .await;
            }
            return Err(ProxyError::ReloadFailed(if log.is_empty() {
                "HAProxy does not say why".to_owned()
            } else {
                log
            }));
        }
        let worker = self.find_worker().await?;
        written?;
        if worker.is_none_or(|worker| worker.fingerprint.as_ref() != Some(&plan.fingerprint)) {
            return Err(ProxyError::Unreachable(
                "HAProxy reloaded, but does not run the new configuration".to_owned(),
            ));
        }
        self.set_listeners(RunningConfig::new(
            &self.fixed_config,
            &plan.fingerprint,
            plan.model.clone(),
        ));
        self.saved.last_good = Some(content);
        self.bind_backoff.bound(&plan.model);
        Ok(())
    }

    async fn write(&mut self, content: &FileContent) -> Result<(), ProxyError> {
        if self.saved.saving.take().is_some() || self.saved.file.as_ref() != Some(content) {
            self.proxy.write(content).await?;
            self.saved.file = Some(content.clone());
        }
        Ok(())
    }

    /// The running configuration, from which HAProxy can certainly start; `None` if unknown.
    fn bootable_content(&self) -> Option<FileContent> {
        match self.bound.as_ref().filter(|bound| bound.renders) {
            Some(bound) => {
                let fixed_config = self.fixed_config.clone();
                Some(FileContent::Rendered(fixed_config, bound.model.clone()))
            }
            None => self.saved.last_good.clone(),
        }
    }

    /// HAProxy refused that model: backs off the listeners that are to blame, and writes the previous file
    /// again. After a crash HAProxy must find a file from which it can start.
    async fn restore_file(
        &mut self,
        model: &Model,
        log: &str,
        before: Option<FileContent>,
        started: bool,
        now: Moment,
    ) {
        if started {
            // It could not bind even what it had before.
            self.bound = Some(RunningConfig::default());
        }
        let cause = reload_failure(log);
        self.bind_backoff
            .reload_failed(&self.new_listeners(model), cause, now);
        if let Some(before) = before
            && let Err(error) = self.write(&before).await
        {
            warn!("{error}; the configuration file holds what HAProxy refused, retrying");
        }
    }
}
