//! A container's life, and what its key does meanwhile.

use std::time::Instant;

use sidekick_harness::*;

#[tokio::test]
async fn the_seeds_case_works_to_the_letter() {
    let (engine, etcd) = tokio::join!(Engine::shared(), Etcd::start());
    let redis = engine.container("redis1").publish("6379:6379").run().await;
    let announce = engine.announce("redis1", &etcd).host("ip-172-31-24-253");
    let announce = announce.option("--ttl", "60").option("--interval", "45");
    let _sidekick = announce.spawn();

    let value = redis.at("ip-172-31-24-253", 6379).await;
    let entry = etcd.shows("/services/redis/redis@1", &value).await;

    let begin = r#"{"host":"ip-172-31-24-253","port":6379,"#;
    assert!(entry.value.starts_with(begin), "{}", entry.value);
    let left = etcd.seconds_left(entry.lease).await;
    assert!((50..=60).contains(&left), "{left} s of 60 s are left");
}

#[tokio::test]
async fn a_container_that_does_not_exist_yet_is_waited_for() {
    let (engine, etcd) = tokio::join!(Engine::shared(), Etcd::start());
    let name = engine.name("redis1");
    let mut sidekick = engine.announce(&name, &etcd).spawn();
    sidekick.waits(&etcd, secs(1)).await;

    let redis = engine.container(&name).publish("6379").run().await;

    etcd.shows(KEY, &redis.value().await).await;
}

#[tokio::test]
async fn a_container_that_was_only_created_is_waited_for() {
    let (engine, etcd) = tokio::join!(Engine::shared(), Etcd::start());
    let redis = engine.redis().create().await;
    let _sidekick = redis.announce(&etcd).spawn();
    etcd.lacks(KEY, secs(1)).await;

    redis.start().await;

    etcd.shows(KEY, &redis.value().await).await;
}

#[tokio::test]
async fn docker_kill_withdraws_and_docker_start_announces() {
    let scene = AnnouncerScene::announced().await;

    let began = Instant::now();
    scene.redis.kill().await;
    gone(&scene, began, "docker kill").await;

    scene.redis.start().await;
    scene.is_announced_as_another_life().await;
}

#[tokio::test]
async fn docker_stop_withdraws() {
    let scene = AnnouncerScene::announced().await;
    scene.redis.stop().await;
    scene.is_withdrawn().await;
}

#[tokio::test]
async fn a_process_that_ends_withdraws() {
    let scene = AnnouncerScene::announced().await;
    let began = Instant::now();
    scene.redis.crash().await;
    gone(&scene, began, "the container's end").await;
}

#[tokio::test]
async fn removal_withdraws() {
    let scene = AnnouncerScene::announced().await;
    let began = Instant::now();
    scene.redis.remove().await;
    gone(&scene, began, "docker rm --force").await;
}

/// The key goes by the event: every timer would take longer.
async fn gone(scene: &AnnouncerScene<'_>, began: Instant, after: &str) {
    scene.is_withdrawn().await;
    let what = format!("key gone after {after}, the command's own time included");
    measured::took(1, what, began.elapsed(), secs(5));
}

#[tokio::test]
async fn docker_restart_ends_in_the_new_lifes_value() {
    let scene = AnnouncerScene::announced().await;
    scene.redis.restart().await;
    scene.is_announced_as_another_life().await;
}

#[tokio::test]
async fn a_container_that_its_restart_policy_brings_back_is_announced_again() {
    let (engine, etcd) = tokio::join!(Engine::shared(), Etcd::start());
    let redis = engine.redis().option("--restart=always").run().await;
    let _sidekick = redis.announce(&etcd).spawn();
    let before = redis.value().await;
    etcd.shows(KEY, &before).await;

    redis.crash().await;

    let since = eventually(SOON, "the container is back", async || {
        let since = redis.since().await;
        (redis.inspect().await["State"]["Status"] == "running" && since != before.since)
            .then_some(since)
    })
    .await;
    let after = redis.value().await;
    assert_eq!(after.since, since, "the container has come back once");
    etcd.shows(KEY, &after).await;
}

#[tokio::test]
async fn pause_withdraws_and_unpause_announces() {
    let scene = AnnouncerScene::announced().await;

    let began = Instant::now();
    scene.redis.pause().await;
    gone(&scene, began, "docker pause").await;

    scene.redis.unpause().await;
    assert_eq!(scene.is_announced().await, scene.value, "the same life");
}

/// Issue 11, item 12: the container is paused for some 60 ms, and its key was deleted and put again.
#[tokio::test]
async fn docker_commit_changes_nothing() {
    let scene = AnnouncerScene::announced().await;
    let revision = scene.etcd.revision().await;
    let name = scene.redis.name();
    for _ in 0..5 {
        let image = scene.engine.docker(&["commit", name]).await;
        scene.engine.docker(&["image", "rm", &image]).await;
    }
    scene.etcd.stays_at(revision, secs(2)).await;

    scene.redis.pause().await;
    let paused = Instant::now();
    scene.is_withdrawn().await;
    let what = "key gone after a pause, the second included that a pause may last";
    measured::took(1, what, paused.elapsed(), secs(2));
    scene.sidekick.logs("is paused").await;
}

/// The pause is as old as its container, as far as this sidekick can know.
#[tokio::test]
async fn a_container_that_was_paused_before_is_not_announced_at_all() {
    let mut scene = AnnouncerScene::announced().await;
    scene.sidekick.leaves().await;
    scene.redis.pause().await;
    let revision = scene.etcd.revision().await;
    scene.sidekick = scene.announce_again(|announce| announce);
    scene.sidekick.logs("is paused").await;
    assert_eq!(scene.etcd.revision().await, revision, "nothing is written");
}

