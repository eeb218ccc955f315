//! Which keys each container claims, and which container has a key that several claim. Pure.
//!
//! `announce CONTAINER --key` is the case of one container and one claim.

mod life_so_far;

use super::check::{CheckResults, CheckTarget};
use super::check_settings::CheckOptions;
use super::claim_checks::ClaimChecks;
use super::container::{ContainerSnapshot, ContainerState, ContainerView, Observation};
use super::eligibility::{
    AddressOptions, Decision, EngineOutage, Verdict, configured_host, decide, default_host,
    engine_outage, pause_effective_at, with_effective_state,
};
use super::labels::RequestedService;
use super::reason::Reason;
use super::stop::StopProgress;
use super::target::Target;
use crate::announce::lease::ownership::Holder;
use crate::announce::lease::protocol::{DesiredKey, DesiredKeys};
use crate::clock::Moment;
use crate::endpoint::Key;
use life_so_far::LifeSoFar;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// One key that a container claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The key.
    pub key: Key,
    /// Whether the container is announced there.
    pub verdict: Verdict,
    /// The checks that this depends on; `None` where it depends on none, or there is another reason against it.
    pub checks: Option<ClaimChecks>,
}

impl Claim {
    /// The claim while the engine doesn't answer, as the container's stop and the results of its checks are now.
    fn kept(&self, stop: Option<StopProgress>, results: &CheckResults) -> Self {
        if let (Verdict::Announce(decision), Some(StopProgress::Begun(_))) = (&self.verdict, stop) {
            let decision = Box::new(decision.as_ref().clone().stopping(stop));
            return Self {
                key: self.key.clone(),
                verdict: Verdict::Announce(decision),
                checks: None,
            };
        }
        let Some(checks) = &self.checks else {
            return self.clone();
        };
        let checks = checks.with_results(results);
        Self {
            key: self.key.clone(),
            verdict: checks.verdict(),
            checks: Some(checks),
        }
    }

    fn stands(&self, results: &CheckResults) -> bool {
        let checks = self.checks.as_ref();
        checks.is_none_or(|checks| checks.stand(results))
    }
}

impl Claim {
    /// Why it is not announced where `winner` has the key: the container's own reason, where it has one.
    #[must_use]
    pub fn why_outranked(&self, winner: &str) -> Reason {
        match &self.verdict {
            Verdict::Withdraw(reason) => reason.clone(),
            Verdict::Announce(_) => Reason::Outranked {
                key: self.key.clone(),
                winner: winner.to_owned(),
            },
        }
    }
}

/// The result of evaluating a container.
#[derive(Debug, Clone)]
pub struct Evaluation {
    /// The container's name; its id, where the name isn't known.
    pub name: String,
    /// The view that was evaluated.
    view: ContainerView,
    /// The container that the claims were decided by: an earlier one than in `view`, while the engine doesn't answer.
    decided_by: Option<Arc<ContainerSnapshot>>,
    /// The container's claims, each to a key of its own; or why it claims no key.
    pub claims: Result<Vec<Claim>, Reason>,
    /// When the container is evaluated again although its view hasn't changed.
    pub ends: Option<Moment>,
}

/// The options that containers are evaluated by.
#[derive(Debug, Clone, Copy)]
pub struct Evaluator<'a> {
    /// Which containers are announced, and at which keys.
    pub target: &'a Target,
    /// The options that the address is chosen by.
    pub rules: &'a AddressOptions,
    /// How long a key is kept while Docker doesn't answer; `None`: for ever.
    pub grace: Option<Duration>,
    /// What the checks of services have come to.
    pub checks: &'a CheckResults,
    /// The checks of services whose labels say nothing of them.
    pub check_options: &'a CheckOptions,
}

