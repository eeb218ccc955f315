//! The control loop: takes in what etcd, the resolver and HAProxy say, and runs one pass after another.
//!
//! While a pass runs, whatever else happens waits in the channels, and the next pass takes all of it at once.

pub(crate) mod draining;
mod monitoring;

use super::event_log::EventLog;
use super::haproxy::api::{HaproxyApi, HaproxyEvent, ProxyError};
use super::haproxy::health::HealthMonitor;
use super::haproxy::parse::original_name;
use super::model::backends::{Backends, InstanceNames};
use super::model::host_addresses::HostAddresses;
use super::monitor::AgentMonitor;
use super::reconcile::{PassReport, Reconciler};
use super::schedule::{EXPECTED_RETRIES, MIN_PAUSE, POLL_INTERVAL, RESOLVE_WAIT, Schedule};
use super::status;
use crate::catalog::{Catalog, RawKeyValue};
use crate::clock::{Moment, now};
use crate::etcd::reader::{Change, Update};
use crate::membership::Membership;
use crate::systemd::{Pulse, Systemd};
use draining::Draining;
use etcd_client::KeyValue;
use std::collections::BTreeSet;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tracing::{info, warn};

pub(super) fn item(kv: &KeyValue) -> RawKeyValue<'_> {
    RawKeyValue {
        key: kv.key(),
        value: kv.value(),
        create_revision: kv.create_revision(),
    }
}

/// What is to be served: from etcd's keys to servers with addresses.
pub(crate) struct DesiredState {
    pub(crate) catalog: Catalog,
    pub(crate) membership: Membership,
    pub(crate) backends: Backends,
}

/// The channels from and to the tasks that read etcd and resolve host names.
pub(crate) struct Inputs {
    pub(crate) updates: mpsc::Receiver<Update>,
    /// The host names that the resolver is to look up.
    pub(crate) hosts: watch::Sender<BTreeSet<String>>,
    pub(crate) addresses: watch::Receiver<HostAddresses>,
    /// Since when no etcd member can be reached; `None` while one can.
    pub(crate) etcd_lost: watch::Receiver<Option<Moment>>,
}

/// The only task that writes to HAProxy.
pub(crate) struct ControlLoop<P> {
    pub(crate) schedule: Schedule,
    pub(crate) inputs: Inputs,
    pub(crate) desired: DesiredState,
    pub(crate) reconciler: Reconciler<P>,
    /// What the last successful pass did.
    pub(crate) report: PassReport,
    pub(crate) health: HealthMonitor,
    pub(crate) draining: Draining,
    pub(crate) event_log: EventLog,
    pub(crate) monitor: AgentMonitor,
    pub(crate) systemd: Systemd,
    /// Beats in every round, for systemd's watchdog.
    pub(crate) pulse: Pulse,
}

impl<P: HaproxyApi> ControlLoop<P> {
    pub(super) async fn run(&mut self) {
        loop {
            self.pulse.beat();
            let time = now();
            let turn = self.systemd.turn(time);
            if time >= self.schedule.next_poll {
                self.poll_worker(time).await;
                self.schedule.next_poll = now() + POLL_INTERVAL;
            }
            if self.is_due(time)
                && let Some(result) = self.pass(time).await
            {
                self.monitor.page_changed();
                self.passed(result, now());
            }
            self.look(now()).await;
            // After the pass: an instance that left gets no new connections at once, whatever HAProxy has to
            // answer here.
            if self.poll_servers(time).await {
                self.health.polled(time, now());
            }
            self.event_log.floods(time);
            self.report_status();
            let time = now();
            let next = self
                .next_pass(time)
                .into_iter()
                .chain([self.schedule.next_poll])
                .chain(self.draining.next_look(time))
                .chain(self.monitor.next_page())
                .min();
            let pause = next.map_or(POLL_INTERVAL, |next| next.saturating_sub(time));
            let pause = pause.clamp(MIN_PAUSE, POLL_INTERVAL.min(turn).max(MIN_PAUSE));
            // Cancel-safe, all: channels keep what is not received, a sleep has no effect, and `next_event`
            // is cancel-safe.
            tokio::select! {
                Some(update) = self.inputs.updates.recv() => self.hear(update),
                Ok(()) = self.inputs.addresses.changed() => self.schedule.dirty = true,
                Ok(()) = self.inputs.etcd_lost.changed() => {}
                event = self.reconciler.proxy.next_event() => self.handle_event(event, now()),
                () = sleep(pause) => {}
            }
        }
    }

