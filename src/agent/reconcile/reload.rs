//! What takes a reload: the file first, then HAProxy, and back to the file of before where that fails.

use super::{Applier, Laid, Report};
use crate::agent::haproxy::api::{Proxy, Reload, Trouble};
use crate::agent::haproxy::bind_errors::reload_failure;
use crate::agent::haproxy::parse::parse;
use crate::agent::haproxy::running_config::Bound;
use crate::agent::haproxy::shared_text::Text;
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

impl<P: Proxy> Applier<P> {
    /// Another structure, or none yet. A reload waits for its pause and for its own backoff, and one that
    /// fails is no error: the worker that runs is adjusted all the same.
    pub(super) async fn restructure(
        &mut self,
        laid: &Laid,
        now: Moment,
        report: &mut Report,
    ) -> Result<(), Trouble> {
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
        match self.take_over(laid, now).await {
            Ok(()) => {
                (report.reloaded, report.behind) = (true, false);
                if let Some(notice) = self.reloads.succeeded(now) {
                    let seconds = notice.lasted.as_secs();
                    info!("HAProxy has taken its new structure, after {seconds} s");
                }
            }
            Err(trouble) if running.is_none() => return Err(trouble),
            Err(trouble) => {
                if let Some(notice) = self.reloads.failed(now, fastrand::f64()) {
                    warn!(
                        "{trouble} (try {}); instances of the services that HAProxy has come and go all the same, retrying the rest",
                        notice.failures
                    );
                }
                report.not_after(self.reloads.next());
            }
        }
        Ok(())
    }

    /// The file first, then a reload, or a start where nothing runs.
    async fn take_over(&mut self, laid: &Laid, now: Moment) -> Result<(), Trouble> {
        let text = self.renderer.render(&self.frame, &laid.model);
        let before = self.text_before();
        self.loses_its_file();
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
                .or_else(|trouble| is_there.then_some(()).ok_or(trouble))?;
            self.proxy.start().await
        };
        let started = self.known.take().is_none();
        if let Reload::Failed(log) = outcome? {
            if written.is_ok() {
                self.take_back(&laid.model, &log, before, started, now)
                    .await;
            }
            return Err(Trouble::Reload(if log.is_empty() {
                "it doesn't say why".to_owned()
            } else {
                log
            }));
        }
        let worker = self.meet().await?;
        written?;
        if worker.is_none_or(|worker| worker.mark.as_ref() != Some(&laid.mark)) {
            return Err(Trouble::Down(
                "the reload was taken, but not its configuration".to_owned(),
            ));
        }
        self.listens(Bound::new(&self.frame, &laid.mark, laid.model.clone()));
        self.proven = Some(text);
        self.bars.proven(&laid.model);
        Ok(())
    }

    async fn write(&mut self, text: &Text) -> Result<(), Trouble> {
        if self.saving.take().is_some() || self.file.as_ref() != Some(text) {
            self.proxy.write(text).await?;
            self.file = Some(text.clone());
        }
        Ok(())
    }

    /// What HAProxy can start from, as far as is known: the structure that runs.
    fn text_before(&mut self) -> Option<Text> {
        match self.bound.as_ref().filter(|bound| bound.renders) {
            Some(bound) => Some(self.renderer.render(&self.frame, &bound.model)),
            None => self.proven.clone(),
        }
    }

    /// HAProxy couldn't take that model: whose fault was it, and back to the file of `before`. A file that
    /// HAProxy can't start from must not be what it finds after a crash.
    async fn take_back(
        &mut self,
        model: &Model,
        log: &str,
        before: Option<Text>,
        started: bool,
        now: Moment,
    ) {
        if started {
            // Not even what it had will do.
            self.bound = Some(Bound::default());
        }
        let cause = reload_failure(log);
        self.bars.reload_failed(&self.unproven(model), cause, now);
        if let Some(before) = before
            && let Err(trouble) = self.write(&before).await
        {
            warn!("{trouble}; HAProxy's file has what HAProxy couldn't take, retrying");
        }
    }
}
