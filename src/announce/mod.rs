//! `sidekick announce`: wires the tasks together and holds no policy.

pub mod check_args;
pub mod config;
pub mod counts;
pub mod docker;
pub mod drain;
pub mod health;
pub mod lease;
mod monitor;
pub mod policy;
pub mod readiness;
pub mod status;
mod tasks;
mod verdict_log;

#[cfg(any(test, fuzzing))]
pub use docker::fuzz;

pub use config::{AnnounceArgs, AnnounceConfig};

use crate::clock::{Moment, now};
use crate::endpoint::Key;
use crate::etcd::members::Members;
use crate::etcd::watch::follow;
use crate::log_throttle::LogThrottle;
use crate::shutdown::{Shutdown, StopRequest};
use crate::systemd::Systemd;
use counts::InstanceCounts;
use drain::desired::DrainedKeys;
use drain::shutdown_drain::ShutdownDrain;
use drain::{AgentReader, DrainInputs};
use health::Checks;
use lease::executor::{Executor, REVOKE_DEADLINE};
use lease::protocol::{DesiredKeys, KeyStatuses};
use lease::shutdown_report::ShutdownReport;
use monitor::{AnnounceMonitor, readiness};
use policy::claims::{Claim, Evaluation, Evaluator, Outranked, assign_keys};
use policy::container::ContainerViews;
use policy::eligibility::Verdict;
use policy::reason::Reason;
use policy::target::Target;
use readiness::{ReadyWhen, is_announced};
use status::AnnounceStatus;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tasks::AnnounceTasks;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tracing::{info, warn};
use verdict_log::VerdictLog;

/// The capacity of the channel from the watch to the executor; more events wait in etcd.
const KEY_EVENTS_WAITING: usize = 64;

/// The interval at which the status line is updated while etcd or Docker is unreachable.
const TICK_IN_TROUBLE: Duration = Duration::from_secs(1);

/// Announces until `shutdown`, then drains for `--drain` at most, then revokes the lease; or, where that is asked for,
/// hands the keys over to the next process.
///
/// # Errors
/// A task ended that never should.
pub async fn run(config: AnnounceConfig, shutdown: Shutdown) -> anyhow::Result<()> {
    let mut systemd = Systemd::from_environment();
    let members = Arc::new(Members::new(&config.etcd)?);
    let monitor = AnnounceMonitor::new(&config, &members, &systemd)?;
    let (views_tx, views) = watch::channel(config.target.unasked(now()));
    let (wish_tx, desired) = watch::channel(DesiredKeys::new());
    let (standings_tx, statuses) = watch::channel(KeyStatuses::new());
    let (key_events_tx, key_events) = mpsc::channel(KEY_EVENTS_WAITING);
    let (stop_executor, executor_stop) = StopRequest::new();
    let executor = Executor {
        members: members.clone(),
        desired: desired.clone(),
        layouts: config.layouts.clone(),
        key_events,
        statuses: standings_tx,
        pulse: systemd.pulse("etcd"),
        metrics: monitor.lease.clone(),
        shutdown: executor_stop,
    };
    let mut tasks = AnnounceTasks::with(executor.run(config.lease_settings()));
    let watch = follow(members.clone(), desired, key_events_tx);
    tasks.watchers.spawn(watch);
    tasks.watch_docker(&config, views_tx, &monitor, systemd.pulse("docker"));
    let mut desired = DrainedKeys::new(wish_tx);
    if !config.drain.is_zero() {
        tasks.watch_wishes(&config, &members, &mut desired);
    }
    let mut announce_loop = AnnounceLoop {
        checks: Checks::run_in(&mut tasks.watchers),
        lost: members.unreachable_since(),
        config,
        views,
        desired,
        statuses,
        evaluations: BTreeMap::new(),
        outranked: BTreeMap::new(),
        told: VerdictLog::default(),
        knows_all: false,
        keeping: LogThrottle::default(),
        is_ready: false,
        monitor,
        systemd,
    };
    announce_loop.tell_ready();

    let mut stop = shutdown.clone();
    tasks.until(stop.requested(), announce_loop.run()).await?;
    let longest = announce_loop.config.drain;
    let hands_over = shutdown.hands_over();
    if hands_over {
        let stops = announce_loop.desired.stops_under_way();
        let no_stop = drain::until_no_stop(stops, shutdown, longest);
        tasks.until(no_stop, announce_loop.run()).await?;
    } else if !longest.is_zero() {
        let drain = announce_loop.leave(longest);
        let inputs = announce_loop.drain_inputs(members, shutdown);
        let drained = drain::until_over(drain, inputs, longest);
        tasks.until(drained, announce_loop.run()).await?;
    }
    announce_loop.systemd.stopping();
    // The keys are about to be deleted or left: what Docker and the watch tell no longer matters.
    tasks.watchers.abort_all();
    stop_executor.send(hands_over);
    log_report(&tasks.executor.await?);
    Ok(())
}

