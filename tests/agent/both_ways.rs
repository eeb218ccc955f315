//! What has to hold whoever runs HAProxy.

use sidekick_harness::agent::*;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

both_ways! {
    instances_come_move_drain_and_go_without_a_reload
    a_new_service_costs_one_reload_and_cuts_nobody
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

async fn instances_come_move_drain_and_go_without_a_reload(way: Way) {
    let scene = Scene::start(way, &[]).await;
    let (a, b, c) = (
        Backend::start("a").await,
        Backend::start("b").await,
        Backend::start("c").await,
    );
    scene.put("redis", "redis@1", &a.value()).await;
    scene.serves(&[("redis/redis::1", at(&a))]).await;
    let reloads = scene.reloads().await;
    let (mut kept, name) = Connection::dial(scene.port).await.unwrap();
    assert_eq!(name, "a");

    scene.put("redis", "redis@2", &b.value()).await;
    scene
        .serves(&[("redis/redis::1", at(&a)), ("redis/redis::2", at(&b))])
        .await;
    let (mut cut, _) = loop {
        let dialled = Connection::dial(scene.port).await.unwrap();
        if dialled.1 == "b" {
            break dialled;
        }
    };
    // Moved: new connections go to the new place.
    scene.put("redis", "redis@2", &c.value()).await;
    scene
        .serves(&[("redis/redis::1", at(&a)), ("redis/redis::2", at(&c))])
        .await;
    eventually(PATIENCE, "c answers", async || {
        Connection::dial(scene.port).await.unwrap().1 == "c"
    })
    .await;
    // Drained: no new connections, old ones live.
    let (mut draining, _) = loop {
        let dialled = Connection::dial(scene.port).await.unwrap();
        if dialled.1 == "c" {
            break dialled;
        }
    };
    scene.put("redis", "redis@2", &c.draining()).await;
    scene
        .serves(&[
            ("redis/redis::1", at(&a)),
            ("redis/redis::2", format!("{} drain", c.port)),
        ])
        .await;
    for _ in 0..10 {
        assert_eq!(Connection::dial(scene.port).await.unwrap().1, "a");
    }
    assert!(draining.lives().await);
    // And back.
    scene.put("redis", "redis@2", &c.value()).await;
    scene
        .serves(&[("redis/redis::1", at(&a)), ("redis/redis::2", at(&c))])
        .await;
    eventually(PATIENCE, "c answers again", async || {
        Connection::dial(scene.port).await.unwrap().1 == "c"
    })
    .await;
    // Gone: so are its connections, and nobody else's.
    scene.delete("redis", "redis@2").await;
    scene.serves(&[("redis/redis::1", at(&a))]).await;
    assert!(!draining.lives().await && !cut.lives().await);
    assert!(kept.lives().await);
    assert_eq!(scene.reloads().await, reloads);
}

async fn a_new_service_costs_one_reload_and_cuts_nobody(way: Way) {
    let scene = Scene::start(way, &[]).await;
    let a = Backend::start("a").await;
    scene.put("redis", "redis@1", &a.value()).await;
    scene.serves(&[("redis/redis::1", at(&a))]).await;
    let reloads = scene.reloads().await;
    let (mut kept, _) = Connection::dial(scene.port).await.unwrap();
    // Bound to the port of its instance, which is elsewhere.
    let port = free_port();
    let value = format!(r#"{{"host":"10.255.255.1","port":{port}}}"#);
    scene.put("web", "web@1", &value).await;
    let web = ("web/web::1", port.to_string());
    scene.serves(&[("redis/redis::1", at(&a)), web]).await;
    assert_eq!(scene.reloads().await, reloads + 1);
    assert!(kept.lives().await);
    assert_eq!(Connection::dial(scene.port).await.unwrap().1, "a");
}

async fn an_empty_service_refuses_quickly_and_comes_back_without_a_reload(way: Way) {
    let scene = Scene::start(way, &[]).await;
    let a = Backend::start("a").await;
    scene.put("redis", "redis@1", &a.value()).await;
    scene.serves(&[("redis/redis::1", at(&a))]).await;
    let reloads = scene.reloads().await;
    scene.delete("redis", "redis@1").await;
    scene.serves(&[]).await;
    let start = Instant::now();
    assert!(Connection::dial(scene.port).await.is_none());
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
    assert!(
        std::net::TcpListener::bind(("0.0.0.0", scene.port)).is_err(),
        "the port is free for others to take"
    );
    scene.put("redis", "redis@1", &a.value()).await;
    scene.serves(&[("redis/redis::1", at(&a))]).await;
    assert_eq!(Connection::dial(scene.port).await.unwrap().1, "a");
    assert_eq!(scene.reloads().await, reloads);
}

/// A connection that ends well looks to a client like an answer: an empty one.
async fn an_empty_service_resets_a_client_that_waits_and_one_that_writes_first(way: Way) {
    use std::io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset};
    let scene = Scene::start(way, &[]).await;
    let a = Backend::start("a").await;
    scene.put("redis", "redis@1", &a.value()).await;
    scene.serves(&[("redis/redis::1", at(&a))]).await;
    let reloads = scene.reloads().await;
    scene.delete("redis", "redis@1").await;
    scene.serves(&[]).await;
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
        assert!(
            start.elapsed() < Duration::from_secs(1),
            "{:?}",
            start.elapsed()
        );
    }
    scene.put("redis", "redis@1", &a.value()).await;
    scene.serves(&[("redis/redis::1", at(&a))]).await;
    assert_eq!(Connection::dial(scene.port).await.unwrap().1, "a");
    assert_eq!(scene.reloads().await, reloads);
}

