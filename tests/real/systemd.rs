//! What systemd is told.

use std::time::Instant;

use sidekick_harness::*;

#[tokio::test]
async fn it_is_ready_although_neither_docker_nor_etcd_answers() {
    let (engine, etcd) = (Engine::not_yet(), Etcd::not_yet().await);
    let sidekick = engine.announce("redis1", &etcd).under_systemd().spawn();
    sidekick.notifications().tell("READY=1").await;
}

#[tokio::test]
async fn the_status_tells_what_is_announced() {
    let scene = AnnouncerScene::announced_with(|announce| announce.under_systemd()).await;
    let wanted = format!("announcing redis@1 = {HOST}:{}", scene.value.port);
    scene
        .sidekick
        .notifications()
        .status(&wanted, |status| status == wanted)
        .await;
    assert_eq!(scene.sidekick.notifications().count("READY=1"), 1);
}

#[tokio::test]
async fn the_status_tells_why_nothing_is_announced() {
    let scene = AnnouncerScene::announced_with(|announce| announce.under_systemd()).await;
    scene.redis.pause().await;
    let wanted = format!("waiting: {} is paused", scene.redis.name());
    scene
        .sidekick
        .notifications()
        .status(&wanted, |status| status == wanted)
        .await;
}

#[tokio::test]
async fn the_status_tells_how_long_etcd_has_been_away() {
    let scene =
        AnnouncerScene::announced_with(|announce| announce.times(3, 1).under_systemd()).await;
    let seconds_away = |status: &str| -> Option<u32> {
        status
            .strip_prefix("etcd unreachable for ")?
            .strip_suffix(" s, retrying")?
            .parse()
            .ok()
    };
    let notifications = scene.sidekick.notifications();

    scene.etcd.kill9().await;
    notifications
        .status("an outage of 1 s", |status| seconds_away(status) == Some(1))
        .await;
    notifications
        .status("an outage of more", |status| seconds_away(status) > Some(2))
        .await;

    scene.etcd.restart().await;
    let announces = |status: &str| status.starts_with("announcing ");
    notifications.status("an announcement", announces).await;

    // So soon after the first the log says nothing of a second one; the status isn't stuck at it.
    let told = scene.sidekick.times_logged("etcd answers again");
    scene.etcd.kill9().await;
    notifications
        .status("another outage", |status| seconds_away(status).is_some())
        .await;
    scene.etcd.restart().await;
    notifications.status("its end", announces).await;
    assert_eq!(scene.sidekick.times_logged("etcd answers again"), told);
}

#[tokio::test]
async fn the_status_tells_who_holds_the_key_instead() {
    let scene = AnnouncerScene::announced_with(|announce| announce.under_systemd()).await;
    let rival = sidekick_harness::Value::of_rival("badc0ffee000", "2999-01-01T00:00:00Z");
    scene.etcd.put_leased(KEY, &rival.text(), secs(60)).await;
    scene
        .sidekick
        .notifications()
        .status("the holder", |status| status.contains("badc0ffee000"))
        .await;
}

#[tokio::test]
async fn stopping_is_told_before_the_end() {
    let mut scene = AnnouncerScene::announced_with(|announce| announce.under_systemd()).await;
    scene.sidekick.leaves().await;
    scene.sidekick.notifications().tell("STOPPING=1").await;
}

#[tokio::test]
async fn the_watchdog_is_fed_by_progress_and_not_by_etcd() {
    let scene = AnnouncerScene::announced_with(|announce| {
        announce
            .under_systemd()
            .environment("WATCHDOG_USEC", "1000000")
    })
    .await;
    let fed = || scene.sidekick.notifications().count("WATCHDOG=1");
    eventually(SOON, "the watchdog is fed", async || fed() >= 2).await;

    scene.etcd.freeze();
    let before = fed();
    eventually(2 * SOON, "the watchdog is fed without etcd", async || {
        fed() >= before + 6
    })
    .await;
}

#[tokio::test]
async fn no_watchdog_is_fed_where_there_is_none() {
    let scene = AnnouncerScene::announced_with(|announce| announce.under_systemd()).await;
    never_for(secs(2), "a watchdog is fed", async || {
        scene.sidekick.notifications().count("WATCHDOG=1") > 0
    })
    .await;
}

#[tokio::test]
async fn a_notify_socket_that_is_not_read_stops_neither_the_renewal_nor_the_withdrawal() {
    let mut scene = AnnouncerScene::announced_with(|announce| {
        let announce = announce.times(3, 1).under_deaf_systemd();
        announce.environment("WATCHDOG_USEC", "1000000")
    })
    .await;
    let before = scene.etcd.get(KEY).await.map(|entry| entry.lease);
    never_for(secs(5), "the key is gone or on another lease", async || {
        scene.etcd.get(KEY).await.map(|entry| entry.lease) != before
    })
    .await;

    let took = scene.sidekick.leaves().await;
    let what = "SIGTERM to exit with a notify socket that is not read";
    measured::took(6, what, took, secs(5));
    assert_eq!(scene.etcd.get(KEY).await, None);
}

#[tokio::test]
async fn a_notify_socket_that_is_read_again_is_told_everything() {
    let mut scene = AnnouncerScene::announced_with(|announce| {
        let announce = announce.under_deaf_systemd();
        announce.environment("WATCHDOG_USEC", "1000000")
    })
    .await;
    scene
        .sidekick
        .logs("systemd does not take notifications")
        .await;

    scene.sidekick.systemd_listens();

    let notifications = scene.sidekick.notifications();
    notifications.tell("READY=1").await;
    notifications.tell("WATCHDOG=1").await;
    let announces = |status: &str| status.starts_with("announcing ");
    notifications.status("an announcement", announces).await;
    scene
        .sidekick
        .logs("systemd takes notifications again")
        .await;
}

/// systemd's clock goes on while a process is frozen; that no loop has beaten meanwhile is no loop's fault.
#[tokio::test]
async fn a_frozen_sidekick_calls_no_loop_stuck_and_feeds_the_watchdog_at_once() {
    let scene = AnnouncerScene::announced_with(|announce| {
        announce
            .under_systemd()
            .environment("WATCHDOG_USEC", "4000000")
    })
    .await;
    let fed = || scene.sidekick.notifications().count("WATCHDOG=1");
    eventually(SOON, "the watchdog is fed", async || fed() >= 1).await;

    scene.sidekick.freeze();
    let frozen = Instant::now();
    // Longer than a loop may go without a beat.
    eventually(secs(40), "33 s are over", async || {
        frozen.elapsed() > secs(33)
    })
    .await;
    let before = fed();
    scene.sidekick.thaw();

    // A turn that does not feed is followed by the next one after half a period, 2 s, at the earliest.
    eventually(
        millis(1900),
        "the watchdog is fed before half a period is over",
        async || fed() > before,
    )
    .await;
    assert_eq!(scene.sidekick.times_logged("stuck"), 0);
}
