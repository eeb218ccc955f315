//! `sidekick announce`: wires the tasks together and holds no policy.

pub mod container;
pub mod docker;
pub mod exchange;
mod inspection;
pub mod ownership;
pub mod registrar;
pub mod registry;
pub mod rules;
mod slot;
pub mod status;

use crate::clock::{Moment, now};
use crate::config::AnnounceConfig;
use crate::etcd::members::Members;
use crate::etcd::watch::{Target, follow};
use crate::shutdown::Shutdown;
use crate::systemd::Systemd;
use container::{Sighting, View};
use exchange::Wish;
use ownership::Holder;
use registrar::Settings;
use registry::{FAREWELL, Registry, Standings, Wishes};
use rules::{Verdict, judge};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::{info, warn};

/// Events of the watch that wait for the registry; more wait in etcd.
const NEWS_WAITING: usize = 64;

/// How often the status line is looked at while something is wrong, and while nothing is.
const TICK_IN_TROUBLE: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_secs(5);

/// Announces until `shutdown`, then withdraws.
///
/// # Errors
/// A task ended that never should.
pub async fn run(config: AnnounceConfig, shutdown: Shutdown) -> anyhow::Result<()> {
    let mut systemd = Systemd::default();
    let members = Arc::new(Members::new(&config.etcd)?);
    let (view_tx, view) = watch::channel(View::unasked(now()));
    let (wish_tx, wishes) = watch::channel(Wishes::new());
    let (standings_tx, standings) = watch::channel(Standings::new());
    let (news_tx, news) = mpsc::channel(NEWS_WAITING);
    let registry = Registry {
        members: members.clone(),
        wishes,
        news,
        standings: standings_tx,
        pulse: systemd.pulse("etcd"),
        shutdown: shutdown.clone(),
    };
    let settings = Settings {
        ttl: config.ttl,
        interval: config.interval,
    };
    let mut registry = tokio::spawn(registry.run(settings));
    let mut watchers = JoinSet::new();
    let target = Target::Key(config.key.to_string());
    watchers.spawn(follow(members.clone(), target, news_tx));
    let (docker, name) = (config.docker.clone(), config.container.clone());
    watchers.spawn(docker::watch(
        docker,
        name,
        view_tx,
        systemd.pulse("docker"),
    ));
    let mut announcer = Announcer {
        lost: members.unreachable_since(),
        config,
        view,
        wishes: wish_tx,
        standings,
        verdict: None,
        systemd,
    };
    announcer.systemd.ready();

    // Cancel-safe: a JoinHandle that is polled by reference loses nothing, nor does a JoinSet, and
    // nothing is left half-done by the announcer but waiting. The stop first: the registry may end
    // at that very moment, where it has no lease to give up.
    let mut stop = shutdown;
    tokio::select! {
        biased;
        () = stop.requested() => {}
        () = announcer.run() => {}
        ended = &mut registry => anyhow::bail!("the registry's task ended: {ended:?}"),
        Some(ended) = watchers.join_next() => anyhow::bail!("a watcher's task ended: {ended:?}"),
    }
    announcer.systemd.stopping();
    // Nothing is wished for any more: Docker and the watch have nothing to add.
    watchers.abort_all();
    if registry.await? {
        info!("withdrawn");
    } else {
        let seconds = FAREWELL.as_secs();
        warn!("etcd didn't answer within {seconds} s: the key stays until its TTL ends");
    }
    Ok(())
}

/// Turns what Docker shows into what ought to stand in etcd, and tells systemd how it goes.
struct Announcer {
    config: AnnounceConfig,
    view: watch::Receiver<View>,
    wishes: watch::Sender<Wishes>,
    standings: watch::Receiver<Standings>,
    lost: watch::Receiver<Option<Moment>>,
    verdict: Option<Verdict>,
    systemd: Systemd,
}

impl Announcer {
    async fn run(&mut self) {
        let watchdog = Systemd::watchdog_interval();
        loop {
            let now = now();
            self.decide(now);
            if watchdog.is_some() {
                self.systemd.alive();
            }
            let calm = self.tell_status(now);
            let mut pause = if calm { TICK } else { TICK_IN_TROUBLE };
            if let Some(interval) = watchdog {
                pause = pause.min(interval);
            }
            if let Some(Verdict::Keep(Some(end))) = &self.verdict {
                pause = pause.min(end.saturating_sub(now));
            }
            // Cancel-safe: watch channels keep their mark, a sleep has no effect. A sender that is
            // gone is noticed by `run`, which owns its task; here it is just no news.
            tokio::select! {
                Ok(()) = self.view.changed() => {}
                Ok(()) = self.standings.changed() => {}
                Ok(()) = self.lost.changed() => {}
                () = sleep(pause) => {}
            }
        }
    }

    fn decide(&mut self, now: Moment) {
        let config = &self.config;
        let view = self.view.borrow_and_update();
        let verdict = judge(
            &config.container,
            &view,
            &config.rules,
            config.docker_grace,
            now,
        );
        let wish = match &verdict {
            Verdict::Announce(decision) => {
                Some(Wish::Announce(Box::new(decision.endpoint.clone())))
            }
            Verdict::Withdraw(reason) => Some(Wish::Withdraw {
                down: past_life(&view, reason),
            }),
            Verdict::Keep(_) => None,
        };
        drop(view);
        if self.verdict.as_ref() != Some(&verdict) {
            self.log(&verdict);
            self.verdict = Some(verdict);
        }
        if let Some(wish) = wish {
            let wishes = BTreeMap::from([(config.key.clone(), wish)]);
            self.wishes.send_if_modified(|old| {
                let changed = *old != wishes;
                *old = wishes;
                changed
            });
        }
    }

    fn log(&self, verdict: &Verdict) {
        let key = &self.config.key;
        match verdict {
            Verdict::Announce(decision) => info!(
                %key,
                container = decision.endpoint.container,
                "announcing {} (address by {})", decision.endpoint, decision.host_rule
            ),
            Verdict::Withdraw(reason) => info!(%key, "not announcing: {reason}"),
            Verdict::Keep(None) => warn!(%key, "Docker can't be asked; keeping what is announced"),
            Verdict::Keep(Some(_)) => {
                let grace = self.config.docker_grace.unwrap_or_default().as_secs();
                warn!(%key, "Docker can't be asked; keeping what is announced for {grace} s at most");
            }
        }
    }

    /// Returns whether all is well, so that the line need not be counted up.
    fn tell_status(&mut self, now: Moment) -> bool {
        let Some(verdict) = &self.verdict else {
            return true;
        };
        let key = &self.config.key;
        let standings = self.standings.borrow_and_update();
        let etcd_lost = *self.lost.borrow_and_update();
        let docker_lost = self.view.borrow().lost_since;
        let standing = standings.get(key);
        let line = status::line(key, verdict, standing, etcd_lost, docker_lost, now);
        drop(standings);
        self.systemd.status(line);
        etcd_lost.is_none() && docker_lost.is_none()
    }
}

/// The incarnation that is known to be down, if it is the container that is down and not our
/// knowledge of it.
fn past_life(view: &View, reason: &rules::Reason) -> Option<Holder> {
    match &view.sighting {
        Sighting::Present(container) if reason.container_is_down() => Some(Holder {
            container: Some(container.short_id()),
            since: container.started_at,
            address: container.name.clone(),
        }),
        _ => None,
    }
}
