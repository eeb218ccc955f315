//! What has to hold whether the agent or another service manager runs HAProxy.

use sidekick_harness::agent::*;
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

both_ways! {
    instances_come_move_drain_and_go_without_a_reload
    a_new_service_costs_one_reload_and_cuts_no_connection
    an_empty_service_refuses_quickly_and_comes_back_without_a_reload
    an_empty_service_resets_a_client_that_waits_and_one_that_writes_first
    a_haproxy_that_was_killed_comes_back_as_it_was
    an_agent_that_was_killed_picks_up_where_it_was
    etcd_gone_changes_nothing
    an_etcd_emptied_at_a_blow_is_not_believed_at_once
    another_cluster_in_etcds_place_is_compared_not_followed_blindly
    a_thousand_changes_at_once_are_a_few_passes_and_no_reload
    sigterm_ends_what_is_ours_and_nothing_else
}

fn at(backend: &Backend) -> String {
    backend.port.to_string()
}

async fn instances_come_move_drain_and_go_without_a_reload(mode: HaproxyMode) {
    let (scene, a) = AgentScene::serving(mode, &[]).await;
    let (b, c) = (Backend::start("b").await, Backend::start("c").await);
    let reloads = scene.reloads().await;
    let mut kept = Connection::to_backend(scene.port, "a").await;

    scene.put("redis", "redis@2", &b.value()).await;
    scene.serves_redis(&[&a, &b]).await;
    let mut cut = Connection::to_backend(scene.port, "b").await;
    // An instance that moved gets new connections at its new address.
    scene.put("redis", "redis@2", &c.value()).await;
    scene.serves_redis(&[&a, &c]).await;
    let mut draining = Connection::to_backend(scene.port, "c").await;
    // A server that drains gets no new connection, and its idle ones are ended.
    scene.put("redis", "redis@2", &c.draining()).await;
    let drains = format!("{} drain", c.port);
    scene
        .serves(&[("redis/redis::1", at(&a)), ("redis/redis::2", drains)])
        .await;
    Connection::only_to(scene.port, "a").await;
    draining.ends_within(SOON).await;
    // The instance no longer drains.
    scene.put("redis", "redis@2", &c.value()).await;
    scene.serves_redis(&[&a, &c]).await;
    drop(Connection::to_backend(scene.port, "c").await);
    // A deleted instance loses its connections, and no other instance does.
    scene.delete("redis", "redis@2").await;
    scene.serves_redis(&[&a]).await;
    assert!(!cut.lives().await);
    assert!(kept.lives().await);
    assert_eq!(scene.reloads().await, reloads);
}

async fn a_new_service_costs_one_reload_and_cuts_no_connection(mode: HaproxyMode) {
    let (scene, a) = AgentScene::serving(mode, &[]).await;
    let reloads = scene.reloads().await;
    let (mut kept, _) = Connection::dial(scene.port).await.unwrap();
    // HAProxy listens on the port of the instance, which is on another machine.
    let port = free_port();
    scene.put("web", "web@1", &elsewhere(port)).await;
    scene
        .serves(&[("redis/redis::1", a.port), ("web/web::1", port)])
        .await;
    assert_eq!(scene.reloads().await, reloads + 1);
    assert!(kept.lives().await);
    assert_eq!(Connection::dial(scene.port).await.unwrap().1, "a");
}

async fn an_empty_service_refuses_quickly_and_comes_back_without_a_reload(mode: HaproxyMode) {
    let (scene, a) = AgentScene::serving(mode, &[]).await;
    let reloads = scene.reloads().await;
    scene.delete("redis", "redis@1").await;
    scene.serves_nothing().await;
    let start = Instant::now();
    assert!(Connection::dial(scene.port).await.is_none());
    let took = start.elapsed();
    assert!(took < secs(1), "{took:?}");
    assert!(
        std::net::TcpListener::bind(("0.0.0.0", scene.port)).is_err(),
        "the port is free for others to take"
    );
    scene.put("redis", "redis@1", &a.value()).await;
    scene.serves_redis(&[&a]).await;
    assert_eq!(Connection::dial(scene.port).await.unwrap().1, "a");
    assert_eq!(scene.reloads().await, reloads);
}

