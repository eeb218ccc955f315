//! A key that comes and goes is not a flood of log lines.

use sidekick_harness::agent::*;

#[tokio::test]
async fn a_key_that_flaps_is_a_few_lines_that_name_it_and_count() {
    let (scene, _a) = AgentScene::serving(Supervised, &[]).await;
    let b = Backend::start("b").await;
    for _ in 0..60 {
        scene.put("redis", "redis@2", &b.value()).await;
        scene.has_servers(PATIENCE, 2).await;
        scene.delete("redis", "redis@2").await;
        scene.has_servers(PATIENCE, 1).await;
    }
    let log = scene.log();
    let lines = log.matches(" services, ").count();
    assert!(lines <= 40, "{lines} lines:\n{log}");
    scene.says("/services/redis/redis@2").await;
}
