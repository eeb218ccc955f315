//! A container is taken off its network and put back on it.

use std::time::Instant;

use sidekick_harness::{
    AnnouncerScene, Engine, Etcd, HOST, Sidekick, Value, eventually, measured, secs,
};

/// Issue 11, item 7: it was found by the next relist.
#[tokio::test]
async fn a_container_taken_off_its_network_is_withdrawn_and_announced_when_it_is_back() {
    let scene = AnnouncerScene::announced().await;
    let name = scene.redis.name();
    for _ in 0..3 {
        scene
            .engine
            .docker(&["network", "disconnect", "bridge", name])
            .await;
        let since = Instant::now();
        scene.is_withdrawn().await;
        measured::took(
            1,
            "key gone after network disconnect",
            since.elapsed(),
            secs(2),
        );

        scene
            .engine
            .docker(&["network", "connect", "bridge", name])
            .await;
        let since = Instant::now();
        scene.is_announced().await;
        measured::took(
            1,
            "key back after network connect",
            since.elapsed(),
            secs(2),
        );
    }
}

/// These events have no labels.
#[tokio::test]
async fn the_port_that_a_container_has_after_a_new_connection_is_announced_by_all() {
    let (engine, etcd) = tokio::join!(Engine::shared(), Etcd::start());
    let service = engine.name("svc");
    let redis = engine.container(&engine.name("redis")).publish("6379");
    let redis = redis.label(&format!("sidekick.service={service}"));
    let redis = redis.run().await;
    let announce = Sidekick::announce_all().etcd(&etcd).host(HOST);
    let _sidekick = announce.docker(engine).spawn();
    let key = format!("/services/{service}/{}@{HOST}", redis.name());
    let value = async || -> Value { redis.value().await };
    etcd.shows(&key, &value().await).await;

    engine
        .docker(&["network", "disconnect", "bridge", redis.name()])
        .await;
    etcd.loses(&key).await;
    engine
        .docker(&["network", "connect", "bridge", redis.name()])
        .await;
    let port = async || redis.inspect().await["NetworkSettings"]["Ports"]["6379/tcp"].is_array();
    eventually(secs(5), "Docker has published the port again", port).await;
    etcd.shows(&key, &value().await).await;
}
