//! What the control loop tells the listener: metrics, whether HAProxy is at etcd's truth, and the page's state.

use super::page::AgentPage;
use super::reconcile::{PassReport, PassTotals};
use super::schedule::Schedule;
use super::status::StatusCounts;
use crate::clock::Moment;
use crate::etcd::members::Members;
use crate::http::metrics::{
    Reading, Values, counter, durations, flag, gauge, observe, read_at_scrape, registry,
};
use crate::http::page::LatestPage;
use crate::http::server::{Readiness, Site, bind, serve};
use crate::systemd::Systemd;
use prometheus_client::metrics::histogram::Histogram;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// The page's state is taken at most this often: a copy of it takes the control loop's time.
const PAGE_PAUSE: Duration = Duration::from_millis(100);

/// The control loop's end of the channels to the listener.
pub(crate) struct AgentMonitor {
    convergence: Histogram,
    /// The oldest event of etcd that HAProxy does not agree with yet.
    waiting_since: Option<Moment>,
    seen: watch::Sender<AgentSeen>,
    readiness: watch::Sender<Readiness>,
    page: watch::Sender<LatestPage>,
    page_is_old: bool,
    page_taken: Moment,
    /// A pass has taken up what etcd told.
    pub(super) follows_etcd: bool,
    line: String,
}

/// What the loop saw last.
#[derive(Debug, Clone, Copy, Default)]
struct AgentSeen {
    counts: StatusCounts,
    totals: PassTotals,
}

impl fmt::Debug for AgentMonitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AgentMonitor")
    }
}

impl Default for AgentMonitor {
    fn default() -> Self {
        Self {
            convergence: durations(),
            waiting_since: None,
            seen: watch::Sender::default(),
            readiness: watch::Sender::default(),
            page: watch::Sender::new(Arc::new(AgentPage::default())),
            page_is_old: true,
            page_taken: Moment::ZERO,
            follows_etcd: false,
            line: String::new(),
        }
    }
}

impl AgentMonitor {
    /// Serves at `--listen` from now on, where that is given.
    ///
    /// # Errors
    /// The kernel refuses the address, or gives no thread.
    pub(crate) fn new(
        listen: Option<SocketAddr>,
        members: &Arc<Members>,
        systemd: &Systemd,
    ) -> anyhow::Result<Self> {
        let monitor = Self::default();
        if let Some(address) = listen {
            serve(bind(address)?, monitor.site(members, systemd))?;
        }
        Ok(monitor)
    }

    fn site(&self, members: &Arc<Members>, systemd: &Systemd) -> Site {
        let mut registry = registry(members.clone());
        registry.register(
            "sidekick_agent_convergence_duration_seconds",
            "From an event of etcd to the HAProxy that agrees with it; of several events, from the oldest",
            self.convergence.clone(),
        );
        let (seen, readiness) = (self.seen.subscribe(), self.readiness.subscribe());
        let ready = readiness.clone();
        read_at_scrape(&mut registry, move || {
            let seen = *seen.borrow();
            let help = "Whether /readyz answers 200";
            let mut readings = vec![flag("sidekick_ready", help, ready.borrow().ready)];
            readings.extend(of_counts(&seen.counts));
            readings.extend(of_totals(&seen.totals));
            readings
        });
        Site {
            registry,
            turns: systemd.turns(),
            readiness,
            page: Some(self.page.subscribe()),
        }
    }

    /// An event of etcd changed what is to be served; it came at `at`.
    pub(crate) fn heard(&mut self, at: Moment) {
        self.waiting_since.get_or_insert(at);
    }

    /// A pass succeeded at `now`.
    pub(crate) fn passed(&mut self, report: &PassReport, now: Moment) {
        if report.agrees()
            && let Some(since) = self.waiting_since.take()
        {
            observe(&self.convergence, now.saturating_sub(since));
        }
    }

    /// Whether anything is told to anybody.
    pub(crate) fn is_on(&self) -> bool {
        self.readiness.receiver_count() > 0
    }

    /// Tells what the loop saw in this round; `line` is what systemd is told.
    pub(crate) fn saw(
        &mut self,
        counts: StatusCounts,
        totals: PassTotals,
        readiness: Readiness,
        line: &str,
    ) {
        if self.line != line {
            line.clone_into(&mut self.line);
            self.page_is_old = true;
        }
        self.seen.send_replace(AgentSeen { counts, totals });
        self.readiness.send_replace(readiness);
    }

    /// What the page shows may have changed.
    pub(crate) const fn page_changed(&mut self) {
        self.page_is_old = true;
    }

    /// When the page's state is to be taken; `None`: it is up to date, or no client asks for it.
    pub(crate) fn next_page(&self) -> Option<Moment> {
        (self.page_is_old && self.is_on()).then(|| self.page_taken + PAGE_PAUSE)
    }

    /// Shows this state from now on.
    pub(crate) fn show(&mut self, page: AgentPage, now: Moment) {
        self.page.send_replace(Arc::new(page));
        (self.page_is_old, self.page_taken) = (false, now);
    }
}

