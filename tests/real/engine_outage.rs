//! Docker goes and comes back.

use sidekick_harness::*;

#[tokio::test]
async fn an_engine_that_is_down_at_the_start_is_waited_for() {
    let engine = Engine::not_yet();
    let etcd = Etcd::start().await;
    let mut sidekick = engine.announce("redis1", &etcd).spawn();
    sidekick.waits(&etcd, secs(2)).await;

    engine.start_again().await;
    let redis = engine.container("redis1").publish("6379:6379").run().await;

    etcd.shows(KEY, &redis.at(HOST, 6379).await).await;
}

#[tokio::test]
async fn an_engine_that_is_restarted_is_followed_on_its_new_socket() {
    let engine = Engine::start().await;
    let scene = AnnouncerScene::announced_on(&engine, |announce| announce).await;

    // It takes its socket away first and then ends its containers, so the news must wait for its return.
    engine.stop().await;
    engine.start_again().await;
    scene.is_withdrawn().await;
    scene.redis.start().await;
    scene.is_announced().await;

    scene.redis.kill().await;
    scene.is_withdrawn().await;
}

#[tokio::test]
async fn an_engine_that_restarts_its_containers_has_them_announced_again() {
    let engine = Engine::start().await;
    let etcd = Etcd::start().await;
    let run = engine.container("redis1").publish("6379:6379");
    let redis = run.option("--restart=always").run().await;
    let _sidekick = engine.announce("redis1", &etcd).spawn();
    etcd.shows(KEY, &redis.at(HOST, 6379).await).await;

    engine.kill9().await;
    engine.start_again().await;

    let running = async || redis.inspect().await["State"]["Status"] == "running";
    eventually(SOON, "the container is back", running).await;
    etcd.shows(KEY, &redis.at(HOST, 6379).await).await;
}

#[tokio::test]
async fn a_container_that_lives_on_without_its_engine_is_kept_for_ever_if_so_asked() {
    let engine = Engine::start_with_live_restore().await;
    let forever = |it: Announce| it.times(3, 1).option("--docker-grace", "forever");
    let scene = AnnouncerScene::announced_on(&engine, forever).await;
    let before = scene.etcd.get(KEY).await;

    engine.kill9().await;
    scene.etcd.keeps_entry(KEY, &before, secs(5)).await;
    engine.start_again().await;
    scene.etcd.keeps_entry(KEY, &before, secs(2)).await;

    scene.redis.kill().await;
    scene.is_withdrawn().await;
}

#[tokio::test]
async fn a_grace_that_is_over_withdraws_and_says_so() {
    let engine = Engine::start_with_live_restore().await;
    let scene = with_grace(&engine, "3s").await;

    engine.kill9().await;
    scene.etcd.keeps(KEY, secs(2)).await;
    scene.is_withdrawn().await;
    scene.sidekick.logs("--docker-grace").await;

    engine.start_again().await;
    let value = scene.is_announced().await;
    assert_eq!(value, scene.value, "the container has lived on");
}

#[tokio::test]
async fn a_container_that_died_without_its_engine_is_withdrawn_when_that_is_back() {
    let engine = Engine::start_with_live_restore().await;
    let scene = with_grace(&engine, "forever").await;
    let pid = scene.redis.pid().await;

    engine.kill9().await;
    engine.kill_process(pid);
    engine.start_again().await;

    scene.is_withdrawn().await;
}

#[tokio::test]
async fn an_engine_that_freezes_is_an_engine_that_cannot_be_asked() {
    let engine = Engine::start().await;
    let scene = with_grace(&engine, "3s").await;

    engine.freeze();

    // No event tells: the next look does, and its deadline.
    let gone = async || scene.etcd.get(KEY).await.is_none();
    eventually(secs(60), "the key goes", gone).await;
    engine.thaw();
    scene.is_announced().await;
}

#[tokio::test]
async fn a_death_that_sidekick_slept_through_is_found_out() {
    let scene = AnnouncerScene::announced().await;
    scene.sidekick.freeze();
    scene.redis.kill().await;
    scene.sidekick.thaw();
    scene.is_withdrawn().await;
}

#[tokio::test]
async fn a_successor_that_sidekick_slept_through_is_found_out() {
    let scene = AnnouncerScene::announced().await;
    scene.sidekick.freeze();
    scene.redis.remove().await;
    let successor = scene.successor().await;
    scene.sidekick.thaw();
    scene.etcd.shows(KEY, &successor.value().await).await;
}

async fn with_grace<'e>(engine: &'e Engine, grace: &str) -> AnnouncerScene<'e> {
    let more = |announce: Announce| announce.option("--docker-grace", grace);
    AnnouncerScene::announced_on(engine, more).await
}
