//! A sidekick that is killed, and the next one.

use std::time::Instant;

use sidekick_harness::*;

#[tokio::test]
async fn who_comes_back_before_the_lease_ends_leaves_no_gap() {
    let mut scene = AnnouncerScene::announced_every(4, 1).await;
    let first = scene.etcd.get(KEY).await.expect("the key stands");
    let log = scene.etcd.watch(KEY).await;

    scene.sidekick.kill9().await;
    scene.sidekick = scene.announce_again(|announce| announce.times(4, 1));

    // More than a TTL: the past life's lease runs out meanwhile.
    let over = async || scene.etcd.seconds_left(first.lease).await < 0;
    eventually(secs(12), "the past life's lease runs out", over).await;
    let entry = scene.etcd.shows(KEY, &scene.value).await;
    assert_ne!(entry.lease, first.lease, "the key is on a new lease");
    assert!(!log.has_a_gap().await, "the key was gone for a moment");
    let created = entry.create_revision;
    assert_eq!(created, first.create_revision, "it is still the first key");
}

#[tokio::test]
async fn who_comes_back_after_the_lease_ended_announces_again() {
    let mut scene = AnnouncerScene::announced_every(3, 1).await;
    scene.sidekick.kill9().await;
    expires(&scene).await;

    scene.sidekick = scene.announce_again(|announce| announce.times(3, 1));

    scene.is_announced().await;
}

#[tokio::test]
async fn a_container_that_died_meanwhile_is_not_announced_again() {
    is_not_announced_after(async |redis| redis.kill().await).await;
}

#[tokio::test]
async fn a_container_that_was_removed_meanwhile_is_not_announced_again() {
    is_not_announced_after(async |redis| redis.remove().await).await;
}

async fn is_not_announced_after(end: impl AsyncFnOnce(&Container<'_>)) {
    let mut scene = AnnouncerScene::announced_every(4, 1).await;
    scene.sidekick.kill9().await;
    end(&scene.redis).await;

    scene.sidekick = scene.announce_again(|announce| announce.times(4, 1));

    expires(&scene).await;
    scene.etcd.lacks(KEY, secs(2)).await;
}

#[tokio::test]
async fn a_container_that_was_replaced_meanwhile_takes_the_key_over_at_once() {
    let mut scene = AnnouncerScene::announced().await;
    let log = scene.etcd.watch(KEY).await;
    scene.sidekick.kill9().await;
    scene.redis.remove().await;
    let successor = scene.successor().await;

    scene.sidekick = scene.announce_again(|announce| announce);

    scene.etcd.shows(KEY, &successor.value().await).await;
    assert!(!log.has_a_gap().await, "the key was gone for a moment");
}

#[tokio::test]
async fn the_key_of_a_killed_sidekick_goes_with_its_lease() {
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
    let gone = async || scene.etcd.get(KEY).await.is_none();
    eventually(secs(10), "the key expires", gone).await;
}
