//! The control loop's part in `--listen`: what it tells the listener at the end of each round.

use super::ControlLoop;
use crate::agent::haproxy::api::HaproxyApi;
use crate::agent::monitor::readiness;
use crate::agent::page::AgentPage;
use crate::agent::status::StatusCounts;
use crate::clock::now;

impl<P: HaproxyApi> ControlLoop<P> {
    /// Tells the listener the counts, whether HAProxy is at etcd's truth, and at intervals the page's state. `line` is what
    /// systemd is told.
    pub(super) fn tell_listener(&mut self, counts: StatusCounts, line: &str) {
        let totals = self.reconciler.totals;
        let readiness = readiness(&self.schedule, &self.report, &totals, line);
        self.monitor.saw(counts, totals, readiness, line);
        let now = now();
        if self.monitor.next_page().is_some_and(|at| at <= now) {
            let page = AgentPage::new(
                line,
                &self.desired.catalog,
                &self.desired.membership,
                &self.desired.backends,
                &self.reconciler.listening,
                &self.report.refusals,
                self.monitor.follows_etcd,
            );
            self.monitor.show(page, now);
        }
    }
}
