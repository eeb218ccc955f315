//! What has to be true of whatever the Docker Engine says, as `tests/fuzz/properties.rs` has it of the
//! rest. Here because the rooms are private; in no binary but the tests' and cargo-fuzz's.

// A scene that can't be set is a failed test.
#![allow(clippy::panic, clippy::unwrap_used)]

#[cfg(test)]
#[path = "../../../tests/fuzz/mutation.rs"]
// It tells what it has tried.
#[allow(clippy::print_stdout)]
mod mutation;

use super::events::{ContainerEvent, WatchScope, decode_event};
use super::inspect::{listed, listed_leniently, observation};
use crate::announce::policy::check::CheckResults;
use crate::announce::policy::check_settings::CheckOptions;
use crate::announce::policy::claims::Evaluator;
use crate::announce::policy::container::{ContainerView, Observation};
use crate::announce::policy::eligibility::{AddressOptions, Verdict};
use crate::announce::policy::labels::PREFIX;
use crate::announce::policy::target::Target;
use crate::clock::Moment;
use crate::endpoint::Endpoint;
use bollard::models::{ContainerSummary, EventMessage};

const NAME: &str = "redis1";

/// Whatever an inspect answers, what is announced can be dialled.
pub fn docker_inspect(input: &[u8]) {
    let key = "/services/redis/redis@1".parse().unwrap();
    let one = Target::One {
        container: NAME.to_owned(),
        key,
    };
    let all = Target::All {
        prefix: "/services".to_owned(),
        registrator: true,
    };
    let rules = AddressOptions {
        hostname: Some("worker-1".to_owned()),
        ..AddressOptions::default()
    };
    let Ok(answer) = serde_json::from_slice::<serde_json::Value>(input) else {
        return;
    };
    let id = answer["Id"].as_str().unwrap_or_default();
    for (target, subject) in [(&one, NAME), (&all, id)] {
        let judge = Evaluator {
            target,
            rules: &rules,
            grace: None,
            checks: &CheckResults::new(),
            check_options: &CheckOptions::default(),
        };
        let Some(observation) = observation(&answer, subject, &WatchScope::from(target)) else {
            return;
        };
        let view = ContainerView::seen(observation, None, None, Moment::ZERO);
        if let Observation::Present(container) = &view.observation {
            assert!(
                container
                    .labels
                    .keys()
                    .all(|label| label.starts_with(PREFIX))
            );
        }
        let judged = judge.judge(subject, &view, None, Moment::ZERO);
        for claim in judged.claims.iter().flatten() {
            assert_eq!(claim.key.as_str().parse().as_ref(), Ok(&claim.key));
            if let Verdict::Announce(decision) = &claim.verdict {
                let endpoint = &decision.endpoint;
                let written = endpoint.encode();
                assert_eq!(
                    Endpoint::decode(written.as_bytes()).as_ref(),
                    Ok(&**endpoint)
                );
            }
        }
    }
}

/// A list is read the same with and without something unknown in it.
pub fn docker_list(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let leniently = listed_leniently(&text);
    if let Ok(all) = serde_json::from_str::<Vec<ContainerSummary>>(&text) {
        let strictly: Vec<_> = all.into_iter().filter_map(listed).collect();
        assert_eq!(Some(strictly), leniently);
    }
}

/// Whatever an event says, a death is of a container that is named.
pub fn docker_event(input: &[u8]) {
    let Ok(event) = serde_json::from_slice::<EventMessage>(input) else {
        return;
    };
    let running = include_bytes!("../../../tests/corpus/docker_inspect/running.json");
    let running = serde_json::from_slice(running).unwrap();
    let Some(Observation::Present(before)) =
        observation(&running, NAME, &WatchScope::One(NAME.to_owned()))
    else {
        panic!("it runs");
    };
    for scope in [WatchScope::One(NAME.to_owned()), WatchScope::Labelled] {
        let Some(ContainerEvent::Died(_, death)) = decode_event(event.clone(), &scope) else {
            continue;
        };
        let running = Observation::Present(before.clone());
        if let Observation::Present(after) = running.after(std::slice::from_ref(&death))
            && after.state != before.state
        {
            assert_eq!(death.id, before.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::mutation::fuzz;
    use super::*;

    #[test]
    fn whatever_an_inspect_answers_what_is_announced_can_be_dialled() {
        fuzz("docker_inspect", docker_inspect);
    }

    #[test]
    fn a_list_is_read_the_same_with_and_without_something_unknown_in_it() {
        fuzz("docker_list", docker_list);
    }

    #[test]
    fn whatever_an_event_says_a_death_is_of_a_container_that_is_named() {
        fuzz("docker_event", docker_event);
    }
}
