//! The tasks beside the announce loop: how they are started, and that they never end.

use super::config::AnnounceConfig;
use super::docker;
use super::docker::events::WatchScope;
use super::drain::desired::DrainedKeys;
use super::drain::wishes::WishReader;
use super::lease::shutdown_report::ShutdownReport;
use super::monitor::AnnounceMonitor;
use super::policy::container::ContainerViews;
use crate::etcd::members::Members;
use crate::systemd::Pulse;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// The tasks beside the announce loop.
pub(super) struct AnnounceTasks {
    pub(super) executor: JoinHandle<ShutdownReport>,
    pub(super) watchers: JoinSet<()>,
}

impl AnnounceTasks {
    /// No watcher is started yet.
    pub(super) fn with(executor: impl Future<Output = ShutdownReport> + Send + 'static) -> Self {
        Self {
            executor: tokio::spawn(executor),
            watchers: JoinSet::new(),
        }
    }

    pub(super) fn watch_docker(
        &mut self,
        config: &AnnounceConfig,
        views: watch::Sender<ContainerViews>,
        monitor: &AnnounceMonitor,
        pulse: Pulse,
    ) {
        let scope = WatchScope::from(&config.target);
        let answers = monitor.engine_answers.clone();
        let watcher = docker::watcher::watch(config.docker.clone(), scope, views, answers, pulse);
        self.watchers.spawn(watcher);
    }

    pub(super) fn watch_wishes(
        &mut self,
        config: &AnnounceConfig,
        members: &Arc<Members>,
        desired: &mut DrainedKeys,
    ) {
        let (claimed, wishes) = desired.obey();
        let reader = WishReader {
            members: members.clone(),
            control: config.control.clone(),
            interval: config.interval,
            claimed,
            wishes,
        };
        self.watchers.spawn(reader.run());
    }

    /// Announces until `over`.
    ///
    /// # Errors
    /// A task ended that never should.
    pub(super) async fn until(
        &mut self,
        over: impl Future<Output = ()>,
        announcing: impl Future<Output = ()>,
    ) -> anyhow::Result<()> {
        // Cancel-safe: a JoinHandle that is polled by reference loses nothing, nor does a JoinSet, and the
        // announce loop awaits nothing but channels and a sleep. The end comes first: a task may end at that
        // very moment.
        tokio::select! {
            biased;
            () = over => Ok(()),
            () = announcing => Ok(()),
            ended = &mut self.executor => anyhow::bail!("the executor's task ended: {ended:?}"),
            Some(ended) = self.watchers.join_next() => anyhow::bail!("a watcher's task ended: {ended:?}"),
        }
    }
}