    /// Whether a pass is due.
    pub(crate) fn is_due(&mut self, time: Moment) -> bool {
        if self.schedule.starts_audit(time) {
            self.reconciler.forget();
        }
        self.schedule.is_due(self.wakes(), time)
    }

    /// When the next pass is due if nothing happens until then.
    pub(crate) fn next_pass(&self, time: Moment) -> Option<Moment> {
        self.schedule.next_pass(self.wakes(), time)
    }

    /// The moments at which something changes without an event.
    fn wakes(&self) -> [Option<Moment>; 3] {
        let membership = self.desired.membership.next_change();
        [membership, self.report.again, self.draining.next_change()]
    }

    /// Takes in that update and all that wait behind it.
    pub(crate) fn hear(&mut self, first: Update) {
        let (mut next, mut came) = (Some(first), now());
        while let Some(update) = next {
            match update {
                Update::Snapshot(kvs) => {
                    self.schedule.etcd_heard.get_or_insert_with(now);
                    self.desired.catalog.replace(kvs.iter().map(item));
                }
                Update::Changes(changes, at) => {
                    came = came.min(at);
                    for change in changes {
                        match change {
                            Change::Put(kv) => {
                                self.event_log.heard(kv.key());
                                self.desired.catalog.put(item(&kv));
                            }
                            Change::Deleted(key) => {
                                self.event_log.heard(&key);
                                self.desired.catalog.delete(&key);
                            }
                        }
                    }
                }
            }
            next = self.inputs.updates.try_recv().ok();
        }
        if self.observe(now()) {
            self.monitor.heard(came);
        }
        // Also what is no change for HAProxy may be one for the page: a key that breaks the contract.
        self.monitor.page_changed();
    }

    /// Compares the catalog with what was last seen. Returns whether that changes anything; a key that is put again
    /// unchanged does not.
    pub(crate) fn observe(&mut self, time: Moment) -> bool {
        self.note_alone(time);
        let services = self.desired.catalog.services();
        let changed = self.desired.membership.observe(&services, time);
        self.schedule.dirty |= changed;
        self.event_log
            .quarantined(&self.desired.catalog.take_quarantined(), time);
        changed
    }

    pub(crate) fn handle_event(&mut self, event: HaproxyEvent, time: Moment) {
        let again = self.reconciler.handle_event(event, time);
        self.report.again = self.report.again.into_iter().chain(again).min();
    }

    /// Runs one pass; `None` while it waits for host names to resolve.
    pub(crate) async fn pass(&mut self, time: Moment) -> Option<Result<PassReport, ProxyError>> {
        self.schedule.dirty = false;
        self.report.again = None;
        self.note_alone(time);
        let desired = self.desired.membership.desired(time);
        let addresses = self.inputs.addresses.borrow_and_update();
        self.desired
            .backends
            .set_listeners(self.reconciler.listeners());
        let other_hosts = self.desired.backends.update(desired, &addresses);
        drop(addresses);
        self.monitor.follows_etcd = self.schedule.etcd_heard.is_some();
        self.follow_draining(time);
        if other_hosts {
            self.inputs
                .hosts
                .send_replace(self.desired.backends.hosts().cloned().collect());
        }
        let refused = self.desired.backends.take_refused();
        self.event_log
            .quarantined(&self.desired.catalog.refused(refused), time);
        let membership_events = self.desired.membership.take_events();
        self.event_log.membership_events(
            membership_events,
            self.desired.membership.hold_time(),
            time,
        );
        // Each name that resolves causes another pass, and so does the end of the wait.
        let until = self.schedule.etcd_heard.map(|heard| heard + RESOLVE_WAIT);
        if until.is_some_and(|until| until > time) && self.waits_for_names() {
            self.report.again = until;
            self.schedule.retry.hurry();
            return None;
        }
        let result = self.reconciler.pass(&self.desired.backends, time).await;
        // An instance's address may be one of HAProxy's listeners now, or no longer.
        self.schedule.dirty |= self
            .desired
            .backends
            .set_listeners(self.reconciler.listeners());
        Some(result)
    }

