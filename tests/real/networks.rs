//! A container is taken off its network and put back on it.

use std::time::Instant;

use sidekick_harness::*;

/// Issue 11, item 7: it was found by the next relist.
#[tokio::test]
async fn a_container_taken_off_its_network_is_withdrawn_and_announced_when_it_is_back() {
    let scene = AnnouncerScene::announced().await;
    let name = scene.redis.name();
    for _ in 0..3 {
        network(scene.engine, "disconnect", name).await;
        let since = Instant::now();
        scene.is_withdrawn().await;
        let what = "key gone after network disconnect";
        measured::took(1, what, since.elapsed(), secs(2));

        network(scene.engine, "connect", name).await;
        let since = Instant::now();
        scene.is_announced().await;
        let what = "key back after network connect";
        measured::took(1, what, since.elapsed(), secs(2));
    }
}

async fn network(engine: &Engine, verb: &str, container: &str) {
    let words = ["network", verb, "bridge", container];
    engine.docker(&words).await;
}

/// These events have no labels.
#[tokio::test]
async fn the_port_that_a_container_has_after_a_new_connection_is_announced_by_all() {
    let (engine, etcd) = tokio::join!(Engine::shared(), Etcd::start());
    let service = engine.name("svc");
    let redis = engine.redis().label(&format!("sidekick.service={service}"));
    let redis = redis.run().await;
    let _sidekick = engine.announce_all(&etcd).spawn();
    let key = format!("/services/{service}/{}@{HOST}", redis.name());
    let value = async || -> Value { redis.value().await };
    etcd.shows(&key, &value().await).await;

    network(engine, "disconnect", redis.name()).await;
    etcd.loses(&key).await;
    network(engine, "connect", redis.name()).await;
    let port = async || redis.inspect().await["NetworkSettings"]["Ports"]["6379/tcp"].is_array();
    eventually(secs(5), "Docker has published the port again", port).await;
    etcd.shows(&key, &value().await).await;
}
