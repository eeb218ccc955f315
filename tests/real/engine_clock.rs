//! The clock of the engine's machine is stepped back: NTP after a drift, a restored snapshot of a machine.

use sidekick_harness::*;

/// Issue 11, item 1: the key was missing for the whole life.
#[tokio::test]
async fn a_clock_that_steps_back_between_a_death_and_the_next_start_costs_no_key() {
    let (engine, proxy) = clocked().await;
    let at = proxy.url();
    let scene = AnnouncerScene::announced_on(engine, |a| a.option("--docker-host", &at)).await;
    scene.redis.kill().await;
    scene.is_withdrawn().await;

    proxy.step_clock(-120);
    scene.redis.start().await;
    is_up(&scene.etcd, KEY, &scene.redis).await;

    let entry = scene.etcd.get(KEY).await.expect("it is announced");
    let since = entry.value.split("\"since\":\"").nth(1).unwrap_or_default();
    let old = scene.value.since.as_str();
    assert!(since < old, "{since} of the new life is earlier than {old}");
    scene.redis.kill().await;
    scene.is_withdrawn().await;
}

/// The same by `--all`, where sidekick doesn't inspect the container in between.
#[tokio::test]
async fn a_clock_that_steps_back_by_2_seconds_within_a_restart_costs_no_key_of_all() {
    let (engine, proxy) = clocked().await;
    let etcd = Etcd::start().await;
    let service = engine.name("svc");
    let redis = engine.redis().label(&format!("sidekick.service={service}"));
    let redis = redis.run().await;
    let announce = Sidekick::announce_all().etcd(&etcd).host(HOST);
    let _sidekick = announce.option("--docker-host", &proxy.url()).spawn();
    let key = format!("/services/{service}/{}@{HOST}", redis.name());
    is_up(&etcd, &key, &redis).await;
    for _ in 0..5 {
        redis.kill().await;
        proxy.step_clock(-2);
        redis.start().await;
        is_up(&etcd, &key, &redis).await;
    }
    redis.kill().await;
    etcd.loses(&key).await;
}

/// The engine tells events of before the subscription, by its clock, if it is asked to.
#[tokio::test]
async fn a_death_of_before_the_connection_to_the_engine_ends_no_later_life() {
    let (engine, proxy) = clocked().await;
    let at = proxy.url();
    let scene = AnnouncerScene::announced_on(engine, |a| a.option("--docker-host", &at)).await;
    for seconds in [0, 30, -60] {
        proxy.step_clock(seconds);
        scene.redis.restart().await;
        is_up(&scene.etcd, KEY, &scene.redis).await;
        let revision = scene.etcd.revision().await;
        proxy.cut().await;
        scene.etcd.stays_at(revision, secs(2)).await;
    }
}

/// The shared engine, behind a clock of this test's own.
async fn clocked() -> (&'static Engine, Proxy) {
    let engine = Engine::shared().await;
    let proxy = Proxy::before_engine(&engine.host()).await;
    (engine, proxy)
}

/// Waits until the key has the port that Docker chose at the container's last start.
async fn is_up(etcd: &Etcd, key: &str, redis: &Container<'_>) {
    let port = redis.host_port("6379/tcp").await;
    let wanted = format!("\"port\":{port},\"container\":\"{}\"", redis.short_id());
    let what = format!("{key} has {wanted}");
    eventually(SOON, what, async || match etcd.get(key).await {
        Some(entry) if entry.value.contains(&wanted) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}
