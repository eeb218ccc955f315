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
    let scene = AnnouncerScene::under_systemd().await;
    let wanted = format!("announcing redis@1 = {HOST}:{}", scene.value.port);
    scene
        .sidekick
        .status(&wanted, |status| status == wanted)
        .await;
    assert_eq!(scene.sidekick.notifications().count("READY=1"), 1);
}

#[tokio::test]
async fn the_status_tells_why_nothing_is_announced() {
    let scene = AnnouncerScene::under_systemd().await;
    scene.redis.pause().await;
    let wanted = format!("waiting: {} is paused", scene.redis.name());
    scene
        .sidekick
        .status(&wanted, |status| status == wanted)
        .await;
}

#[tokio::test]
async fn the_status_tells_how_long_etcd_has_been_away() {
    let scene =
        AnnouncerScene::announced_with(|announce| announce.times(3, 1).under_systemd()).await;
    let seconds_away = |status: &str| -> Option<u32> {
        let seconds = status.strip_prefix("etcd unreachable for ")?;
        seconds.strip_suffix(" s, retrying")?.parse().ok()
    };
    let notifications = scene.sidekick.notifications();

    scene.etcd.kill9().await;
    let is = |status: &str| seconds_away(status) == Some(1);
    notifications.status("an outage of 1 s", is).await;
    let is = |status: &str| seconds_away(status) > Some(2);
    notifications.status("an outage of more", is).await;

    scene.etcd.restart().await;
    let announces = |status: &str| status.starts_with("announcing ");
    notifications.status("an announcement", announces).await;

    // So soon after the first the log says nothing of a second one; the status isn't stuck at it.
    let told = scene.sidekick.times_logged("etcd answers again");
    scene.etcd.kill9().await;
    let is = |status: &str| seconds_away(status).is_some();
    notifications.status("another outage", is).await;
    scene.etcd.restart().await;
    notifications.status("its end", announces).await;
    assert_eq!(scene.sidekick.times_logged("etcd answers again"), told);
}

#[tokio::test]
async fn the_status_tells_who_holds_the_key_instead() {
    let scene = AnnouncerScene::under_systemd().await;
    let rival = sidekick_harness::Value::of_rival("badc0ffee000", "2999-01-01T00:00:00Z");
    scene.etcd.put_leased(KEY, &rival.text(), secs(60)).await;
    scene
        .sidekick
        .status("the holder", |status| status.contains("badc0ffee000"))
        .await;
}

#[tokio::test]
async fn stopping_is_told_before_the_end() {
    let mut scene = AnnouncerScene::under_systemd().await;
    scene.sidekick.leaves().await;
    scene.sidekick.notifications().tell("STOPPING=1").await;
}

/// With WatchdogSec= of so many microseconds.
fn with_watchdog(announce: Announce, microseconds: &str) -> Announce {
    announce.environment("WATCHDOG_USEC", microseconds)
}

#[tokio::test]
async fn the_watchdog_is_fed_by_progress_and_not_by_etcd() {
    let fed = |it| with_watchdog(it, "1000000").under_systemd();
    let scene = AnnouncerScene::announced_with(fed).await;
    let fed = || scene.sidekick.notifications().count("WATCHDOG=1");
    eventually(SOON, "the watchdog is fed", async || fed() >= 2).await;

    scene.etcd.freeze();
    let before = fed();
    let again = async || fed() >= before + 6;
    eventually(2 * SOON, "the watchdog is fed without etcd", again).await;
}

#[tokio::test]
async fn no_watchdog_is_fed_where_there_is_none() {
    let scene = AnnouncerScene::under_systemd().await;
    let fed = async || scene.sidekick.notifications().count("WATCHDOG=1") > 0;
    never_for(secs(2), "a watchdog is fed", fed).await;
}

#[tokio::test]
async fn a_notify_socket_that_is_not_read_stops_neither_the_renewal_nor_the_withdrawal() {
    let unread = |it| {
        with_watchdog(it, "1000000")
            .times(3, 1)
            .under_deaf_systemd()
    };
    let scene = AnnouncerScene::announced_with(unread).await;
    scene
        .renews_and_withdraws("a notify socket that is not read")
        .await;
}

#[tokio::test]
async fn a_notify_socket_that_is_read_again_is_told_everything() {
    let unread = |it| with_watchdog(it, "1000000").under_deaf_systemd();
    let mut scene = AnnouncerScene::announced_with(unread).await;
    let told = "systemd does not take notifications";
    scene.sidekick.logs(told).await;

    scene.sidekick.systemd_listens();

    let notifications = scene.sidekick.notifications();
    notifications.tell("READY=1").await;
    notifications.tell("WATCHDOG=1").await;
    let announces = |status: &str| status.starts_with("announcing ");
    notifications.status("an announcement", announces).await;
    let told = "systemd takes notifications again";
    scene.sidekick.logs(told).await;
}

/// systemd's clock goes on while a process is frozen; that no loop has beaten meanwhile is no loop's fault.
#[tokio::test]
async fn a_frozen_sidekick_calls_no_loop_stuck_and_feeds_the_watchdog_at_once() {
    let fed = |it| with_watchdog(it, "4000000").under_systemd();
    let scene = AnnouncerScene::announced_with(fed).await;
    let fed = || scene.sidekick.notifications().count("WATCHDOG=1");
    eventually(SOON, "the watchdog is fed", async || fed() >= 1).await;

    scene.sidekick.freeze();
    let frozen = Instant::now();
    // Longer than a loop may go without a beat.
    let over = async || frozen.elapsed() > secs(33);
    eventually(secs(40), "33 s are over", over).await;
    let before = fed();
    scene.sidekick.thaw();

    // A turn that does not feed is followed by the next one after half a period, 2 s, at the earliest.
    let what = "the watchdog is fed before half a period is over";
    eventually(millis(1900), what, async || fed() > before).await;
    scene.sidekick.never_logs("stuck");
}
