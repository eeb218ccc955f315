//! A sidekick that is killed, and the next one.

use std::time::Instant;

use sidekick_harness::{AnnouncerScene, HOST, KEY, eventually, measured, never_for, secs};

#[tokio::test]
async fn who_comes_back_before_the_lease_ends_leaves_no_gap() {
    let mut scene = AnnouncerScene::announced_every(4, 1).await;
    let first = scene.etcd.get(KEY).await.expect("the key stands");
    let log = scene.etcd.watch(KEY).await;

    scene.sidekick.kill9().await;
    scene.sidekick = scene.announce_again(|announce| announce.times(4, 1));

    // More than a TTL: the past life's lease runs out meanwhile.
    eventually(secs(12), "the past life's lease runs out", async || {
        scene.etcd.seconds_left(first.lease).await < 0
    })
    .await;
    let entry = scene.etcd.shows(KEY, &scene.value).await;
    assert_ne!(
        entry.lease, first.lease,
        "the key hangs on the new life's lease"
    );
    assert!(!log.has_a_gap().await, "nobody saw the key go");
    assert_eq!(
        entry.create_revision, first.create_revision,
        "it is still the first key"
    );
}

#[tokio::test]
async fn who_comes_back_after_the_lease_ended_announces_anew() {
    let mut scene = AnnouncerScene::announced_every(3, 1).await;
    scene.sidekick.kill9().await;
    expires(&scene).await;

    scene.sidekick = scene.announce_again(|announce| announce.times(3, 1));

    scene.is_announced().await;
}

#[tokio::test]
async fn a_container_that_died_meanwhile_is_not_announced_again() {
    let mut scene = AnnouncerScene::announced_every(4, 1).await;
    scene.sidekick.kill9().await;
    scene.redis.kill().await;

    scene.sidekick = scene.announce_again(|announce| announce.times(4, 1));

    expires(&scene).await;
    never_for(secs(2), "the key comes back", async || {
        scene.etcd.get(KEY).await.is_some()
    })
    .await;
}

#[tokio::test]
async fn a_container_that_was_removed_meanwhile_is_not_announced_again() {
    let mut scene = AnnouncerScene::announced_every(4, 1).await;
    scene.sidekick.kill9().await;
    scene.redis.remove().await;

    scene.sidekick = scene.announce_again(|announce| announce.times(4, 1));

    expires(&scene).await;
    never_for(secs(2), "the key comes back", async || {
        scene.etcd.get(KEY).await.is_some()
    })
    .await;
}

#[tokio::test]
async fn a_container_that_was_replaced_meanwhile_takes_the_key_over_at_once() {
    let mut scene = AnnouncerScene::announced().await;
    let log = scene.etcd.watch(KEY).await;
    scene.sidekick.kill9().await;
    scene.redis.remove().await;
    let successor = scene
        .engine
        .container(scene.redis.name())
        .publish("16301:6379")
        .run()
        .await;

    scene.sidekick = scene.announce_again(|announce| announce);

    scene
        .etcd
        .shows(KEY, &successor.at(HOST, 16301).await)
        .await;
    assert!(!log.has_a_gap().await, "nobody saw the key go");
}

#[tokio::test]
async fn nobody_keeps_the_key_of_a_sidekick_that_was_killed() {
    let mut scene = AnnouncerScene::announced_every(3, 1).await;
    let killed = Instant::now();
    scene.sidekick.kill9().await;
    expires(&scene).await;
    let limit = secs(3 + ETCDS_DELAY);
    let what = "key gone after its sidekick was killed, at a TTL of 3 s";
    measured::took(1, what, killed.elapsed(), limit);
}

/// etcd looks for dead leases twice a second, and takes its time on a busy machine.
const ETCDS_DELAY: u64 = 2;

async fn expires(scene: &AnnouncerScene<'_>) {
    eventually(secs(10), "the key expires", async || {
        scene.etcd.get(KEY).await.is_none()
    })
    .await;
}
