//! What changes while a shutdown drains: agents that start, are cut off, or have another prefix; a younger container.
//! The test plays the agents, by writing their keys into the real etcd.

use std::time::Instant;

use sidekick_harness::{KEY, SOON, Sidekick, Value, millis, never_for, secs};

use super::drain::{
    AGENT, Drains, LONG, WORD, drains_for, ends_by_time, left, put_on, takes_the_full_time, word,
};

/// A second agent, and its word.
const SECOND: &str = "/sidekick/services/agents/worker-8";
const SECOND_WORD: &str = "/sidekick/services/agents/worker-8/redis/redis@1";

const SERVES: &str = r#"{"services":["redis"]}"#;

async fn still_drains(sidekick: &mut Sidekick) {
    let longer = millis(700);
    never_for(longer, "it left before the last word", async || {
        !sidekick.is_up()
    })
    .await;
}

#[tokio::test]
async fn an_agent_that_starts_meanwhile_is_waited_for() {
    let mut scene = drains_for(LONG).await;
    let agent = scene.etcd.agent().await;
    scene.sidekick.term();
    scene.etcd.shows_draining(&scene.value).await;
    let second = scene.etcd.put_leased(SECOND, SERVES, secs(60)).await;
    put_on(&scene.etcd, agent, WORD, &word(&scene.value, false)).await;
    still_drains(&mut scene.sidekick).await;
    put_on(&scene.etcd, second, SECOND_WORD, &word(&scene.value, false)).await;
    left(&mut scene, SOON).await;
}

/// Where none was there before, its word ends a drain that would have taken the full time.
#[tokio::test]
async fn the_first_agent_that_starts_meanwhile_ends_the_drain() {
    let mut scene = drains_for(LONG).await;
    scene.sidekick.term();
    scene.etcd.shows_draining(&scene.value).await;
    still_drains(&mut scene.sidekick).await;
    let agent = scene.etcd.agent().await;
    put_on(&scene.etcd, agent, WORD, &word(&scene.value, false)).await;
    left(&mut scene, SOON).await;
}

#[tokio::test]
async fn an_agent_that_is_cut_off_after_its_word_has_given_it() {
    let mut scene = drains_for(LONG).await;
    let cut_off = scene.etcd.put_leased(SECOND, SERVES, secs(2)).await;
    let agent = scene.etcd.agent().await;
    scene.sidekick.term();
    scene.etcd.shows_draining(&scene.value).await;
    put_on(
        &scene.etcd,
        cut_off,
        SECOND_WORD,
        &word(&scene.value, false),
    )
    .await;
    scene.etcd.loses(SECOND).await;
    assert!(scene.sidekick.is_up(), "the other agent owes its word");
    put_on(&scene.etcd, agent, WORD, &word(&scene.value, false)).await;
    left(&mut scene, SOON).await;
}

#[tokio::test]
async fn an_agent_that_is_cut_off_before_its_word_costs_the_full_time() {
    let scene = drains_for("5s").await;
    scene.etcd.put_leased(AGENT, SERVES, secs(2)).await;
    let began = Instant::now();
    scene.sidekick.term();
    scene.etcd.shows_draining(&scene.value).await;
    scene.etcd.loses(AGENT).await;
    ends_by_time(scene, began, secs(5), "no word from the agents worker-9").await;
}

#[tokio::test]
async fn an_agent_of_another_prefix_is_none() {
    let scene = drains_for("2s").await;
    let elsewhere = |key: &str| key.replace("/sidekick/services", "/sidekick/other");
    let etcd = &scene.etcd;
    let agent = etcd.put_leased(&elsewhere(AGENT), SERVES, secs(60)).await;
    put_on(etcd, agent, &elsewhere(WORD), &word(&scene.value, false)).await;
    takes_the_full_time(scene, "no agent is known that serves redis").await;
}

#[tokio::test]
async fn a_younger_container_has_the_key_and_the_old_address_is_waited_for() {
    let mut scene = drains_for(LONG).await;
    let ours = scene.etcd.get(KEY).await.expect("it is announced").lease;
    let agent = scene.etcd.agent().await;
    scene.sidekick.term();
    scene.etcd.shows_draining(&scene.value).await;
    let younger = Value::of_rival("badc0ffee000", "2999-12-31T23:59:59.999999999Z");
    let theirs = scene.etcd.put_leased(KEY, &younger.text(), secs(60)).await;
    let revision = scene.etcd.revision().await;
    still_drains(&mut scene.sidekick).await;
    put_on(&scene.etcd, agent, WORD, &word(&scene.value, false)).await;
    let status = scene.sidekick.wait_exit(SOON).await;
    assert_eq!(status.code(), Some(0));
    assert!(!scene.etcd.leases().await.contains(&ours));
    assert_eq!(scene.etcd.shows(KEY, &younger).await.lease, theirs);
    assert_eq!(scene.etcd.revision().await, revision + 1, "the word alone");
}
