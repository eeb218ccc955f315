//! Which keys each container claims, and which container has a key that several claim. Pure.
//!
//! `announce CONTAINER --key` is the case of one container and one claim.

use super::container::{ContainerSnapshot, ContainerState, ContainerView, Observation};
use super::eligibility::{
    AddressOptions, Verdict, check_up, configured_host, default_host, endpoint_of, judge,
    outage_verdict, pause_effective_at, with_effective_state,
};
use super::labels::{LabelledService, services};
use super::reason::Reason;
use crate::announce::lease::ownership::Holder;
use crate::announce::lease::protocol::{DesiredKey, DesiredKeys};
use crate::clock::Moment;
use crate::endpoint::Key;
use std::collections::BTreeMap;
use std::time::Duration;

/// Which containers are announced, and at which keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// One container at one key.
    One {
        /// The container's name, or 12 or more digits of its id.
        container: String,
        /// The key to keep.
        key: Key,
    },
    /// Every container with sidekick labels.
    All {
        /// The prefix of the keys; no slash at its end.
        prefix: String,
    },
}

/// One key that a container claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The key.
    pub key: Key,
    /// Whether the container is announced there.
    pub verdict: Verdict,
}

/// The result of evaluating a container.
#[derive(Debug, Clone)]
pub struct Evaluation {
    /// The container's name; its id, where the name isn't known.
    pub name: String,
    /// The view that was evaluated.
    view: ContainerView,
    /// The container's claims, each to a key of its own.
    pub claims: Vec<Claim>,
    /// Why the container claims no key.
    pub refused: Option<Reason>,
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
        let mut judged = match self.target {
            Target::One { container, key } => {
                let verdict = judge(container, view, self.rules, self.grace, now);
                Evaluation {
                    name: container.clone(),
                    view: view.clone(),
                    ends: match verdict {
                        Verdict::Keep(end) => end,
                        Verdict::Announce(_) | Verdict::Withdraw(_) => None,
                    },
                    claims: vec![Claim {
                        key: key.clone(),
                        verdict,
                    }],
                    refused: None,
                }
            }
            Target::All { prefix } => match outage_verdict(view, self.grace, now) {
                Some(verdict) => past_asking(id, view, before, &verdict),
                None => self.judge_labels(prefix, id, view, now),
            },
        };
        let ends = [judged.ends, pause_effective_at(view, now)];
        judged.ends = ends.into_iter().flatten().min();
        judged
    }

    fn judge_labels(
        &self,
        prefix: &str,
        id: &str,
        view: &ContainerView,
        now: Moment,
    ) -> Evaluation {
        let mut judged = Evaluation {
            name: id.to_owned(),
            view: view.clone(),
            claims: Vec::new(),
            refused: None,
            ends: None,
        };
        let Observation::Present(container) = &view.observation else {
            judged.refused = Some(Reason::Absent(id.to_owned()));
            return judged;
        };
        judged.name.clone_from(&container.name);
        let container = &with_effective_state(container, view, now);
        let claims = services(&container.labels).and_then(|services| {
            let claim = |service| self.claim(prefix, container, view, service);
            services.iter().map(claim).collect()
        });
        match claims {
            Ok(claims) => judged.claims = claims,
            Err(reason) => judged.refused = Some(reason),
        }
        judged
    }

    /// # Errors
    /// The labels make no valid key.
    fn claim(
        &self,
        prefix: &str,
        container: &ContainerSnapshot,
        view: &ContainerView,
        service: &LabelledService,
    ) -> Result<Claim, Reason> {
        let engine = view.engine_name.as_deref();
        let decision = check_up(container)
            .and_then(|()| endpoint_of(container, &service.wanted, self.rules, engine));
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
        let suffix = service.suffix.as_deref().unwrap_or_default();
        let key = format!("{prefix}/{}/{instance}{suffix}", service.name);
        match key.parse() {
            Ok(key) => Ok(Claim {
                key,
                verdict: decision.map_or_else(Verdict::Withdraw, |decision| {
                    Verdict::Announce(Box::new(decision))
                }),
            }),
            Err(problem) => Err(Reason::BadKey { key, problem }),
        }
    }
}

/// While the engine doesn't answer, a container claims the same keys as before; after that none.
fn past_asking(
    id: &str,
    view: &ContainerView,
    before: Option<&Evaluation>,
    verdict: &Verdict,
) -> Evaluation {
    let mut judged = Evaluation {
        name: before.map_or_else(|| id.to_owned(), |before| before.name.clone()),
        view: view.clone(),
        claims: before
            .map(|before| before.claims.clone())
            .unwrap_or_default(),
        refused: before.and_then(|before| before.refused.clone()),
        ends: None,
    };
    match verdict {
        Verdict::Keep(end) => judged.ends = *end,
        Verdict::Withdraw(reason) if judged.claims.is_empty() => {
            judged.refused = Some(reason.clone());
        }
        verdict => {
            for claim in &mut judged.claims {
                claim.verdict = verdict.clone();
            }
        }
    }
    judged
}

impl Evaluation {
    /// Whether evaluating the view again would give the same.
    #[must_use]
    pub fn stands(&self, view: &ContainerView, now: Moment) -> bool {
        self.view == *view && self.ends.is_none_or(|end| now < end)
    }

    /// Whether the container has ended, rather than stopped serving for a while.
    #[must_use]
    pub fn is_over(&self) -> bool {
        let over = |state: &ContainerState| {
            use ContainerState::{Created, Dead, Ended, Exited, Removing};
            matches!(state, Created | Ended | Exited(_) | Removing | Dead)
        };
        match &self.view.observation {
            Observation::Present(container) => self.view.ended.is_some() || over(&container.state),
            Observation::Absent | Observation::NeverAsked => false,
        }
    }

    /// The life of the container that is known to be down; `None` where the reason is another one.
    fn past_life(&self, reason: &Reason) -> Option<Holder> {
        match &self.view.observation {
            Observation::Present(container) if reason.container_is_down() => Some(Holder {
                container: container.short_id(),
                since: container.started_at,
                address: container.name.clone(),
            }),
            _ => None,
        }
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
/// `before` are the desired keys until now.
#[must_use]
pub fn assign_keys(all: &BTreeMap<String, Evaluation>, before: &DesiredKeys) -> Assignment {
    let mut best: BTreeMap<Key, (DesiredKey, &str)> = BTreeMap::new();
    let mut assignment = Assignment::default();
    for (id, judged) in all {
        for claim in &judged.claims {
            let desired = match &claim.verdict {
                Verdict::Announce(decision) => DesiredKey::Announce(decision.endpoint.clone()),
                Verdict::Withdraw(reason) => DesiredKey::Withdraw {
                    down: judged.past_life(reason),
                },
                Verdict::Keep(_) => match before.get(&claim.key) {
                    Some(desired) => desired.clone(),
                    None => continue,
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