async fn a_haproxy_that_was_killed_comes_back_as_it_was(way: Way) {
    let mut scene = Scene::start(way, &[]).await;
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
    // A change that comes while nobody is there.
    scene.delete("redis", "redis@1").await;
    if way == Way::Attached {
        scene.file_boots().await;
        scene.start_haproxy().await;
    }
    scene.serves(&expected[1..]).await;
    assert_ne!(scene.master_pid().await, before);
    scene.put("redis", "redis@1", &a.value()).await;
    scene.serves(&expected).await;
    assert_eq!(Connection::dial(scene.port).await.unwrap().1, "a");
}

async fn an_agent_that_was_killed_picks_up_where_it_was(way: Way) {
    let mut scene = Scene::start(way, &[]).await;
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    scene.put("redis", "redis@1", &a.value()).await;
    scene.serves(&[("redis/redis::1", at(&a))]).await;
    let (reloads, master) = (scene.reloads().await, scene.master_pid().await);
    let (mut kept, _) = Connection::dial(scene.port).await.unwrap();
    scene.kill_agent().await;
    scene.file_boots().await;
    scene.put("redis", "redis@2", &b.value()).await;
    throughout(A_WHILE, "the connection lives", async || kept.lives().await).await;
    scene.start_agent();
    scene
        .serves(&[("redis/redis::1", at(&a)), ("redis/redis::2", at(&b))])
        .await;
    assert_eq!(
        (scene.reloads().await, scene.master_pid().await),
        (reloads, master)
    );
    assert!(kept.lives().await);
}

async fn etcd_gone_changes_nothing(way: Way) {
    let mut scene = Scene::start(way, &[]).await;
    let a = Backend::start("a").await;
    scene.put("redis", "redis@1", &a.value()).await;
    scene.serves(&[("redis/redis::1", at(&a))]).await;
    let (mut kept, _) = Connection::dial(scene.port).await.unwrap();
    scene.etcd.kill9().await;
    eventually(PATIENCE, "the agent says so", async || {
        scene.log().contains("etcd")
    })
    .await;
    throughout(A_WHILE, "a answers", async || {
        Connection::dial(scene.port)
            .await
            .is_some_and(|(_, name)| name == "a")
    })
    .await;
    scene.serves(&[("redis/redis::1", at(&a))]).await;
    // And so for an agent that starts without etcd, HAProxy or not.
    scene.kill_agent().await;
    if way == Way::Supervised {
        scene.kill_haproxy().await;
    }
    scene.start_agent();
    scene.serves(&[("redis/redis::1", at(&a))]).await;
    eventually(PATIENCE, "a answers", async || {
        Connection::dial(scene.port)
            .await
            .is_some_and(|(_, name)| name == "a")
    })
    .await;
    if way == Way::Attached {
        assert!(kept.lives().await);
    }
    scene.etcd.restart().await;
    let b = Backend::start("b").await;
    scene.put("redis", "redis@2", &b.value()).await;
    scene
        .serves(&[("redis/redis::1", at(&a)), ("redis/redis::2", at(&b))])
        .await;
}