fn log_report(report: &ShutdownReport) {
    let line = report.line(REVOKE_DEADLINE);
    match report.revoked {
        true => info!("{line}"),
        false => warn!("{line}"),
    }
}

/// Turns the watcher's views into desired keys, and reports the status to systemd.
struct AnnounceLoop {
    config: AnnounceConfig,
    views: watch::Receiver<ContainerViews>,
    checks: Checks,
    desired: DrainedKeys,
    statuses: watch::Receiver<KeyStatuses>,
    lost: watch::Receiver<Option<Moment>>,
    evaluations: BTreeMap<String, Evaluation>,
    outranked: Outranked,
    told: VerdictLog,
    /// Each container that was there at the start is among the evaluations.
    knows_all: bool,
    /// Throttles the line about keys that are kept while Docker doesn't answer.
    keeping: LogThrottle,
    /// systemd knows that it is ready.
    is_ready: bool,
    monitor: AnnounceMonitor,
    systemd: Systemd,
}

impl AnnounceLoop {
    async fn run(&mut self) {
        loop {
            let now = now();
            self.decide(now);
            for (at, verdict) in self.told.overdue(now) {
                self.log_verdict(at, verdict, now);
            }
            let calm = self.tell_status(now);
            self.tell_ready();
            let mut pause = self.systemd.turn(now);
            if !calm {
                pause = pause.min(TICK_IN_TROUBLE);
            }
            let ends = self
                .evaluations
                .values()
                .filter_map(|evaluations| evaluations.ends);
            if let Some(end) = ends.chain(self.told.next()).min() {
                pause = pause.min(end.saturating_sub(now));
            }
            // Cancel-safe: watch channels keep their mark, a sleep has no effect. A sender that is
            // gone is noticed by `run`, which owns its task; here it is no event.
            tokio::select! {
                Ok(()) = self.views.changed() => {}
                Ok(()) = self.statuses.changed() => {}
                Ok(()) = self.checks.results.changed() => {}
                () = self.desired.wishes_changed() => {}
                Ok(()) = self.lost.changed() => {}
                () = sleep(pause) => {}
            }
        }
    }

    /// sidekick leaves: what it announces drains from now on.
    fn leave(&mut self, longest: Duration) -> ShutdownDrain {
        let drain = self.desired.leave(longest, &self.statuses.borrow());
        let leaving = drain.leaving();
        let seconds = longest.as_secs_f32();
        match leaving.keys().next() {
            None => {}
            Some(key) if leaving.len() == 1 => info!(%key, "draining for {seconds} s at most"),
            Some(_) => info!("draining {} keys for {seconds} s at most", leaving.len()),
        }
        drain
    }

