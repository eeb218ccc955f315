//! SIGUSR1: a process that ends leaves its keys to the next one. What systemd does to have it so is in
//! tests/cluster/handover.rs.

use std::time::{Duration, Instant};

use sidekick_harness::{
    A_WHILE, AnnouncerScene, Engine, Etcd, HOST, KEY, SOON, Sidekick, WatchLog, eventually,
    measured, millis, never_for, secs,
};

/// The lease's TTL, and what etcd takes to notice that one has expired.
const GONE_BY: Duration = secs(13);

/// A drain that nothing would end.
const LONG: &str = "60s";

const WISH: &str = "/sidekick/services/drain/redis/redis@1";

async fn scene() -> AnnouncerScene<'static> {
    AnnouncerScene::announced_with(|announce| announce.option("--drain", LONG)).await
}

/// As systemd does: ExecStop= sends SIGUSR1, and SIGTERM comes right after it.
async fn hands_over(scene: &mut AnnouncerScene<'_>) {
    let began = Instant::now();
    scene.sidekick.hand_over();
    scene.sidekick.term();
    let status = scene.sidekick.wait_exit(SOON).await;
    assert_eq!(status.code(), Some(0));
    measured::took(6, "SIGUSR1 to exit, handed over", began.elapsed(), secs(5));
}

/// The values that were put, of a key that was never gone.
async fn puts(changes: &WatchLog) -> Vec<String> {
    let changes = changes.so_far().await.into_iter();
    let values = changes.map(|change| change.put.expect("the key was gone"));
    values.collect()
}

#[tokio::test]
async fn no_reader_sees_a_gap_from_one_process_to_the_next() {
    let mut scene = scene().await;
    let before = scene.etcd.get(KEY).await.expect("it is announced");
    let changes = scene.etcd.watch(KEY).await;

    hands_over(&mut scene).await;
    let between = scene.etcd.get(KEY).await.expect("the key is left");
    assert_eq!(between.value, before.value);
    assert_eq!(
        scene.etcd.leases().await,
        [between.lease],
        "one other lease"
    );
    let left = scene.etcd.seconds_left(between.lease).await;
    assert!((1..=10).contains(&left), "{left} s are left");

    let mut next = scene.announce_again(|announce| announce.option("--drain", LONG));
    let lease = next_lease(&scene, between.lease).await;
    assert!(scene.etcd.seconds_left(lease).await > 10);
    // Past the end of the short lease.
    scene.etcd.keeps(KEY, GONE_BY).await;
    let puts = puts(&changes).await;
    assert_eq!(puts, [before.value.clone(), before.value]);
    assert_eq!(scene.sidekick.times_logged("handed over redis@1"), 1);
    assert_eq!(scene.sidekick.times_logged("draining"), 0);
    assert!(next.is_up());
}

/// Waits until the key is on another lease than that one.
async fn next_lease(scene: &AnnouncerScene<'_>, than: i64) -> i64 {
    eventually(SOON, "the next process has the key", async || {
        let entry = scene.etcd.get(KEY).await.ok_or("it is gone")?;
        match entry.lease == than {
            true => Err("on the former lease".to_owned()),
            false => Ok(entry.lease),
        }
    })
    .await
}

#[tokio::test]
async fn keys_that_no_next_process_wants_are_gone_soon() {
    let mut scene = scene().await;
    hands_over(&mut scene).await;
    let began = Instant::now();
    let other = "/services/redis/redis@2";
    let next = Sidekick::announce(scene.redis.name(), other);
    let next = next.docker(scene.engine).host(HOST).etcd(&scene.etcd);
    let _next = next.spawn();
    scene.etcd.shows(other, &scene.value).await;
    assert!(scene.etcd.get(KEY).await.is_some(), "no process deletes it");
    eventually(GONE_BY, "the key expires", async || {
        scene.etcd.get(KEY).await.is_none()
    })
    .await;
    let what = "hand-over to the end of a key that no process takes over";
    measured::took(6, what, began.elapsed(), GONE_BY);
    scene.etcd.keeps(other, A_WHILE).await;
}

