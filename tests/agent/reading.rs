//! The agent reads all keys and follows their changes, whatever becomes of the watch or of a member.

use sidekick::clock::now;
use sidekick::etcd::EtcdConfig;
use sidekick::etcd::credentials::Files;
use sidekick::etcd::members::Members;
use sidekick::etcd::reader::{self, Update};
use sidekick::systemd::Pulse;
use sidekick_harness::agent::*;
use std::sync::Arc;
use tokio::sync::mpsc;

both_ways! {
    without_etcd_and_without_a_file_it_waits_and_says_so
    a_compaction_while_it_was_frozen_costs_no_reload
}

async fn without_etcd_and_without_a_file_it_waits_and_says_so(mode: HaproxyMode) {
    let mut scene = AgentScene::around(Etcd::not_yet().await, mode, &[]);
    scene.begin().await;
    scene.systemd.tell("READY=1").await;
    let waits = |status: &str| status.starts_with("waiting for etcd; etcd unreachable for ");
    scene.systemd.status("that it waits for etcd", waits).await;
    scene.says("trying the next member").await;
    // An attached HAProxy keeps its file until there is something to serve.
    if mode == Attached {
        assert!(scene.config().contains("listen other"));
    }
    let a = Backend::start("a").await;
    scene.etcd.restart().await;
    scene.put("redis", "redis@1", &a.value()).await;
    scene.serves_redis(&[&a]).await;
    assert_eq!(Connection::dial(scene.port).await.unwrap().1, "a");
}

/// While the agent is frozen so much changes that etcd holds events back, and then compacts them.
async fn a_compaction_while_it_was_frozen_costs_no_reload(mode: HaproxyMode) {
    let scene = AgentScene::start(mode, &["--hold=0"]).await;
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let c = Backend::start("c").await;
    scene.put("redis", "kept", &a.value()).await;
    scene.put("redis", "gone", &c.value()).await;
    let served = [("redis/gone", c.port), ("redis/kept", a.port)];
    scene.serves(&served).await;
    let reloads = scene.reloads().await;
    let mut kept = Connection::to_backend(scene.port, "a").await;
    scene.freeze_agent(true);
    let padding = "x".repeat(8 << 10);
    for _ in 0..3000 {
        scene.etcd.put("/services/redis/bad one", &padding).await;
    }
    scene.delete("redis", "gone").await;
    scene.put("redis", "new", &b.value()).await;
    scene.etcd.compact().await;
    scene.freeze_agent(false);
    let served = [("redis/kept", a.port), ("redis/new", b.port)];
    scene.serves(&served).await;
    scene.says("etcd has compacted revision").await;
    assert_eq!(scene.reloads().await, reloads);
    assert!(kept.lives().await);
}

fn keys(update: Option<Update>) -> Vec<String> {
    match update {
        Some(Update::Snapshot(kvs)) => {
            let keys = kvs.iter().map(|kv| kv.key_str().unwrap().to_owned());
            keys.collect()
        }
        other => panic!("no snapshot: {other:?}"),
    }
}

/// The compaction comes between a snapshot and the watch from the revision after it.
#[tokio::test]
async fn a_compaction_that_overtakes_the_watch_is_a_snapshot_again() {
    let etcd = Etcd::start().await;
    etcd.put("/services/redis/a", "1").await;
    let config = EtcdConfig {
        endpoints: vec![etcd.url().to_owned()],
        tls: None,
        user: None,
        files: Files::default(),
    };
    let members = Arc::new(Members::new(&config).unwrap());
    // With no room for its snapshot the reader waits, and opens no watch.
    let (updates, mut news) = mpsc::channel(1);
    updates
        .try_send(Update::Changes(Vec::new(), now()))
        .unwrap();
    let reads = etcd.reads().await;
    let prefix = "/services".to_owned();
    tokio::spawn(reader::read(members, prefix, updates, Pulse::default()));
    let read = async || etcd.reads().await > reads;
    eventually(PATIENCE, "the snapshot was read", read).await;
    for value in ["1", "2"] {
        etcd.put("/services/redis/b", value).await;
    }
    etcd.compact().await;
    assert!(matches!(news.recv().await, Some(Update::Changes(..))));
    assert_eq!(keys(news.recv().await), ["/services/redis/a"]);
    let both = ["/services/redis/a", "/services/redis/b"];
    assert_eq!(keys(news.recv().await), both);
    // And it follows from there.
    etcd.put("/services/redis/c", "1").await;
    assert!(matches!(news.recv().await, Some(Update::Changes(c, _)) if c.len() == 1));
}

/// A page is 1,000 keys, a message at most 16 MB, and etcd-client's own limit 4 MB.
#[tokio::test]
async fn many_keys_and_large_values_are_read_in_full() {
    let scene = AgentScene::new(Supervised, &[]).await;
    let padding = "x".repeat(6 << 10);
    let value = format!(r#"{{"host":"10.0.0.7","port":1,"meta":{{"pad":"{padding}"}}}}"#);
    let many = (0..2500).map(|n| (format!("/services/redis/i{n}"), value.clone()));
    scene.etcd.put_all(&many.collect::<Vec<_>>()).await;
    let huge = "x".repeat(1 << 20);
    for n in 0..20 {
        scene.put("redis", &format!("huge{n}"), &huge).await;
    }
    let (out, said, _) = output_of(scene.command("list").args(["-o", "json"])).await;
    let json: serde_json::Value = serde_json::from_str(&out).expect(&said);
    assert_eq!(json.as_array().unwrap().len(), 2500);
    assert_eq!(said.matches("quarantined: ").count(), 20, "{said}");
}

#[tokio::test]
async fn a_member_in_a_black_hole_and_a_frozen_one_are_left_for_the_next() {
    let mut members = EtcdCluster::start(3).await.members;
    let third = members.pop().unwrap();
    let (first, second) = (&members[0], &members[1]);
    let wire = Proxy::before(first.url()).await;
    let mut scene = AgentScene::around(third, Supervised, &[]);
    scene.endpoints = format!("{},{},{}", wire.url(), second.url(), scene.etcd.url());
    scene.begin().await;
    let a = Backend::start("a").await;

    scene.put("redis", "redis@1", &a.value()).await;
    scene.serves_redis(&[&a; 1]).await;
    let reloads = scene.reloads().await;
    wire.black_hole();
    scene.put("redis", "redis@2", &a.value()).await;
    scene.serves_redis(&[&a; 2]).await;
    second.freeze();
    // If that member was the leader, the others have to elect another one first.
    let (key, value) = ("/services/redis/redis@3", a.value());
    let put = async || scene.etcd.takes(key, &value).await;
    eventually(PATIENCE, "the others agree", put).await;
    scene.serves_redis(&[&a; 3]).await;
    assert_eq!(scene.reloads().await, reloads);
    second.thaw();
}