async fn an_etcd_emptied_at_a_blow_is_not_believed_at_once(way: Way) {
    let scene = Scene::start(way, &["--hold=3s"]).await;
    let a = Backend::start("a").await;
    let mut expected = Vec::new();
    for (instance, name) in ["i1", "i2", "i3", "i4", "i5"]
        .iter()
        .zip(["redis/i1", "redis/i2", "redis/i3", "redis/i4", "redis/i5"])
    {
        scene.put("redis", instance, &a.value()).await;
        expected.push((name, at(&a)));
    }
    scene.serves(&expected).await;
    let gone = Instant::now();
    scene.etcd.delete_all("/services/").await;
    eventually(PATIENCE, "it is said loudly", async || {
        scene
            .log()
            .contains("5 instances disappeared from etcd at once")
    })
    .await;
    scene.serves(&expected).await;
    // One comes back; the others are let go when their time is up, and not before.
    scene.put("redis", "i1", &a.value()).await;
    scene.serves(&expected[..1]).await;
    assert!(
        gone.elapsed() > Duration::from_millis(2900),
        "{:?}",
        gone.elapsed()
    );
}

async fn another_cluster_in_etcds_place_is_compared_not_followed_blindly(way: Way) {
    let scene = Scene::start(way, &["--hold=20s"]).await;
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let four = ["redis/i1", "redis/i2", "redis/i3", "redis/i4"].map(|name| (name, at(&a)));
    for n in 0..20 {
        scene
            .put("redis", &format!("i{}", n % 4 + 1), &a.value())
            .await;
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

async fn a_thousand_changes_at_once_are_a_few_passes_and_no_reload(way: Way) {
    let scene = Scene::start(way, &["--hold=0"]).await;
    let a = Backend::start("a").await;
    scene.put("redis", "kept", &a.value()).await;
    scene.serves(&[("redis/kept", at(&a))]).await;
    let reloads = scene.reloads().await;
    let (mut kept, _) = Connection::dial(scene.port).await.unwrap();
    let passes = || scene.log().matches(" changes, ").count();
    let before = passes();
    let thousand: Vec<_> = (0..1000)
        .map(|n| (format!("/services/redis/i{n}"), a.value()))
        .collect();
    scene.etcd.put_all(&thousand).await;
    becomes(PATIENCE, "the servers' number", 1001, async || {
        scene.servers().await.len()
    })
    .await;
    // Eight transactions: each one pass, unless the next was there before it was begun.
    assert!(passes() - before <= 8, "{} passes", passes() - before);
    scene.etcd.delete_all("/services/redis/i").await;
    scene.serves(&[("redis/kept", at(&a))]).await;
    assert_eq!(scene.reloads().await, reloads);
    assert!(kept.lives().await);
}

async fn sigterm_ends_what_is_ours_and_nothing_else(way: Way) {
    let mut scene = Scene::start(way, &[]).await;
    let a = Backend::start("a").await;
    scene.put("redis", "redis@1", &a.value()).await;
    scene.serves(&[("redis/redis::1", at(&a))]).await;
    assert_eq!(scene.stop_agent().await, Some(0));
    match way {
        Way::Supervised => assert!(
            tokio::net::TcpStream::connect(("127.0.0.1", scene.port))
                .await
                .is_err()
        ),
        Way::Attached => assert_eq!(Connection::dial(scene.port).await.unwrap().1, "a"),
    }
}
