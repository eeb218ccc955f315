//! Containers whose first process is dead.

use super::*;

/// Also while Docker doesn't answer: the kernel has.
#[test]
fn a_container_whose_first_process_is_dead_is_not_announced_whatever_docker_says() {
    let second = Duration::from_secs;
    let container = redis(&[("6379", "0.0.0.0:6379")]);
    let ended = container.life();
    for (state, lost_since) in [
        (ContainerState::Running, None),
        (ContainerState::Running, Some(second(100))),
        (ContainerState::Paused, None),
    ] {
        let container = ContainerSnapshot {
            state,
            ..container.clone()
        };
        let view = ContainerView {
            observation: Observation::Present(Arc::new(container)),
            lost_since,
            ended: ended.clone(),
            paused_since: Some(second(99)),
            ..ContainerView::unasked(Duration::ZERO)
        };
        let verdict = verdict(&judge(&view, &rules(None, None), None, None, second(100)));
        let Verdict::Withdraw(reason) = verdict else {
            panic!("{verdict:?}");
        };
        assert!(
            reason.container_is_down() && reason.is_passing(),
            "{reason}"
        );
    }
}