impl Evaluator<'_> {
    /// Evaluates the view of one container, which the watcher knows by this id (or name).
    /// `before` is the result of the last time.
    #[must_use]
    pub fn judge(
        &self,
        id: &str,
        view: &ContainerView,
        before: Option<&Evaluation>,
        now: Moment,
    ) -> Evaluation {
        let outage = engine_outage(view, self.grace, now);
        let known = before.map(|before| &before.claims);
        let claims = match (&outage, &view.observation) {
            // The claims are the same as before.
            (Some(EngineOutage::Keep(_)), _) => {
                let unknown = || self.refuse(Reason::NeverAsked);
                let stop = view.stop_progress(now);
                let kept = |claim: &Claim| claim.kept(stop, self.checks);
                match known {
                    Some(Ok(claims)) => Ok(claims.iter().map(kept).collect()),
                    Some(Err(reason)) => Err(reason.clone()),
                    None => unknown(),
                }
            }
            (Some(EngineOutage::Withdraw(reason)), _) => match known {
                Some(Ok(claims)) => Ok(withdrawn(claims, reason)),
                Some(Err(_)) | None => self.refuse(reason.clone()),
            },
            (None, Observation::NeverAsked) => self.refuse(Reason::NeverAsked),
            (None, Observation::Absent) => self.refuse(Reason::Absent(id.to_owned())),
            (None, Observation::Present(container)) => {
                let container = &with_effective_state(container, view, now);
                let services = self.target.services(container, self.rules);
                let claims = services.and_then(|services| {
                    let life = LifeSoFar::of(container, view, before, now);
                    let container = &life.with_effective_health(container);
                    let claim = |service| self.claim(container, view, service, &life);
                    services.iter().map(claim).collect()
                });
                claims.or_else(|reason| self.refuse(reason))
            }
        };
        let end_of_grace = match &outage {
            Some(EngineOutage::Keep(end)) => *end,
            Some(EngineOutage::Withdraw(_)) | None => None,
        };
        let ends = [
            end_of_grace,
            pause_effective_at(view, now),
            view.stop_outlived_at(now),
        ];
        Evaluation {
            name: match (&view.observation, before) {
                (Observation::Present(container), _) => container.name.clone(),
                (_, Some(before)) => before.name.clone(),
                _ => id.to_owned(),
            },
            view: view.clone(),
            decided_by: match (&outage, &view.observation) {
                (Some(_), _) => before.and_then(|before| before.decided_by.clone()),
                (None, Observation::Present(container)) => Some(container.clone()),
                (None, Observation::Absent | Observation::NeverAsked) => None,
            },
            claims,
            ends: ends.into_iter().flatten().min(),
        }
    }

    /// A container that can't tell what it asks for: a key that the command line names is claimed all the same, so
    /// that etcd is asked for it.
    fn refuse(&self, reason: Reason) -> Result<Vec<Claim>, Reason> {
        match self.target {
            Target::All { .. } => Err(reason),
            Target::One { key, .. } => Ok(vec![Claim {
                key: key.clone(),
                verdict: Verdict::Withdraw(reason),
                checks: None,
            }]),
        }
    }

    /// # Errors
    /// The labels make no valid key.
    fn claim(
        &self,
        container: &ContainerSnapshot,
        view: &ContainerView,
        service: &RequestedService,
        life: &LifeSoFar<'_>,
    ) -> Result<Claim, Reason> {
        let engine = view.engine_name.as_deref();
        let decision = decide(container, &service.wanted, self.rules, engine);
        let instance = match (&service.instance, &decision) {
            (Some(instance), _) => instance.clone(),
            (None, Ok(decision)) => format!("{}@{}", container.name, decision.endpoint.host),
            // While no port is published there is no binding to take the address from: that of other
            // containers here is the best guess. If it is wrong, the key holds no value of ours.
            (None, Err(reason)) => {
                let told = configured_host(&service.wanted, self.rules);
                let host = told.map_or_else(|| default_host(None, self.rules, engine), Ok);
                let (host, _) = host.map_err(|_| reason.clone())?;
                format!("{}@{host}", container.name)
            }
        };
        let key = self.target.key(service, &instance)?;
        let (verdict, checks) = match decision {
            Ok(decision) => self.checked(container, decision, service, life, &key),
            Err(reason) => (Verdict::Withdraw(reason), None),
        };
        Ok(Claim {
            key,
            verdict,
            checks,
        })
    }

    /// What could be announced, as its checks are. A stop that is under way outranks them: a server that closes its
    /// listener on its stop signal, and finishes what it has, drains. Who has outlived its stop serves where they pass.
    fn checked(
        &self,
        container: &ContainerSnapshot,
        decision: Decision,
        service: &RequestedService,
        life: &LifeSoFar<'_>,
        key: &Key,
    ) -> (Verdict, Option<ClaimChecks>) {
        let settings = service.checks.or(self.check_options).settings();
        let stopping = Box::new(decision.clone().stopping(life.stop));
        if life.only_drains(key) {
            return (Verdict::Announce(stopping), None);
        }
        let (decision, otherwise) = match life.stop {
            Some(StopProgress::Outlived(..)) if !settings.is_empty() => {
                let otherwise = life.was_announced(key).then_some(stopping);
                (Box::new(decision), otherwise)
            }
            _ => (stopping, None),
        };
        let outlived_since = life.outlived_since;
        match ClaimChecks::of(container, &decision, settings, self.checks, outlived_since) {
            Ok(Some(checks)) => {
                let checks = checks.or_else(otherwise);
                (checks.verdict(), Some(checks))
            }
            Ok(None) => (Verdict::Announce(decision), None),
            Err(reason) => (Verdict::Withdraw(reason), None),
        }
    }
}

