//! While nothing changes, nothing is written.

use sidekick_harness::*;

#[tokio::test]
async fn renewing_a_key_writes_nothing() {
    let scene = AnnouncerScene::announced_every(3, 1).await;
    let before = scene.etcd.get(KEY).await;
    let revision = scene.etcd.revision().await;

    // More than two TTLs: without renewals the key would be gone.
    scene.etcd.stays_at(revision, secs(7)).await;

    let renewals = scene.etcd.asked("LeaseKeepAlive").await;
    assert!(renewals >= 4, "{renewals} renewals in 7 intervals");
    let moved = usize::try_from(scene.etcd.revision().await - revision);
    let what = format!("etcd revisions that {renewals} renewals cost");
    measured::counted(5, what, moved.expect("it only grows"), 0);
    let after = scene.etcd.get(KEY).await;
    assert_eq!(after, before, "the key stands as it did");
    let leases = scene.etcd.leases().await;
    assert_eq!(leases.len(), 1, "a process has one lease");
}

#[tokio::test]
async fn what_happens_in_the_container_writes_nothing() {
    let scene = AnnouncerScene::announced().await;
    let revision = scene.etcd.revision().await;

    scene.redis.feels("looked at").await;
    scene.redis.hang_up().await;
    scene.engine.docker(&["top", scene.redis.name()]).await;
    let update = ["update", "--cpu-shares=512", scene.redis.name()];
    scene.engine.docker(&update).await;

    scene.etcd.stays_at(revision, secs(1)).await;
}

#[tokio::test]
async fn every_log_line_is_json_where_that_is_asked_for() {
    let scene = AnnouncerScene::announced_with(|announce| {
        announce.option("--log-format", "json").times(3, 1)
    })
    .await;
    scene.etcd.delete(KEY).await;
    scene.is_announced().await;

    let log = scene.sidekick.log();

    assert!(!log.is_empty(), "an announcement is worth a line");
    for line in log {
        let parsed: Result<serde_json::Value, _> = serde_json::from_str(&line);
        let is_object = parsed.is_ok_and(|json| json.is_object());
        assert!(is_object, "no JSON object: {line}");
    }
}
