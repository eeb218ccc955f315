//! What systemd is told.

use crate::harness::{Engine, Etcd, HOST, KEY, SOON, Scene, Sidekick, eventually, never_for, secs};

#[tokio::test]
async fn it_is_ready_although_neither_docker_nor_etcd_answers() {
    let (engine, etcd) = (Engine::not_yet(), Etcd::not_yet().await);
    let sidekick = Sidekick::announce("redis1", KEY)
        .etcd(&etcd)
        .docker(&engine)
        .host(HOST)
        .under_systemd()
        .spawn();
    sidekick.notifications().tell("READY=1").await;
}

#[tokio::test]
async fn the_status_tells_what_is_announced() {
    let scene = Scene::announced_with(|announce| announce.under_systemd()).await;
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
    let scene = Scene::announced_with(|announce| announce.under_systemd()).await;
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
    let scene = Scene::announced_with(|announce| announce.times(3, 1).under_systemd()).await;
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
    let scene = Scene::announced_with(|announce| announce.under_systemd()).await;
    let rival = crate::harness::Value::of_rival("badc0ffee000", "2999-01-01T00:00:00Z");
    scene.etcd.put_leased(KEY, &rival.text(), secs(60)).await;
    scene
        .sidekick
        .notifications()
        .status("the holder", |status| status.contains("badc0ffee000"))
        .await;
}

#[tokio::test]
async fn stopping_is_told_before_the_end() {
    let mut scene = Scene::announced_with(|announce| announce.under_systemd()).await;
    scene.sidekick.leaves().await;
    scene.sidekick.notifications().tell("STOPPING=1").await;
}

#[tokio::test]
async fn the_watchdog_is_fed_by_progress_and_not_by_etcd() {
    let scene = Scene::announced_with(|announce| {
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
    let scene = Scene::announced_with(|announce| announce.under_systemd()).await;
    never_for(secs(2), "a watchdog is fed", async || {
        scene.sidekick.notifications().count("WATCHDOG=1") > 0
    })
    .await;
}