/// Issue 11, item 12: "was never started", "no port is published" and the like stood before each.
#[tokio::test]
async fn a_start_and_a_death_are_a_line_each() {
    let (engine, etcd) = tokio::join!(Engine::shared(), Etcd::start());
    let name = engine.name("redis1");
    let sidekick = engine.announce(&name, &etcd).spawn();
    let told = || {
        let mut log = sidekick.log();
        log.retain(|line| line.contains("announcing"));
        log
    };
    sidekick.logs("there is no container").await;
    assert_eq!(told().len(), 1, "{:#?}", told());

    let redis = engine.container(&name).publish("6379").run().await;
    let value = async || redis.value().await;
    etcd.shows(KEY, &value().await).await;
    assert_eq!(told().len(), 2, "{:#?}", told());

    for restart in 1..=3 {
        engine.docker(&["restart", "-t", "0", &name]).await;
        etcd.shows(KEY, &value().await).await;
        assert_eq!(told().len(), 2 + 2 * restart, "{:#?}", told());
    }
    let began = Instant::now();
    redis.kill().await;
    let exited = |line: &String| line.contains("has exited");
    let last = async || told().last().is_some_and(exited);
    eventually(SOON, "the death is told", last).await;
    let what = "a death told in the log, docker kill included";
    measured::took(1, what, began.elapsed(), SOON);
    assert_eq!(told().len(), 9, "{:#?}", told());
}

#[tokio::test]
async fn an_oom_kill_withdraws() {
    let (engine, etcd) = tokio::join!(Engine::shared(), Etcd::start());
    let run = engine.redis().option("--memory=16m");
    let redis = run.option("--memory-swap=16m").run().await;
    let _sidekick = redis.announce(&etcd).spawn();
    etcd.shows(KEY, &redis.value().await).await;

    redis.eat(100_000_000).await;

    etcd.loses(KEY).await;
    let killed = &redis.inspect().await["State"]["OOMKilled"];
    assert_eq!(*killed, true, "the kernel has killed it");
}

#[tokio::test]
async fn only_a_healthy_container_is_announced() {
    let (engine, etcd) = tokio::join!(Engine::shared(), Etcd::start());
    let redis = engine.redis().with_health_check().run().await;
    let _sidekick = redis.announce(&etcd).spawn();
    let value = redis.value().await;
    etcd.lacks(KEY, millis(500)).await;
    redis.becomes("unhealthy").await;
    assert_eq!(etcd.get(KEY).await, None, "it is unhealthy");

    redis.feels("well").await;
    redis.becomes("healthy").await;
    etcd.shows(KEY, &value).await;

    redis.feels("ill").await;
    redis.becomes("unhealthy").await;
    let unhealthy = Instant::now();
    etcd.loses(KEY).await;
    let what = "key gone after Docker called the container unhealthy";
    measured::took(1, what, unhealthy.elapsed(), secs(5));
}

#[tokio::test]
async fn a_harmless_signal_withdraws_nothing() {
    let scene = AnnouncerScene::announced().await;
    let log = scene.etcd.watch(KEY).await;

    scene.redis.hang_up().await;

    scene.etcd.keeps(KEY, secs(1)).await;
    assert!(log.so_far().await.is_empty(), "nothing is written either");
}

#[tokio::test]
async fn a_new_container_by_the_same_name_is_announced_with_its_own_port() {
    let scene = AnnouncerScene::announced().await;

    scene.redis.remove().await;
    scene.is_withdrawn().await;
    let successor = scene.successor().await;

    scene.etcd.shows(KEY, &successor.value().await).await;
}

#[tokio::test]
async fn a_container_that_is_renamed_away_is_withdrawn_until_it_is_renamed_back() {
    let scene = AnnouncerScene::announced().await;
    let name = scene.redis.name();

    scene.redis.rename(&format!("{name}-old")).await;
    scene.is_withdrawn().await;

    scene.redis.rename(name).await;
    scene.is_announced().await;
}

#[tokio::test]
async fn a_container_that_takes_the_name_of_one_renamed_away_is_announced() {
    let scene = AnnouncerScene::announced().await;
    let name = scene.redis.name();
    scene.redis.rename(&format!("{name}-old")).await;

    let successor = scene.successor().await;

    scene.etcd.shows(KEY, &successor.value().await).await;
}

#[tokio::test]
async fn a_stranger_whose_id_begins_with_the_name_is_not_announced() {
    let (engine, etcd) = tokio::join!(Engine::shared(), Etcd::start());
    let stranger = engine.redis().run().await;
    let name = &stranger.id()[..6];
    let _sidekick = engine.announce(name, &etcd).spawn();
    etcd.lacks(KEY, secs(1)).await;

    let redis = engine.container(name).publish("6379").run().await;

    etcd.shows(KEY, &redis.value().await).await;
}

#[tokio::test]
async fn a_neighbours_life_changes_nothing() {
    let scene = AnnouncerScene::announced().await;
    let revision = scene.etcd.revision().await;
    let name = format!("{}0", scene.redis.name());

    let neighbour = scene.engine.container(&name).publish("6379").run().await;
    neighbour.kill().await;
    neighbour.remove().await;

    scene.etcd.stays_at(revision, secs(1)).await;
}
