//! A key that comes and goes is not a flood of log lines.

use sidekick_harness::agent::*;

#[tokio::test]
async fn a_key_that_flaps_is_a_few_lines_that_name_it_and_count() {
    let scene = Scene::start(Way::Supervised, &[]).await;
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    scene.put("redis", "redis@1", &a.value()).await;
    scene
        .serves(&[("redis/redis::1", a.port.to_string())])
        .await;
    for _ in 0..60 {
        scene.put("redis", "redis@2", &b.value()).await;
        becomes(PATIENCE, "servers", 2, async || scene.servers().await.len()).await;
        scene.delete("redis", "redis@2").await;
        becomes(PATIENCE, "servers", 1, async || scene.servers().await.len()).await;
    }
    let log = scene.log();
    let lines = log
        .lines()
        .filter(|line| line.contains(" services, "))
        .count();
    assert!(lines <= 40, "{lines} lines:\n{log}");
    scene.says("/services/redis/redis@2").await;
}