/// A connection that ends well looks to a client like an answer: an empty one.
async fn an_empty_service_resets_a_client_that_waits_and_one_that_writes_first(mode: HaproxyMode) {
    use std::io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset};
    let (scene, a) = AgentScene::serving(mode, &[]).await;
    let reloads = scene.reloads().await;
    scene.delete("redis", "redis@1").await;
    scene.serves_nothing().await;
    for words in [&b""[..], b"PING\r\n"] {
        let start = Instant::now();
        let talk = async {
            let mut client = tokio::net::TcpStream::connect(("127.0.0.1", scene.port)).await?;
            client.write_all(words).await?;
            client.read(&mut [0; 64]).await
        };
        let refusal = tokio::time::timeout(PATIENCE, talk).await.unwrap();
        let refusal = refusal.expect_err("a client was answered").kind();
        let hard = [ConnectionReset, ConnectionRefused, BrokenPipe];
        assert!(hard.contains(&refusal), "{words:?}: {refusal:?}");
        let took = start.elapsed();
        assert!(took < secs(1), "{took:?}");
    }
    scene.put("redis", "redis@1", &a.value()).await;
    scene.serves_redis(&[&a]).await;
    assert_eq!(Connection::dial(scene.port).await.unwrap().1, "a");
    assert_eq!(scene.reloads().await, reloads);
}

async fn a_haproxy_that_was_killed_comes_back_as_it_was(mode: HaproxyMode) {
    let mut scene = AgentScene::start(mode, &[]).await;
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    scene.put("redis", "redis@1", &a.value()).await;
    scene.put("redis", "redis@2", &b.draining()).await;
    let expected = [
        ("redis/redis::1", at(&a)),
        ("redis/redis::2", format!("{} drain", b.port)),
    ];
    scene.serves(&expected).await;
    let before = scene.master_pid().await;
    scene.kill_haproxy().await;
    // A change that comes while HAProxy is down.
    scene.delete("redis", "redis@1").await;
    if mode == Attached {
        scene.file_boots().await;
        scene.start_haproxy().await;
    }
    // The other one is the last that is up: it goes on serving.
    scene.serves(&[("redis/redis::2", at(&b))]).await;
    assert_ne!(scene.master_pid().await, before);
    scene.put("redis", "redis@1", &a.value()).await;
    scene.serves(&expected).await;
    assert_eq!(Connection::dial(scene.port).await.unwrap().1, "a");
}

async fn an_agent_that_was_killed_picks_up_where_it_was(mode: HaproxyMode) {
    let (mut scene, a) = AgentScene::serving(mode, &[]).await;
    let b = Backend::start("b").await;
    let (reloads, master) = (scene.reloads().await, scene.master_pid().await);
    let (mut kept, _) = Connection::dial(scene.port).await.unwrap();
    scene.kill_agent().await;
    scene.file_boots().await;
    scene.put("redis", "redis@2", &b.value()).await;
    throughout(A_WHILE, "the connection lives", async || kept.lives().await).await;
    scene.start_agent();
    scene.serves_redis(&[&a, &b]).await;
    assert_eq!(scene.reloads().await, reloads);
    assert_eq!(scene.master_pid().await, master);
    assert!(kept.lives().await);
}

async fn etcd_gone_changes_nothing(mode: HaproxyMode) {
    let (mut scene, a) = AgentScene::serving(mode, &[]).await;
    let (mut kept, _) = Connection::dial(scene.port).await.unwrap();
    scene.etcd.kill9().await;
    scene.says("etcd").await;
    scene.keeps_answering(A_WHILE).await;
    scene.serves_redis(&[&a]).await;
    // The same holds for an agent that starts without etcd, whether HAProxy runs or not.
    scene.kill_agent().await;
    if mode == Supervised {
        scene.kill_haproxy().await;
    }
    scene.start_agent();
    scene.serves_redis(&[&a]).await;
    drop(Connection::to_backend(scene.port, "a").await);
    if mode == Attached {
        assert!(kept.lives().await);
    }
    scene.etcd.restart().await;
    let b = Backend::start("b").await;
    scene.put("redis", "redis@2", &b.value()).await;
    scene.serves_redis(&[&a, &b]).await;
}

