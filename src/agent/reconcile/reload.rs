//! What takes a reload: the file first, then HAProxy, and back to the file of before where that fails.

use super::{PassReport, Plan, Reconciler};
use crate::agent::haproxy::api::{HaproxyApi, ProxyError, ReloadOutcome};
use crate::agent::haproxy::bind_errors::reload_failure;
use crate::agent::haproxy::parse::parse;
use crate::agent::haproxy::running_config::RunningConfig;
use crate::agent::haproxy::shared_text::SharedText;
use crate::agent::model::listeners::Model;
use crate::clock::Moment;
use std::time::Duration;
use tracing::{info, warn};

/// The least time between two reloads, and between two looks whether one may follow.
pub(crate) const RELOAD_PAUSE: Duration = Duration::from_secs(1);

/// The longest time between two reloads.
pub(crate) const LONGEST_RELOAD_PAUSE: Duration = Duration::from_secs(16);

/// The time between two reloads while so many workers of before the last one live on with their
/// connections: it doubles with each beyond the first, so that they don't pile up in a run of reloads.
#[must_use]
pub(crate) fn reload_pause(older: usize) -> Duration {
    let doublings = u32::try_from(older).unwrap_or(u32::MAX).clamp(1, 16) - 1;
    (RELOAD_PAUSE * (1 << doublings)).min(LONGEST_RELOAD_PAUSE)
}

impl<P: HaproxyApi> Reconciler<P> {
    /// Another structure, or none yet. A reload waits for its pause and for its own backoff, and one that
    /// fails is no error: the worker that runs is adjusted all the same.
    pub(super) async fn restructure(
        &mut self,
        plan: &Plan,
        now: Moment,
        report: &mut PassReport,
    ) -> Result<(), ProxyError> {
        let running = self.known.as_ref().map(|known| known.worker.older.len());
        let after_last = self
            .last_reload
            .map(|at| at + reload_pause(running.unwrap_or(0)));
        let after_failure = running.and(self.reloads.next());
        report.behind = true;
        if let Some(earliest) = after_last.max(after_failure).filter(|at| *at > now) {
            // Sooner than that, if old workers end meanwhile.
            report.not_after(Some(earliest.min(now + RELOAD_PAUSE)));
            return Ok(());
        }
        self.last_reload = Some(now);
        match self.apply_plan(plan, now).await {
            Ok(()) => {
                (report.reloaded, report.behind) = (true, false);
                if let Some(notice) = self.reloads.succeeded(now) {
                    let seconds = notice.lasted.as_secs();
                    info!("HAProxy has taken its new structure, after {seconds} s");
                }
            }
            Err(error) if running.is_none() => return Err(error),
            Err(error) => {
                if let Some(notice) = self.reloads.failed(now, fastrand::f64()) {
                    warn!(
                        "{error} (try {}); instances of the services that HAProxy has come and go all the same, retrying the rest",
                        notice.failures
                    );
                }
                report.not_after(self.reloads.next());
            }
        }
        Ok(())
    }

    /// The file first, then a reload, or a start where nothing runs.
    async fn apply_plan(&mut self, plan: &Plan, now: Moment) -> Result<(), ProxyError> {
        let text = self.renderer.render(&self.frame, &plan.model);
        let before = self.bootable_text();
        self.forget_changed_file();
        let written = self.write(&text).await;
        let outcome = if self.known.is_some() {
            written.clone()?;
            self.proxy.reload().await
        } else {
            // On a full disk HAProxy starts from the file that is there.
            let is_there = self
                .file
                .as_ref()
                .is_some_and(|file| parse(&file.to_string()).is_some());
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
                "it doesn't say why".to_owned()
            } else {
                log
            }));
        }
        let worker = self.find_worker().await?;
        written?;
        if worker.is_none_or(|worker| worker.fingerprint.as_ref() != Some(&plan.fingerprint)) {
            return Err(ProxyError::Unreachable(
                "the reload was taken, but not its configuration".to_owned(),
            ));
        }
        self.set_listeners(RunningConfig::new(
            &self.frame,
            &plan.fingerprint,
            plan.model.clone(),
        ));
        self.last_good = Some(text);
        self.bind_backoff.bound(&plan.model);
        Ok(())
    }

    async fn write(&mut self, text: &SharedText) -> Result<(), ProxyError> {
        if self.saving.take().is_some() || self.file.as_ref() != Some(text) {
            self.proxy.write(text).await?;
            self.file = Some(text.clone());
        }
        Ok(())
    }

    /// What HAProxy can start from, as far as is known: the structure that runs.
    fn bootable_text(&mut self) -> Option<SharedText> {
        match self.bound.as_ref().filter(|bound| bound.renders) {
            Some(bound) => Some(self.renderer.render(&self.frame, &bound.model)),
            None => self.last_good.clone(),
        }
    }

    /// HAProxy couldn't take that model: whose fault was it, and back to the file of `before`. A file that
    /// HAProxy can't start from must not be what it finds after a crash.
    async fn restore_file(
        &mut self,
        model: &Model,
        log: &str,
        before: Option<SharedText>,
        started: bool,
        now: Moment,
    ) {
        if started {
            // Not even what it had will do.
            self.bound = Some(RunningConfig::default());
        }
        let cause = reload_failure(log);
        self.bind_backoff
            .reload_failed(&self.new_listeners(model), cause, now);
        if let Some(before) = before
            && let Err(error) = self.write(&before).await
        {
            warn!("{error}; HAProxy's file has what HAProxy couldn't take, retrying");
        }
    }
}