    fn drain_inputs(&self, members: Arc<Members>, shutdown: Shutdown) -> DrainInputs {
        let control = self.config.control.clone();
        DrainInputs {
            reader: AgentReader { members, control },
            desired: self.desired.subscribe(),
            statuses: self.statuses.clone(),
            linger: self.config.layouts.longest_ttl(),
            shutdown,
        }
    }

    /// Tells systemd that it is ready, once.
    fn tell_ready(&mut self) {
        let ready = || match self.config.ready {
            ReadyWhen::Started => true,
            ReadyWhen::Announced => {
                let all = matches!(self.config.target, Target::All { .. });
                let asked = self.views.borrow().lost_since.is_none();
                let assigned = self.desired.assigned();
                let statuses = self.statuses.borrow();
                asked && is_announced(all, self.knows_all, assigned, &statuses)
            }
        };
        if !self.is_ready && ready() {
            self.is_ready = true;
            self.systemd.ready();
        }
    }

    /// Evaluates the views that have changed, and publishes the desired keys.
    fn decide(&mut self, now: Moment) {
        let checks = self.checks.results.borrow_and_update();
        let judge = Evaluator {
            target: &self.config.target,
            rules: &self.config.rules,
            grace: self.config.docker_grace,
            checks: &checks,
            check_options: &self.config.checks,
        };
        let mut changes = Vec::new();
        let views = self.views.borrow_and_update();
        let engine_lost = views.lost_since.is_some();
        self.knows_all = views.first_look.is_over();
        for (id, view) in &views.containers {
            let before = self.evaluations.get(id);
            if !before.is_some_and(|evaluation| evaluation.stands(view, &checks, now)) {
                let at = views.changed_at.get(id).copied().unwrap_or(now);
                changes.push((id.clone(), at, Some(judge.judge(id, view, before, now))));
            }
        }
        let gone = self.evaluations.keys();
        let gone = gone.filter(|id| !views.containers.contains_key(*id));
        changes.extend(gone.map(|id| (id.clone(), now, None)));
        drop((views, checks));
        // An engine may be lost after each container's inspect had failed, so that no view changes with it.
        let is_told = !engine_lost || self.keeping.since().is_some();
        if changes.is_empty() && is_told {
            return;
        }
        let before: Vec<_> = changes
            .into_iter()
            .map(|(id, at, new)| {
                let old = match new {
                    Some(new) => self.evaluations.insert(id.clone(), new),
                    None => self.evaluations.remove(&id),
                };
                (id, at, old)
            })
            .collect();
        let checks = self.evaluations.values().flat_map(Evaluation::checks);
        self.checks.want(checks);
        let assignment = assign_keys(&self.evaluations);
        let outranked = std::mem::replace(&mut self.outranked, assignment.outranked);
        for (id, at, old) in before {
            self.log(&id, old.as_ref(), now);
            let sides = [old.as_ref(), self.evaluations.get(&id)];
            let assigned = [self.desired.assigned(), &assignment.desired];
            self.monitor
                .begin_waits(at, sides, assigned, &self.statuses.borrow());
        }
        self.log_ranks(&outranked, now);
        self.log_kept(engine_lost, now);
        self.desired.assign(assignment.desired);
    }

    /// Logs what has changed of one container.
    fn log(&mut self, id: &str, old: Option<&Evaluation>, now: Moment) {
        let Some(new) = self.evaluations.get(id) else {
            let name = old.map(|old| &old.name);
            info!(container = name, "the container is gone");
            self.told.retain(id, |_| false);
            return;
        };
        if let Err(reason) = &new.claims
            && old.and_then(|old| old.claims.as_ref().err()) != Some(reason)
        {
            warn!(container = new.name, "not announcing: {reason}");
        }
        let claims: Vec<_> = new.claims.iter().flatten().cloned().collect();
        self.told
            .retain(id, |key| claims.iter().any(|claim| claim.key == *key));
        for claim in claims {
            self.log_claim(id, claim, now);
        }
    }