    fn waits_for_names(&self) -> bool {
        let addresses = self.inputs.addresses.borrow();
        let mut hosts = self.desired.backends.hosts();
        hosts.any(|host| addresses.get(host).is_none())
    }

    pub(crate) fn passed(&mut self, result: Result<PassReport, ProxyError>, time: Moment) {
        let report = match result {
            Ok(report) => report,
            Err(error) => return self.failed(&error, time),
        };
        self.event_log.passed(&report, time);
        self.monitor.passed(&report, time);
        let tries = self.schedule.retry.failures();
        if let Some(notice) = self.schedule.retry.succeeded(time)
            && tries > EXPECTED_RETRIES
        {
            info!(
                "HAProxy is in sync again after {} s",
                notice.lasted.as_secs()
            );
        }
        self.report = report;
    }

    fn failed(&mut self, error: &ProxyError, time: Moment) {
        let usual = matches!(error, ProxyError::OutOfSync(..))
            && self.schedule.retry.failures() < EXPECTED_RETRIES;
        if usual {
            self.schedule.retry.postpone(time, fastrand::f64());
        } else if let Some(notice) = self.schedule.retry.failed(time, fastrand::f64()) {
            warn!("{error} (try {}); retrying", notice.failures);
        }
    }

    /// Checks that HAProxy's worker and file are still the ones that are known.
    pub(crate) async fn poll_worker(&mut self, time: Moment) {
        self.schedule.dirty |= self.schedule.has_begun(time) && self.reconciler.has_changed().await;
    }

    /// Reads which servers HAProxy's health checks have down, for the log; an instance that is leaving and
    /// down is removed. Returns `false` if it is too early for the next poll.
    pub(crate) async fn poll_servers(&mut self, time: Moment) -> bool {
        if time < self.health.next() {
            return false;
        }
        let Some(running) = self.reconciler.servers().await else {
            return true;
        };
        self.event_log
            .health_changes(self.health.observe(&running, time));
        let mut down = InstanceNames::new();
        for (backend, servers) in &running {
            for (server, _) in servers.iter().filter(|(_, live)| live.down) {
                let place = original_name(backend).zip(original_name(server));
                let is_gone = place
                    .as_ref()
                    .is_some_and(|(service, name)| self.desired.membership.is_down(service, name));
                if is_gone {
                    self.report.again = Some(time);
                } else if let Some((service, name)) = place {
                    down.entry(service).or_default().insert(name);
                }
            }
        }
        if *self.desired.backends.down() != down {
            self.monitor.page_changed();
        }
        // Then a draining instance may be the last one that is up, or no longer.
        self.schedule.dirty |= self.desired.backends.set_down(down);
        true
    }

    /// Writes systemd's status line.
    pub(crate) fn report_status(&mut self) {
        let counts = status::StatusCounts {
            listeners: self.report.listeners,
            servers: self.report.servers,
            quarantined: self.desired.catalog.quarantined() + self.desired.backends.refused(),
            refused: self.report.refusals.len(),
            held: self.desired.membership.held(),
            down: self.health.down(),
            leaving: self.desired.backends.leaving(),
            draining: self.desired.backends.draining().count(),
        };
        let etcd_lost = *self.inputs.etcd_lost.borrow_and_update();
        let haproxy_lost = [self.schedule.retry.since(), self.reconciler.behind_since()];
        let haproxy_lost = haproxy_lost.into_iter().flatten();
        let line = status::line(
            &counts,
            self.schedule.etcd_heard.is_some(),
            etcd_lost,
            haproxy_lost.min(),
            now(),
        );
        if self.monitor.is_on() {
            self.tell_listener(counts, &line);
        }
        self.systemd.status(line);
    }
}