fn of_counts(counts: &StatusCounts) -> Vec<Reading> {
    vec![
        gauge(
            "sidekick_agent_services",
            "Services that HAProxy listens for",
            counts.listeners,
        ),
        gauge(
            "sidekick_agent_instances",
            "Instances that HAProxy has, without those that are leaving",
            counts.servers,
        ),
        gauge(
            "sidekick_agent_keys_quarantined",
            "Keys that break the contract, or whose addresses are refused",
            counts.quarantined,
        ),
        gauge(
            "sidekick_agent_listeners_refused",
            "Services that HAProxy does not listen for, because of their ports",
            counts.refused,
        ),
        gauge(
            "sidekick_agent_instances_held",
            "Instances whose keys disappeared together, and that are held",
            counts.held,
        ),
        gauge(
            "sidekick_agent_instances_draining",
            "Instances whose keys say that they drain",
            counts.draining,
        ),
        gauge(
            "sidekick_agent_instances_leaving",
            "Instances whose keys are gone, and whose connections may still end",
            counts.leaving,
        ),
        gauge(
            "sidekick_agent_instances_down",
            "Instances that HAProxy's health checks have down",
            counts.down,
        ),
    ]
}

fn of_totals(totals: &PassTotals) -> Vec<Reading> {
    let by_result = |succeeded: u64, failed: u64| {
        let result = |word: &str| ("result", word.to_owned());
        Values::Counters(vec![
            (result("success"), succeeded),
            (result("failure"), failed),
        ])
    };
    vec![
        Reading {
            name: "sidekick_agent_passes",
            help: "Passes, in each of which HAProxy is compared with what is to be served",
            values: by_result(totals.passes - totals.failed_passes, totals.failed_passes),
        },
        Reading {
            name: "sidekick_agent_reloads",
            help: "Reloads of HAProxy",
            values: by_result(totals.reloads, totals.failed_reloads),
        },
        counter(
            "sidekick_agent_runtime_commands",
            "Changes of single servers over HAProxy's runtime API",
            totals.commands,
        ),
    ]
}

/// Whether HAProxy is at etcd's truth; `line` is what systemd is told. While etcd can't be reached, its last word is the
/// truth: HAProxy serves on, and who took it out for that would make an outage of it.
pub(crate) fn readiness(
    schedule: &Schedule,
    report: &PassReport,
    totals: &PassTotals,
    line: &str,
) -> Readiness {
    let why_not = if schedule.etcd_heard.is_none() {
        Some("etcd has not answered yet")
    } else if schedule.retry.next().is_some() {
        Some("HAProxy does not agree yet, retrying")
    } else if totals.passes == 0 || schedule.dirty {
        Some("what etcd says is being passed on to HAProxy")
    } else if report.behind {
        Some("HAProxy has not been reloaded yet for other listeners")
    } else if report.unconfirmed {
        Some("HAProxy's servers are about to be read back")
    } else {
        None
    };
    Readiness {
        ready: why_not.is_none(),
        line: match why_not {
            Some(why_not) => format!("{why_not} ({line})"),
            None => line.to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::schedule::Schedule;

    #[test]
    fn it_is_ready_once_haproxy_agrees_with_etcd_and_not_before() {
        let at = Moment::from_secs;
        let mut schedule = Schedule::new(at(1), true, true);
        let (mut report, mut totals) = (PassReport::default(), PassTotals::default());
        let told = |schedule: &Schedule, report: &PassReport, totals: &PassTotals| {
            readiness(schedule, report, totals, "serving").line
        };
        assert!(told(&schedule, &report, &totals).starts_with("etcd has not answered yet (serv"));
        schedule.etcd_heard = Some(at(2));
        assert!(told(&schedule, &report, &totals).starts_with("what etcd says"));
        (schedule.dirty, totals.passes) = (false, 1);
        assert!(readiness(&schedule, &report, &totals, "serving").ready);
        assert_eq!(told(&schedule, &report, &totals), "serving");
        report.behind = true;
        assert!(told(&schedule, &report, &totals).starts_with("HAProxy has not been reloaded"));
        (report.behind, report.unconfirmed) = (false, true);
        assert!(told(&schedule, &report, &totals).contains("read back"));
        schedule.retry.postpone(at(3), 1.0);
        assert!(told(&schedule, &report, &totals).starts_with("HAProxy does not agree"));
    }

    #[test]
    fn an_event_counts_until_haproxy_agrees_and_the_page_has_its_pace() {
        let at = Moment::from_millis;
        let mut monitor = AgentMonitor::default();
        monitor.heard(at(1_000));
        monitor.heard(at(1_500));
        let behind = PassReport {
            behind: true,
            ..PassReport::default()
        };
        monitor.passed(&behind, at(2_000));
        assert_eq!(monitor.waiting_since, Some(at(1_000)));
        monitor.passed(&PassReport::default(), at(3_000));
        assert_eq!(monitor.waiting_since, None);
        // No client asks for it.
        assert_eq!(monitor.next_page(), None);
        let _listener = monitor.readiness.subscribe();
        assert_eq!(monitor.next_page(), Some(PAGE_PAUSE));
        monitor.show(AgentPage::default(), at(3_000));
        assert_eq!(monitor.next_page(), None);
        monitor.page_changed();
        assert_eq!(monitor.next_page(), Some(at(3_000) + PAGE_PAUSE));
    }
}
