//! The agent's word that an instance is drained: after its idle connections were ended, and those in flight have ended.

use serde_json::{Value, json};
use sidekick_harness::agent::*;
use std::time::Instant;

/// The word follows the last connection's end within this time.
const PROMPTLY: std::time::Duration = secs(2);

both_ways! {
    idle_connections_are_ended_and_the_word_follows
    a_request_that_is_under_way_is_answered_first
    a_haproxy_that_dies_meanwhile_is_drained_all_the_same
}

struct Stage {
    scene: AgentScene,
    a: Answering,
    b: Answering,
}

impl Stage {
    async fn start(mode: HaproxyMode) -> Stage {
        let scene = AgentScene::start(mode, &[]).await;
        let (a, b) = (Answering::start("a").await, Answering::start("b").await);
        scene.put("redis", "a", &a.value()).await;
        scene.put("redis", "b", &b.value()).await;
        scene
            .serves(&[("redis/a", a.port), ("redis/b", b.port)])
            .await;
        Stage { scene, a, b }
    }

    async fn drain_a(&self) {
        self.scene.put("redis", "a", &self.a.draining()).await;
    }

    async fn is_drained(&self) -> bool {
        word(&self.scene, "redis/a").await.is_some()
    }

    async fn is_drained_within(&self, deadline: std::time::Duration) {
        let what = "the agent gives its word";
        eventually(deadline, what, async || self.is_drained().await).await;
    }
}

/// The agents' keys, and what stands there, without the prefix that they share.
async fn agents_keys(scene: &AgentScene) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for key in scene.etcd.keys().await {
        let Some(rest) = key.strip_prefix("/sidekick/services/agents/") else {
            continue;
        };
        if let Some(entry) = scene.etcd.get(&key).await {
            assert_ne!(entry.lease, 0, "{key}");
            found.push((rest.to_owned(), serde_json::from_str(&entry.value).unwrap()));
        }
    }
    found
}

/// The ids of the agents that live, and which services they serve.
async fn agents(scene: &AgentScene) -> Vec<(String, Value)> {
    let mut keys = agents_keys(scene).await;
    keys.retain(|(key, _)| !key.contains('/'));
    keys
}

/// The word about an instance, if there is one.
async fn word(scene: &AgentScene, instance: &str) -> Option<Value> {
    let keys = agents_keys(scene).await;
    let mut words = keys.into_iter().filter(|(key, _)| {
        let name = key.split_once('/').map(|(_, name)| name);
        name == Some(instance)
    });
    words.next().map(|(_, word)| word)
}

async fn serves_services(scene: &AgentScene, services: Value) {
    becomes(
        PATIENCE,
        "what the agent serves",
        vec![services],
        async || {
            let agents = agents(scene).await;
            agents
                .into_iter()
                .map(|(_, mut it)| it["services"].take())
                .collect()
        },
    )
    .await;
}

async fn idle_connections_are_ended_and_the_word_follows(mode: HaproxyMode) {
    let stage = Stage::start(mode).await;
    serves_services(&stage.scene, json!(["redis"])).await;
    let (mut to_a, mut to_b) = (Vec::new(), Vec::new());
    for _ in 0..10 {
        to_a.push(Asking::to(stage.scene.port, "a").await);
        to_b.push(Asking::to(stage.scene.port, "b").await);
    }
    let revision = stage.scene.etcd.revision().await;
    stage.scene.etcd.stays_at(revision, A_WHILE).await;
    let began = Instant::now();
    stage.drain_a().await;
    for connection in &mut to_a {
        assert_eq!(connection.answer().await, None);
    }
    let ended = began.elapsed();
    stage.is_drained_within(PROMPTLY).await;
    println!(
        "10 idle connections ended after {ended:?}, the word after {:?}",
        began.elapsed()
    );
    let expected = json!({"host": host(), "port": stage.a.port});
    assert_eq!(word(&stage.scene, "redis/a").await, Some(expected));
    for connection in &mut to_b {
        assert_eq!(connection.ask("PING").await.as_deref(), Some("b"));
    }
    // One write of the announcer's, one of the agent's.
    let revision = revision + 2;
    assert_eq!(stage.scene.etcd.revision().await, revision);
    stage.scene.etcd.stays_at(revision, secs(3)).await;
    // It serves again: the word goes.
    stage.scene.put("redis", "a", &stage.a.value()).await;
    becomes(SOON, "the word", None, async || {
        word(&stage.scene, "redis/a").await
    })
    .await;
    drop(Asking::to(stage.scene.port, "a").await);
    // Its key goes while it drains.
    stage.drain_a().await;
    stage.is_drained_within(PROMPTLY).await;
    stage.scene.delete("redis", "a").await;
    becomes(SOON, "the word", None, async || {
        word(&stage.scene, "redis/a").await
    })
    .await;
}

