//! Stopping.

use crate::harness::{Engine, Etcd, HOST, KEY, SOON, Scene, Sidekick, eventually, millis, secs};

#[tokio::test]
async fn sigterm_takes_the_key_away_before_the_process_exits() {
    let mut scene = Scene::announced().await;
    scene
        .etcd
        .put("/services/redis/redis@2", "a neighbour's")
        .await;

    scene.sidekick.term();
    let status = scene.sidekick.wait_exit(SOON).await;

    assert_eq!(
        scene.etcd.keys().await,
        ["/services/redis/redis@2"],
        "its key is gone, and nothing else"
    );
    assert_eq!(status.code(), Some(0));
    assert_eq!(scene.etcd.leases().await, [0; 0], "its lease is gone too");
}

#[tokio::test]
async fn sigint_takes_the_key_away_before_the_process_exits() {
    let mut scene = Scene::announced().await;

    scene.sidekick.int();
    let status = scene.sidekick.wait_exit(SOON).await;

    assert_eq!(scene.etcd.get(KEY).await, None);
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn a_frozen_etcd_holds_nobody_up_for_more_than_five_seconds() {
    let mut scene = Scene::announced().await;
    scene.etcd.freeze();

    scene.sidekick.term();
    let status = scene.sidekick.wait_exit(secs(7)).await;

    assert_eq!(
        status.code(),
        Some(0),
        "it stopped as asked; the TTL does the rest"
    );
}

#[tokio::test]
async fn an_etcd_that_is_gone_holds_nobody_up_for_more_than_five_seconds() {
    let mut scene = Scene::announced().await;
    scene.etcd.kill9().await;

    scene.sidekick.term();
    let status = scene.sidekick.wait_exit(secs(7)).await;

    assert_eq!(
        status.code(),
        Some(0),
        "it stopped as asked; the TTL does the rest"
    );
}

#[tokio::test]
async fn an_etcd_that_comes_back_in_time_has_the_key_taken_away() {
    let mut scene = Scene::announced().await;
    scene.etcd.freeze();
    scene.sidekick.term();
    scene.sidekick.logs("stop").await;
    eventually(secs(4), "etcd is silent for a second", {
        let asked = std::time::Instant::now();
        async move || asked.elapsed() > secs(1)
    })
    .await;

    scene.etcd.thaw();
    let status = scene.sidekick.wait_exit(secs(7)).await;

    scene.etcd.until_it_answers().await;
    assert_eq!(status.code(), Some(0));
    assert_eq!(scene.etcd.get(KEY).await, None);
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let mut scene = Scene::announced().await;
    scene.etcd.freeze();
    scene.sidekick.term();
    // Two signals that nobody has looked at yet are one.
    scene.sidekick.logs("stop").await;

    scene.sidekick.term();

    scene.sidekick.wait_exit(secs(1)).await;
}

#[tokio::test]
async fn who_waits_for_etcd_can_be_stopped() {
    let (engine, etcd) = tokio::join!(Engine::shared(), Etcd::not_yet());
    let redis = engine
        .container(&engine.name("redis1"))
        .publish("6379")
        .run()
        .await;
    let mut sidekick = Sidekick::announce(redis.name(), KEY)
        .etcd(&etcd)
        .docker(engine)
        .host(HOST)
        .under_systemd()
        .spawn();
    sidekick.notifications().tell("READY=1").await;
    sidekick.leaves().await;
}

#[tokio::test]
async fn who_waits_for_docker_can_be_stopped() {
    let (engine, etcd) = (Engine::not_yet(), Etcd::start().await);
    let mut sidekick = Sidekick::announce("redis1", KEY)
        .etcd(&etcd)
        .docker(&engine)
        .host(HOST)
        .under_systemd()
        .spawn();
    sidekick.notifications().tell("READY=1").await;
    assert!(
        sidekick.leaves().await < secs(2),
        "there is nothing to take away"
    );
}

#[tokio::test]
async fn leaving_a_quiet_etcd_is_quick() {
    let mut scene = Scene::announced().await;
    let took = scene.sidekick.leaves().await;
    assert!(took < millis(1500), "leaving took {took:?}");
}
