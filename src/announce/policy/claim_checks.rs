//! The checks that decide whether a claim is announced. Pure.

use super::check::{CheckResult, CheckResults, CheckTarget};
use super::check_settings::CheckSettings;
use super::container::ContainerSnapshot;
use super::eligibility::{Decision, Verdict};
use super::reason::Reason;
use crate::clock::Moment;

/// The checks of one claim, at least one: all have to pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimChecks {
    /// Each check, and the result that the claim was decided by.
    checks: Vec<(CheckTarget, Option<CheckResult>)>,
    /// What is announced while they pass.
    decision: Box<Decision>,
    /// What is announced while they don't; `None`: nothing.
    otherwise: Option<Box<Decision>>,
}

impl ClaimChecks {
    /// The checks that these settings ask for, of a container that has perhaps outlived its stop; `None` where they ask for
    /// none.
    ///
    /// # Errors
    /// [`Reason::Uncheckable`].
    pub fn of(
        container: &ContainerSnapshot,
        decision: &Decision,
        settings: Vec<CheckSettings>,
        results: &CheckResults,
        outlived_since: Option<Moment>,
    ) -> Result<Option<Self>, Reason> {
        let check = |settings| {
            let target = CheckTarget::of(container, decision, settings, outlived_since)?;
            let result = results.get(&target.subject).cloned();
            Ok((target, result))
        };
        let checks = settings.into_iter().map(check);
        let checks = checks.collect::<Result<Vec<_>, Reason>>()?;
        Ok((!checks.is_empty()).then(|| Self {
            checks,
            decision: Box::new(decision.clone()),
            otherwise: None,
        }))
    }

    /// The same, where that is announced while they don't pass.
    #[must_use]
    pub fn or_else(self, otherwise: Option<Box<Decision>>) -> Self {
        Self { otherwise, ..self }
    }

    /// What is asked, and where.
    pub fn targets(&self) -> impl Iterator<Item = &CheckTarget> {
        self.checks.iter().map(|(target, _)| target)
    }

    /// The same checks by their results now.
    #[must_use]
    pub fn with_results(&self, results: &CheckResults) -> Self {
        let mut checks = self.clone();
        for (target, result) in &mut checks.checks {
            *result = results.get(&target.subject).cloned();
        }
        checks
    }

    /// Whether the results are the ones that the claim was decided by.
    #[must_use]
    pub fn stand(&self, results: &CheckResults) -> bool {
        let mut checks = self.checks.iter();
        checks.all(|(target, result)| results.get(&target.subject) == result.as_ref())
    }

    /// Whether the claim is announced: a check that fails says more than one that has no result yet.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let failing = self
            .checks
            .iter()
            .find_map(|(target, result)| match result {
                Some(CheckResult::Failing(why)) => Some(Reason::CheckFailing {
                    kind: target.subject.settings.kind.clone(),
                    why: why.clone(),
                }),
                _ => None,
            });
        let pending = || {
            let mut checks = self.checks.iter();
            let (target, _) = checks.find(|(_, result)| result.is_none())?;
            let kind = target.subject.settings.kind.clone();
            Some(Reason::CheckPending(kind))
        };
        match (failing.or_else(pending), &self.otherwise) {
            (Some(_), Some(otherwise)) => Verdict::Announce(otherwise.clone()),
            (Some(reason), None) => Verdict::Withdraw(reason),
            (None, _) => Verdict::Announce(self.decision.clone()),
        }
    }
}