async fn an_etcd_emptied_at_a_blow_is_not_believed_at_once(mode: HaproxyMode) {
    let scene = AgentScene::start(mode, &["--hold=3s"]).await;
    let a = Backend::start("a").await;
    let five = ["i1", "i2", "i3", "i4", "i5"];
    let expected = five.map(|name| (format!("redis/{name}"), at(&a)));
    for instance in five {
        scene.put("redis", instance, &a.value()).await;
    }
    scene.serves_all(&expected.clone().into()).await;
    let gone = Instant::now();
    scene.etcd.delete_all("/services/").await;
    scene
        .says("5 instances disappeared from etcd at once")
        .await;
    scene.serves_all(&expected.into()).await;
    // One comes back; the others are removed when --hold is over, and not before.
    scene.put("redis", "i1", &a.value()).await;
    scene.serves(&[("redis/i1", a.port)]).await;
    let took = gone.elapsed();
    assert!(took > millis(2900), "{took:?}");
}

async fn another_cluster_in_etcds_place_is_compared_not_followed_blindly(mode: HaproxyMode) {
    let scene = AgentScene::start(mode, &["--hold=20s"]).await;
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let four = ["redis/i1", "redis/i2", "redis/i3", "redis/i4"].map(|name| (name, at(&a)));
    for n in 0..20 {
        let instance = format!("i{}", n % 4 + 1);
        scene.put("redis", &instance, &a.value()).await;
    }
    scene.serves(&four).await;
    let reloads = scene.reloads().await;
    let (mut kept, _) = Connection::dial(scene.port).await.unwrap();
    scene.etcd.kill9().await;
    scene.etcd.wipe_and_restart().await;
    scene.put("redis", "new", &b.value()).await;
    for n in 1..5 {
        scene.put("redis", &format!("i{n}"), &a.value()).await;
    }
    let mut five = four.to_vec();
    five.push(("redis/new", at(&b)));
    scene.serves(&five).await;
    assert!(scene.log().contains("another cluster"), "{}", scene.log());
    scene.delete("redis", "new").await;
    scene.serves(&four).await;
    assert_eq!(scene.reloads().await, reloads);
    assert!(kept.lives().await);
}

async fn a_thousand_changes_at_once_are_a_few_passes_and_no_reload(mode: HaproxyMode) {
    let scene = AgentScene::start(mode, &["--hold=0"]).await;
    let a = Backend::start("a").await;
    scene.put("redis", "kept", &a.value()).await;
    scene.serves(&[("redis/kept", a.port)]).await;
    let reloads = scene.reloads().await;
    let (mut kept, _) = Connection::dial(scene.port).await.unwrap();
    let passes = || scene.log().matches(" changes, ").count();
    let before = passes();
    let thousand = (0..1000).map(|n| (format!("/services/redis/i{n}"), a.value()));
    scene.etcd.put_all(&thousand.collect::<Vec<_>>()).await;
    scene.has_servers(PATIENCE, 1001).await;
    // Eight transactions are one pass each, or fewer where one is begun after the next has arrived.
    assert!(passes() - before <= 8, "{} passes", passes() - before);
    scene.etcd.delete_all("/services/redis/i").await;
    scene.serves(&[("redis/kept", a.port)]).await;
    assert_eq!(scene.reloads().await, reloads);
    assert!(kept.lives().await);
}

async fn sigterm_ends_what_is_ours_and_nothing_else(mode: HaproxyMode) {
    let (mut scene, _a) = AgentScene::serving(mode, &[]).await;
    assert_eq!(scene.stop_agent().await, Some(0));
    match mode {
        Supervised => assert!(!listens("127.0.0.1", scene.port).await),
        Attached => assert_eq!(Connection::dial(scene.port).await.unwrap().1, "a"),
    }
}