/// Without a word about who has spoken last it would be ended: its client is as silent as an idle one.
async fn a_request_that_is_under_way_is_answered_first(mode: HaproxyMode) {
    let stage = Stage::start(mode).await;
    let mut at_once = Asking::to(stage.scene.port, "a").await;
    let mut later = Asking::to(stage.scene.port, "a").await;
    // One that asks right after it was answered, as a worker of a queue does.
    at_once.ask("PING").await.unwrap();
    at_once.send("BLPOP").await.unwrap();
    later.send("BLPOP").await.unwrap();
    let mut idle = Asking::to(stage.scene.port, "a").await;
    stage.drain_a().await;
    assert_eq!(idle.answer().await, None);
    never_for(secs(3), "a word while a request is under way", async || {
        stage.is_drained().await
    })
    .await;
    // A reload in between: its old worker has both.
    let reloads = stage.scene.reloads().await;
    stage.scene.put("web", "i", &elsewhere(free_port())).await;
    becomes(PATIENCE, "reloads", reloads + 1, async || {
        stage.scene.reloads().await
    })
    .await;
    never_for(secs(2), "a word while a request is under way", async || {
        stage.is_drained().await
    })
    .await;
    stage.a.push();
    for connection in [&mut at_once, &mut later] {
        assert_eq!(connection.answer().await.as_deref(), Some("a"));
        assert_eq!(connection.answer().await, None, "it is idle now");
    }
    let began = Instant::now();
    stage.is_drained_within(PROMPTLY).await;
    println!(
        "the word came {:?} after the last connection",
        began.elapsed()
    );
}

async fn a_haproxy_that_dies_meanwhile_is_drained_all_the_same(mode: HaproxyMode) {
    let mut stage = Stage::start(mode).await;
    let mut blocked = Asking::to(stage.scene.port, "a").await;
    blocked.send("BLPOP").await.unwrap();
    stage.drain_a().await;
    let drains = format!("{} drain", stage.a.port);
    let servers = [("redis/a", drains), ("redis/b", stage.b.port.to_string())];
    stage.scene.serves(&servers).await;
    assert!(!stage.is_drained().await);
    stage.scene.kill_haproxy().await;
    assert_eq!(blocked.answer().await, None);
    if mode == Attached {
        stage.scene.start_haproxy().await;
    }
    stage.is_drained_within(PATIENCE).await;
    stage.scene.serves(&servers).await;
    for _ in 0..10 {
        assert_eq!(Asking::dial(stage.scene.port).await.unwrap().1, "b");
    }
    assert!(stage.is_drained().await);
}

#[tokio::test]
async fn the_last_instance_that_is_up_is_not_drained_and_the_word_says_so_at_once() {
    let stage = Stage::start(Supervised).await;
    stage.scene.delete("redis", "b").await;
    stage.scene.serves(&[("redis/a", stage.a.port)]).await;
    let mut to_a = Asking::to(stage.scene.port, "a").await;
    let began = Instant::now();
    stage.drain_a().await;
    stage.is_drained_within(PROMPTLY).await;
    println!("alone: the word after {:?}", began.elapsed());
    let expected = json!({"host": host(), "port": stage.a.port, "alone": true});
    assert_eq!(word(&stage.scene, "redis/a").await, Some(expected));
    throughout(A_WHILE, "a serves", async || {
        Asking::dial(stage.scene.port).await.is_some()
    })
    .await;
    stage.scene.serves(&[("redis/a", stage.a.port)]).await;
    assert_eq!(to_a.ask("PING").await.as_deref(), Some("a"));
    // Another one is up: now it drains.
    stage.scene.put("redis", "b", &stage.b.value()).await;
    assert_eq!(to_a.answer().await, None);
    let expected = json!({"host": host(), "port": stage.a.port});
    becomes(SOON, "the word", Some(expected), async || {
        word(&stage.scene, "redis/a").await
    })
    .await;
}