    /// Logs which claims lost their key to another container, and which have it back.
    fn log_ranks(&mut self, before: &Outranked, now: Moment) {
        let at: BTreeSet<_> = before.keys().chain(self.outranked.keys()).collect();
        let claims = at.into_iter().filter_map(|(id, key)| {
            let claims = &self.evaluations.get(id)?.claims;
            let claim = claims.iter().flatten().find(|claim| claim.key == *key)?;
            Some((id.clone(), claim.clone()))
        });
        let claims: Vec<(String, Claim)> = claims.collect();
        for (id, claim) in claims {
            self.log_claim(&id, claim, now);
        }
    }

    /// Logs that keys are kept while Docker does not answer: once for all of them, and at growing intervals where the
    /// engine goes and comes back.
    fn log_kept(&mut self, engine_lost: bool, now: Moment) {
        if !(engine_lost && self.evaluations.values().any(Evaluation::is_kept)) {
            self.keeping.recovered(now);
        } else if self.keeping.failed(now).is_some() {
            let grace = self.config.docker_grace;
            let long = grace.map(|grace| format!(" for {} s at most", grace.as_secs()));
            let long = long.unwrap_or_default();
            warn!("Docker does not answer; keeping the keys that are announced{long}");
        }
    }

    /// Logs what is new of a claim.
    fn log_claim(&mut self, id: &str, claim: Claim, now: Moment) {
        let at = (id.to_owned(), claim.key.clone());
        let verdict = match self.outranked.get(&at) {
            Some(winner) => Verdict::Withdraw(claim.why_outranked(winner)),
            None => claim.verdict,
        };
        self.log_verdict(at, verdict, now);
    }

    /// Logs a verdict that is new.
    fn log_verdict(&mut self, at: (String, Key), verdict: Verdict, now: Moment) {
        let (id, key) = &at;
        if !self.told.is_due(&at, &verdict, now) {
            return;
        }
        match &verdict {
            Verdict::Announce(decision) => {
                let (endpoint, source) = (&decision.endpoint, decision.host_source);
                let container = &endpoint.container;
                if let Some(stop) = decision.stop {
                    info!(%key, container, "draining {endpoint}: {stop}");
                    return;
                }
                info!(%key, container, "announcing {endpoint} (address by {source})");
                if let Some(caveat) = &decision.caveat {
                    warn!(%key, container, "{caveat}");
                }
            }
            Verdict::Withdraw(reason @ Reason::Outranked { .. }) => {
                let container = self.evaluations.get(id).map(|it| &it.name);
                warn!(container, "not announcing: {reason}");
            }
            Verdict::Withdraw(reason) => info!(%key, "not announcing: {reason}"),
        }
    }

    /// Returns whether etcd and Docker answer; else the line counts seconds, and has to be updated.
    fn tell_status(&mut self, now: Moment) -> bool {
        let statuses = self.statuses.borrow_and_update();
        let etcd_lost = *self.lost.borrow_and_update();
        let docker_lost = self.views.borrow().lost_since;
        let status = AnnounceStatus {
            statuses: &statuses,
            etcd_lost_since: etcd_lost,
            docker_lost_since: docker_lost,
            now,
        };
        let mut line = status.line(&self.evaluations, &self.outranked);
        if let Some(wishes) = self.desired.wish_words() {
            line = format!("{line}; {wishes}");
        }
        if self.monitor.is_on() {
            let counts = InstanceCounts::of(&self.evaluations, &self.outranked, &statuses);
            let (known, assigned) = (self.knows_all, self.desired.assigned());
            let (config, lost) = (&self.config, etcd_lost);
            let readiness = readiness(config, known, assigned, &statuses, lost, now, &line);
            self.monitor.saw(counts, docker_lost.is_none(), readiness);
        }
        drop(statuses);
        self.systemd.status(line);
        etcd_lost.is_none() && docker_lost.is_none()
    }
}