fn withdrawn(claims: &[Claim], reason: &Reason) -> Vec<Claim> {
    let withdrawn = |claim: &Claim| Claim {
        key: claim.key.clone(),
        verdict: Verdict::Withdraw(reason.clone()),
        checks: None,
    };
    claims.iter().map(withdrawn).collect()
}

impl Evaluation {
    /// Whether evaluating the view again would give the same.
    #[must_use]
    pub fn stands(&self, view: &ContainerView, checks: &CheckResults, now: Moment) -> bool {
        let mut claims = self.claims.iter().flatten();
        self.view == *view
            && self.ends.is_none_or(|end| now < end)
            && claims.all(|claim| claim.stands(checks))
    }

    /// The checks that its claims depend on.
    pub fn checks(&self) -> impl Iterator<Item = &CheckTarget> {
        let claims = self.claims.iter().flatten();
        let checks = claims.filter_map(|claim| claim.checks.as_ref());
        checks.flat_map(ClaimChecks::targets)
    }

    /// The container, as the engine described it last.
    #[must_use]
    pub fn container(&self) -> Option<&ContainerSnapshot> {
        match &self.view.observation {
            Observation::Present(container) => Some(container),
            Observation::Absent | Observation::NeverAsked => None,
        }
    }

    /// Whether a key stays announced although the engine doesn't answer.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        let announced = |claim: &Claim| matches!(claim.verdict, Verdict::Announce(_));
        self.view.lost_since.is_some() && self.claims.iter().flatten().any(announced)
    }

    /// Whether the container has ended, rather than stopped serving for a while.
    #[must_use]
    pub fn is_over(&self) -> bool {
        use ContainerState::{Created, Dead, Ended, Exited, Removing};
        let over = |c: &ContainerSnapshot| {
            matches!(c.state, Created | Ended | Exited(_) | Removing | Dead)
        };
        self.container()
            .is_some_and(|c| self.view.is_over() || over(c))
    }

    /// Whether its claims were decided by the same life of the container.
    fn is_of_life(&self, container: &ContainerSnapshot) -> bool {
        let decided_by = self.decided_by.as_ref();
        decided_by.is_some_and(|before| before.life() == container.life())
    }

    /// The life of the container that is known to be down; `None` where the reason is another one.
    fn past_life(&self, reason: &Reason) -> Option<Holder> {
        let container = self.decided_by.as_ref();
        let container = container.filter(|_| reason.container_is_down())?;
        Some(Holder {
            container: container.short_id(),
            since: container.started_at,
            address: container.name.clone(),
        })
    }
}

/// The claims that lost, by container and key, and the name of the container that has the key.
pub type Outranked = BTreeMap<(String, Key), String>;

/// Which container has which key.
#[derive(Debug, Default)]
pub struct Assignment {
    /// The desired value of each key.
    pub desired: DesiredKeys,
    /// The claims that lost.
    pub outranked: Outranked,
}

/// Assigns each key to one of the containers that claim it: one that is to be announced before one that isn't,
/// then the one that started later, then the one with the greater id. (The same rule decides between machines.)
#[must_use]
pub fn assign_keys(all: &BTreeMap<String, Evaluation>) -> Assignment {
    let mut best: BTreeMap<Key, (DesiredKey, &str)> = BTreeMap::new();
    let mut assignment = Assignment::default();
    for (id, judged) in all {
        for claim in judged.claims.iter().flatten() {
            let desired = match &claim.verdict {
                Verdict::Announce(decision) => DesiredKey::Announce(decision.endpoint.clone()),
                Verdict::Withdraw(reason) => DesiredKey::Withdraw {
                    down: judged.past_life(reason),
                },
            };
            let Some((other, holder)) = best.get(&claim.key) else {
                best.insert(claim.key.clone(), (desired, id));
                continue;
            };
            let loser = if precedence(&desired) > precedence(other) {
                let loser = *holder;
                best.insert(claim.key.clone(), (desired, id));
                loser
            } else {
                id
            };
            assignment
                .outranked
                .insert((loser.to_owned(), claim.key.clone()), String::new());
        }
    }
    for ((_, key), winner) in &mut assignment.outranked {
        if let Some((_, id)) = best.get(key)
            && let Some(judged) = all.get(*id)
        {
            winner.clone_from(&judged.name);
        }
    }
    assignment.desired = best
        .into_iter()
        .map(|(key, (desired, _))| (key, desired))
        .collect();
    assignment
}

/// The claim with the greatest precedence has the key.
fn precedence(desired: &DesiredKey) -> impl PartialOrd {
    match desired {
        DesiredKey::Announce(endpoint) => (true, endpoint.since, endpoint.container.clone()),
        DesiredKey::Withdraw { down } => (
            false,
            down.as_ref().and_then(|down| down.since),
            down.as_ref().and_then(|down| down.container.clone()),
        ),
    }
}

#[cfg(test)]
mod tests;
