//! A stop is known when it begins: from the signal to the death the instance drains. (Docker alone tells the signal.)
//!
//! A signal that Redis has no handler for leaves it alone, for it is the first process of its pid namespace: so a container
//! whose stop signal is one of those takes its whole stop timeout.

use std::time::Instant;

use sidekick_harness::{
    A_WHILE, AnnouncerScene, Container, Engine, Etcd, KEY, SOON, Sidekick, eventually, measured,
    never_for, secs,
};

#[tokio::test]
async fn docker_stop_drains_until_the_death() {
    let (redis, etcd, _sidekick) = announced(&["--stop-signal=SIGUSR1"]).await;
    let value = redis.value().await;
    let lease = etcd.get(KEY).await.expect("it is announced").lease;
    let changes = etcd.watch(KEY).await;
    let stopped = async {
        redis
            .engine()
            .docker(&["stop", "-t", "3", redis.id()])
            .await;
    };
    let drained = async {
        let began = Instant::now();
        drains(&etcd).await;
        // The docker command has to start first.
        measured::took(
            1,
            "draining after docker stop has begun",
            began.elapsed(),
            secs(3),
        );
    };
    tokio::join!(stopped, drained);
    etcd.loses(KEY).await;

    let changes = changes.so_far().await;
    let [draining, gone] = changes.as_slice() else {
        panic!("{changes:?}");
    };
    assert_eq!(gone.put, None);
    assert_eq!(draining.lease, lease, "it is the same lease");
    let put = draining.put.as_deref().unwrap_or_default();
    let status = r#""status":"draining""#;
    assert!(
        put.contains(status) && put.contains(&value.container),
        "{put}"
    );
    redis.start().await;
    etcd.shows(KEY, &redis.value().await).await;
}

#[tokio::test]
async fn docker_restart_drains_and_ends_in_the_new_lifes_value() {
    let (redis, etcd, _sidekick) = announced(&["--stop-signal=10", "--stop-timeout=1"]).await;
    let changes = etcd.watch(KEY).await;
    redis.restart().await;
    etcd.shows(KEY, &redis.value().await).await;
    let puts = changes.so_far().await;
    let drained = |put: &Option<String>| put.as_ref().is_some_and(|it| it.contains("draining"));
    let drained = puts.iter().filter(|change| drained(&change.put)).count();
    assert_eq!(
        (puts.len(), drained),
        (3, 1),
        "draining, gone, announced: {puts:?}"
    );
}

#[tokio::test]
async fn any_other_signal_changes_nothing() {
    let (redis, etcd, sidekick) = announced(&["--stop-signal=RTMIN+3"]).await;
    let revision = etcd.revision().await;
    redis.hang_up().await;
    signal(&redis, "USR1").await;
    signal(&redis, "RTMIN+4").await;
    never_for(A_WHILE, "something is written", async || {
        etcd.revision().await != revision
    })
    .await;
    signal(&redis, "SIGRTMIN+3").await;
    drains(&etcd).await;
    sidekick.logs("its stop has begun (signal 37)").await;
    // Not its stop signal, but Redis ends by it.
    signal(&redis, "TERM").await;
    etcd.loses(KEY).await;
}

#[tokio::test]
async fn docker_kill_is_a_death_at_once_and_is_not_taken_back() {
    let scene = AnnouncerScene::announced().await;
    let changes = scene.etcd.watch(KEY).await;
    scene.redis.kill().await;
    scene.is_withdrawn().await;
    // An inspect after the signal goes on saying Running for some 30 ms.
    never_for(A_WHILE, "the key comes back", async || {
        scene.etcd.get(KEY).await.is_some()
    })
    .await;
    assert_eq!(changes.so_far().await.len(), 1);
    scene.redis.start().await;
    scene.is_announced().await;
}

#[tokio::test]
async fn who_outlives_the_stop_timeout_goes_on_draining_and_says_so() {
    let options = ["--stop-signal=USR1", "--stop-timeout=1"];
    let (redis, etcd, sidekick) = announced(&options).await;
    signal(&redis, "USR1").await;
    drains(&etcd).await;
    sidekick.logs("has outlived its stop timeout of 1 s").await;
    let status = "draining redis@1: its stop has begun (signal 10), and it has outlived";
    let told = |line: &str| line.starts_with(status);
    sidekick.notifications().status(status, told).await;
    never_for(A_WHILE, "it serves again", async || {
        !is_draining(&etcd).await
    })
    .await;

    redis
        .engine()
        .docker(&["restart", "-t", "0", redis.id()])
        .await;
    etcd.shows(KEY, &redis.value().await).await;
}

/// A server that closes its listener on its stop signal, and finishes what it has, fails its own health check, too.
#[tokio::test]
async fn who_turns_unhealthy_during_its_stop_drains_until_its_death() {
    let (engine, etcd) = tokio::join!(Engine::shared(), Etcd::start());
    let redis = engine.redis().with_health_check();
    let redis = redis.option("--stop-signal=USR1").run().await;
    redis.feels("well").await;
    let _sidekick = redis.announce(&etcd).spawn();
    etcd.shows(KEY, &redis.value().await).await;

    signal(&redis, "USR1").await;
    drains(&etcd).await;
    redis.feels("ill").await;
    redis.becomes("unhealthy").await;
    never_for(A_WHILE, "it drains no more", async || {
        !is_draining(&etcd).await
    })
    .await;
    signal(&redis, "TERM").await;
    etcd.loses(KEY).await;
}

async fn announced(options: &[&str]) -> (Container<'static>, Etcd, Sidekick) {
    let (engine, etcd) = tokio::join!(Engine::shared(), Etcd::start());
    let run = options
        .iter()
        .fold(engine.redis(), |run, option| run.option(option));
    let redis = run.run().await;
    let sidekick = redis.announce(&etcd).under_systemd().spawn();
    etcd.shows(KEY, &redis.value().await).await;
    (redis, etcd, sidekick)
}

async fn signal(redis: &Container<'_>, signal: &str) {
    let signal = format!("--signal={signal}");
    redis.engine().docker(&["kill", &signal, redis.id()]).await;
}

async fn drains(etcd: &Etcd) {
    eventually(SOON, "the instance drains", async || {
        is_draining(etcd).await
    })
    .await;
}

async fn is_draining(etcd: &Etcd) -> bool {
    let entry = etcd.get(KEY).await;
    entry.is_some_and(|entry| entry.value.contains(r#""status":"draining""#))
}
