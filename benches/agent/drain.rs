//! How long a drain takes: from the draining value in etcd to the agent's word, by what sessions the instance has.

use etcd_client::{EventType, WatchOptions};
use sidekick_harness::agent::{AgentScene, Answering, Asking, Supervised};
use sidekick_harness::bench::Samples;
use sidekick_harness::{millis, secs};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Drains for each row.
const ROUNDS: usize = 20;

/// So long after the beginning of the drain the requests that are under way are answered, and their clients hang up.
const UNDER_WAY: Duration = millis(500);

/// A drain that takes longer has not worked.
const PATIENCE: Duration = secs(15);

const WORDS: &str = "/sidekick/services/agents/";

/// Prints the table.
pub async fn measure() {
    let scene = AgentScene::start(Supervised, &[]).await;
    let b = Answering::start("b").await;
    scene.put("redis", "b", &b.value()).await;
    for (sessions, pooled, title) in [
        (0, false, "draining → word; no session"),
        (10, false, "… 10 requests, over in 500 ms"),
        (100, false, "… 100 requests, over in 500 ms"),
        (10, true, "… 10 pooled connections"),
        (100, true, "… 100 pooled connections"),
    ] {
        let mut samples = Samples::named(title, "sidekick");
        for _ in 0..ROUNDS {
            samples.add(drain(&scene, b.port, sessions, pooled).await);
        }
        println!("{samples}");
    }
}

/// One drain of an instance with so many sessions, from its value to the word.
async fn drain(scene: &AgentScene, other: u16, sessions: usize, pooled: bool) -> Duration {
    let a = Answering::start("a").await;
    scene.put("redis", "a", &a.value()).await;
    let servers = [("redis/a", a.port), ("redis/b", other)];
    scene.serves(&servers).await;
    let mut clients = JoinSet::new();
    for _ in 0..sessions {
        let mut asking = Asking::to(scene.port, "a").await;
        if !pooled {
            asking.send("BLPOP").await.expect("a connection");
        }
        clients.spawn(async move { asking.answer().await.is_some() });
    }
    let options = WatchOptions::new().with_prefix();
    let mut watched = scene.etcd.client().clone();
    let mut watch = watched.watch(WORDS, Some(options)).await.expect("a watch");
    let begun = Instant::now();
    scene.put("redis", "a", &a.draining()).await;
    let answered = async {
        sleep(UNDER_WAY).await;
        a.push();
        clients.join_all().await
    };
    let word = async {
        loop {
            let message = watch.message().await.expect("etcd answers");
            let message = message.expect("the watch goes on");
            let mut events = message.events().iter();
            let is_word = |event: &etcd_client::Event| {
                let key = event.kv().map(|kv| kv.key().ends_with(b"/redis/a"));
                event.event_type() == EventType::Put && key == Some(true)
            };
            if events.any(is_word) {
                return begun.elapsed();
            }
        }
    };
    let (took, answers) = tokio::join!(timeout(PATIENCE, word), answered);
    let answers = answers.into_iter().filter(|answer| *answer).count();
    let expected = if pooled { 0 } else { sessions };
    assert_eq!(answers, expected, "answers to requests that were under way");
    scene.delete("redis", "a").await;
    scene.serves(&[("redis/b", other)]).await;
    took.expect("the agent gives its word")
}