#[tokio::test]
async fn an_agent_that_is_killed_goes_with_its_lease_and_one_that_stops_at_once() {
    let mut stage = Stage::start(Attached).await;
    stage.drain_a().await;
    stage.is_drained_within(PROMPTLY).await;
    let before = agents(&stage.scene).await;
    stage.scene.kill_agent().await;
    let killed = Instant::now();
    becomes(secs(25), "the agents' keys", vec![], async || {
        agents_keys(&stage.scene).await
    })
    .await;
    println!("a killed agent's keys go after {:?}", killed.elapsed());
    stage.scene.start_agent();
    stage.is_drained_within(PATIENCE).await;
    assert_eq!(agents(&stage.scene).await, before, "it has another id");
    // One that is started again before its lease ends takes its keys over.
    stage.scene.kill_agent().await;
    stage.scene.put("redis", "a", &stage.a.value()).await;
    stage.scene.start_agent();
    becomes(PATIENCE, "the word", None, async || {
        word(&stage.scene, "redis/a").await
    })
    .await;
    throughout(secs(18), "the agent is there", async || {
        agents(&stage.scene).await == before
    })
    .await;
    assert_eq!(stage.scene.stop_agent().await, Some(0));
    assert_eq!(agents_keys(&stage.scene).await, []);
}

#[tokio::test]
async fn an_agent_with_another_file_has_another_id() {
    let stage = Stage::start(Supervised).await;
    let mut second = AgentScene::new(Supervised, &[]).await;
    second.endpoints = stage.scene.etcd.url().to_owned();
    second.begin().await;
    becomes(PATIENCE, "how many agents there are", 2, async || {
        agents(&stage.scene).await.len()
    })
    .await;
    stage.drain_a().await;
    becomes(PATIENCE, "words", 2, async || {
        let keys = agents_keys(&stage.scene).await;
        keys.iter()
            .filter(|(key, _)| key.ends_with("/redis/a"))
            .count()
    })
    .await;
}

#[tokio::test]
async fn an_agent_that_may_not_write_there_says_so_once_and_serves() {
    let etcd = Etcd::start_with_login(300).await;
    let mut scene = AgentScene::around(etcd, Supervised, &["--etcd-user=sidekick"]);
    let password = scene.dir.path().join("password");
    std::fs::write(&password, Login::PASSWORD).unwrap();
    let file = format!("--etcd-password-file={}", password.display());
    scene.argument(&file);
    scene.begin().await;
    let (a, b) = (Answering::start("a").await, Answering::start("b").await);
    scene.put("redis", "a", &a.value()).await;
    scene.put("redis", "b", &b.value()).await;
    scene
        .serves(&[("redis/a", a.port), ("redis/b", b.port)])
        .await;
    let mut to_a = Asking::to(scene.port, "a").await;
    let leases = scene.etcd.leases().await;
    scene.put("redis", "a", &a.draining()).await;
    assert_eq!(
        to_a.answer().await,
        None,
        "idle connections are ended all the same"
    );
    scene.put("redis", "a", &a.value()).await;
    scene
        .serves(&[("redis/a", a.port), ("redis/b", b.port)])
        .await;
    assert_eq!(agents_keys(&scene).await, []);
    assert_eq!((scene.etcd.leases().await, leases), (vec![], vec![]));
    let log = scene.log();
    assert_eq!(
        log.matches("cannot keep the agent's keys").count(),
        1,
        "{log}"
    );
}