#[tokio::test]
async fn a_container_that_dies_in_between_loses_its_key_to_the_next_process() {
    let mut scene = scene().await;
    hands_over(&mut scene).await;
    scene.redis.kill().await;
    let _next = scene.announce_again(|announce| announce);
    eventually(secs(5), "the key is cleared", async || {
        scene.etcd.get(KEY).await.is_none()
    })
    .await;
}

#[tokio::test]
async fn a_wish_drains_without_a_break() {
    let mut scene = scene().await;
    scene.etcd.put(WISH, "").await;
    let draining = async || {
        let entry = scene.etcd.get(KEY).await;
        entry.filter(|entry| entry.value.contains("draining"))
    };
    let before = eventually(SOON, "it drains", async || draining().await).await;
    let changes = scene.etcd.watch(KEY).await;
    hands_over(&mut scene).await;
    let between = scene.etcd.get(KEY).await.expect("the key is left").lease;
    assert_ne!(between, before.lease);
    let _next = scene.announce_again(|announce| announce.option("--drain", LONG));
    next_lease(&scene, between).await;
    let puts = puts(&changes).await;
    assert_eq!(puts, [before.value.clone(), before.value]);
}

/// The next process would not know of the stop, and announce the instance as serving again.
#[tokio::test]
async fn a_stop_that_is_under_way_is_waited_for() {
    let (engine, etcd) = tokio::join!(Engine::shared(), Etcd::start());
    // Redis has no handler for it: it lives until its timeout is over.
    let run = engine.redis().option("--stop-signal=SIGUSR1");
    let redis = run.run().await;
    let announce = redis.announce(&etcd).option("--drain", LONG);
    let mut sidekick = announce.spawn();
    etcd.shows(KEY, &redis.value().await).await;
    let changes = etcd.watch(KEY).await;
    let stop = ["stop", "-t", "3", redis.id()];
    let handed_over = async {
        sidekick.logs("draining").await;
        sidekick.hand_over();
        sidekick.logs("handing over when they are down").await;
        sidekick.term();
        sidekick.wait_exit(SOON).await
    };
    let (status, _) = tokio::join!(handed_over, engine.docker(&stop));
    assert_eq!(status.code(), Some(0));
    assert_eq!(etcd.get(KEY).await, None);
    let changes = changes.so_far().await;
    let gone = changes.last().and_then(|change| change.put.clone());
    assert_eq!((changes.len(), gone), (2, None), "{changes:?}");
}

#[tokio::test]
async fn a_frozen_etcd_holds_no_hand_over_up_and_costs_no_key() {
    let mut scene = scene().await;
    let lease = scene.etcd.get(KEY).await.expect("it is announced").lease;
    scene.etcd.freeze();
    hands_over(&mut scene).await;
    scene.etcd.thaw();
    scene.etcd.until_it_answers().await;
    let entry = scene.etcd.get(KEY).await.expect("the key is left");
    let left = scene.etcd.seconds_left(entry.lease).await;
    // A request that was sent before the end may be done all the same.
    assert!(left > 10 || entry.lease != lease, "{left} s are left");
}

#[tokio::test]
async fn a_second_sigterm_ends_a_hand_over_at_once() {
    let mut scene = scene().await;
    scene.etcd.freeze();
    scene.sidekick.hand_over();
    scene.sidekick.logs("handing over").await;
    scene.sidekick.term();
    let exited = async || !scene.sidekick.is_up();
    never_for(millis(700), "the first one ends it", exited).await;
    scene.sidekick.term();
    let status = scene.sidekick.wait_exit(secs(1)).await;
    assert_eq!(status.code(), Some(1));
    scene.etcd.thaw();
    scene.etcd.until_it_answers().await;
    scene.etcd.keeps(KEY, A_WHILE).await;
}

/// What a stop in progress has begun is not turned into a hand-over.
#[tokio::test]
async fn a_sigusr1_after_sigterm_changes_nothing() {
    let mut scene =
        AnnouncerScene::announced_with(|announce| announce.option("--drain", "2s")).await;
    scene.sidekick.term();
    scene.sidekick.logs("draining").await;
    scene.sidekick.hand_over();
    let status = scene.sidekick.wait_exit(SOON).await;
    assert_eq!(status.code(), Some(0));
    assert_eq!(scene.etcd.get(KEY).await, None);
}
