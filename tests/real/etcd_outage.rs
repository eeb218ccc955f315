//! etcd goes and comes back.

use std::time::{Duration, Instant};

use etcd_client::{AlarmAction, AlarmType};

use crate::harness::{
    Engine, Etcd, HOST, KEY, Scene, Sidekick, eventually, measured, never_for, secs,
};

/// From etcd's first answer to the key.
const BACK: Duration = secs(2);

#[tokio::test]
async fn an_etcd_that_is_down_at_the_start_is_waited_for() {
    let (engine, etcd) = tokio::join!(Engine::shared(), Etcd::not_yet());
    let redis = engine
        .container(&engine.name("redis1"))
        .publish("6379")
        .run()
        .await;
    let mut sidekick = Sidekick::announce(redis.name(), KEY)
        .etcd(&etcd)
        .docker(engine)
        .host(HOST)
        .spawn();
    // Long enough for the pauses between tries to have grown.
    never_for(secs(6), "sidekick exits", async || !sidekick.is_up()).await;

    etcd.restart().await;

    appears(&etcd, "was down at the start").await;
    etcd.shows(
        KEY,
        &redis.at(HOST, redis.host_port("6379/tcp").await).await,
    )
    .await;
}

#[tokio::test]
async fn an_etcd_that_comes_back_with_its_data_has_the_lease_renewed() {
    let mut scene = Scene::announced_every(4, 2).await;
    scene.etcd.kill9().await;
    never_for(secs(6), "sidekick exits", async || !scene.sidekick.is_up()).await;

    scene.etcd.restart().await;

    appears(&scene.etcd, "came back with its data").await;
    never_for(secs(6), "the key expires", async || {
        scene.etcd.get(KEY).await.is_none()
    })
    .await;
    scene.is_announced().await;
    scene.redis.kill().await;
    scene.is_withdrawn().await;
}

/// It was "h2 protocol error", as if etcd had spoken wrongly.
#[tokio::test]
async fn a_connection_that_was_lost_is_told_as_a_lost_connection() {
    let scene = Scene::announced().await;
    scene.etcd.kill9().await;
    scene.sidekick.logs("connection lost: ").await;
    let wrong = scene.sidekick.times_logged("h2 protocol error");
    assert_eq!(wrong, 0, "{:#?}", scene.sidekick.log());
}

#[tokio::test]
async fn an_etcd_that_comes_back_empty_has_the_key_again() {
    let mut scene = Scene::announced().await;
    // So that the new store's revisions are far behind the old one's.
    for _ in 0..50 {
        scene.etcd.put("/another/key", "x").await;
    }
    scene.etcd.kill9().await;
    never_for(secs(2), "sidekick exits", async || !scene.sidekick.is_up()).await;

    scene.etcd.wipe_and_restart().await;

    appears(&scene.etcd, "came back empty").await;
    scene.is_announced().await;
    scene.etcd.delete(KEY).await;
    scene.is_announced().await;
    scene.redis.kill().await;
    scene.is_withdrawn().await;
}

#[tokio::test]
async fn an_etcd_without_space_keeps_what_stands_and_gets_the_rest_when_it_has_some() {
    let scene = Scene::announced_with(|announce| announce.times(3, 1).under_systemd()).await;
    let notifications = scene.sidekick.notifications();
    let alarm = async |action| {
        let mut client = scene.etcd.client().maintenance_client();
        let done = client.alarm(action, AlarmType::Nospace, None).await;
        done.expect("etcd takes and leaves an alarm");
    };
    alarm(AlarmAction::Activate).await;
    never_for(secs(5), "the key goes", async || {
        scene.etcd.get(KEY).await.is_none()
    })
    .await;
    scene.redis.kill().await;
    scene.is_withdrawn().await;
    scene.redis.start().await;
    let told = "etcd refuses redis@1; trying again";
    notifications.status(told, |status| status == told).await;

    alarm(AlarmAction::Deactivate).await;

    scene.is_announced().await;
    let announcing = |status: &str| status.starts_with("announcing ");
    notifications.status("an announcement", announcing).await;
}

#[tokio::test]
async fn an_etcd_that_was_frozen_for_longer_than_the_ttl_has_the_key_again() {
    let scene = Scene::announced_every(3, 1).await;
    scene.etcd.freeze();
    never_for(secs(5), "a frozen etcd answers", async || {
        scene.etcd.answers().await
    })
    .await;

    scene.etcd.thaw();

    scene.etcd.until_it_answers().await;
    let healed = Instant::now();
    // The old lease may run out a moment later; what counts is a key on a lease that is renewed.
    eventually(BACK, "the key is back on a lease that lives", async || {
        let entry = scene.etcd.get(KEY).await.ok_or("no key")?;
        let left = scene.etcd.seconds_left(entry.lease).await;
        if left >= 2 {
            Ok(())
        } else {
            Err(format!("{left} s left"))
        }
    })
    .await;
    let what = "key back after an etcd that was frozen";
    measured::took(2, what, healed.elapsed(), BACK);
    never_for(secs(4), "the key expires", async || {
        scene.etcd.get(KEY).await.is_none()
    })
    .await;
    scene.is_announced().await;
}

#[tokio::test]
async fn a_death_while_etcd_was_down_is_told_when_it_is_back() {
    let mut scene = Scene::announced().await;
    scene.etcd.kill9().await;
    scene.redis.kill().await;
    never_for(secs(2), "sidekick exits", async || !scene.sidekick.is_up()).await;

    scene.etcd.restart().await;

    scene.is_withdrawn().await;
}

#[tokio::test]
async fn a_restart_while_etcd_was_down_is_told_when_it_is_back() {
    let scene = Scene::announced().await;
    scene.etcd.kill9().await;
    scene.redis.restart().await;

    scene.etcd.restart().await;

    assert_ne!(
        scene.is_announced().await.since,
        scene.value.since,
        "the new life has its own start"
    );
}

#[tokio::test]
async fn a_key_deleted_while_sidekick_was_cut_off_comes_back() {
    let scene = Scene::announced().await;
    scene.sidekick.freeze();
    scene.etcd.delete(KEY).await;
    scene.etcd.kill9().await;
    scene.sidekick.thaw();

    scene.etcd.restart().await;

    appears(&scene.etcd, "came back without it").await;
    scene.is_announced().await;
}

async fn appears(etcd: &Etcd, that: &str) {
    let healed = Instant::now();
    eventually(BACK, "the key is back", async || etcd.get(KEY).await).await;
    let what = format!("key back after an etcd that {that}");
    measured::took(2, what, healed.elapsed(), BACK);
}
