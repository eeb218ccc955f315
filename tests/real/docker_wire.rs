//! Docker's answers and events are late, cut off, or of unknown kinds.

use sidekick_harness::*;

#[tokio::test]
async fn an_event_cut_in_the_middle_of_its_json_costs_nothing() {
    let (scene, proxy) = wired(None).await;
    let before = scene.etcd.get(KEY).await;

    proxy.set(Wire::CutEvent);
    scene.redis.hang_up().await;
    scene.sidekick.logs("Docker unreachable").await;
    proxy.pass();
    scene.sidekick.logs("Docker answers again").await;

    assert_eq!(scene.etcd.get(KEY).await, before);
    scene.redis.kill().await;
    scene.is_withdrawn().await;
}

#[tokio::test]
async fn a_death_whose_event_was_cut_is_found_out() {
    let (scene, proxy) = wired(None).await;
    proxy.set(Wire::CutEvent);
    scene.redis.kill().await;
    scene.is_withdrawn().await;
}

#[tokio::test]
async fn answers_that_come_out_of_order_hide_no_death() {
    let (scene, proxy) = wired(None).await;
    proxy.set(Wire::Reorder(millis(300)));
    scene.redis.kill().await;
    scene.is_withdrawn().await;
}

#[tokio::test]
async fn an_event_of_an_unknown_kind_changes_nothing() {
    let (scene, proxy) = wired(None).await;
    let before = scene.etcd.get(KEY).await;

    proxy.set(Wire::StrangeEvent);
    scene.redis.hang_up().await;
    scene.etcd.keeps_entry(KEY, &before, secs(2)).await;

    scene.redis.kill().await;
    scene.is_withdrawn().await;
}

#[tokio::test]
async fn a_state_of_an_unknown_kind_is_no_state_to_announce() {
    let (scene, proxy) = wired(Some("2s")).await;

    proxy.set(Wire::StrangeState);
    scene.redis.hang_up().await;
    scene.is_withdrawn().await;

    proxy.pass();
    scene.redis.hang_up().await;
    scene.is_announced().await;
}

/// No event tells of it: `make chaos`, seed 24, found a key that was missing for 21 s.
#[tokio::test]
async fn a_state_of_an_unknown_kind_is_looked_at_until_it_is_a_known_one() {
    let (scene, proxy) = wired(None).await;
    proxy.set(Wire::StrangeState);
    scene.redis.hang_up().await;
    scene.is_withdrawn().await;

    proxy.pass();
    let began = std::time::Instant::now();
    let back = async || scene.etcd.get(KEY).await.is_some();
    eventually(secs(2), "the key is back", back).await;
    let what = "key back after a state that no engine has";
    measured::took(2, what, began.elapsed(), secs(2));
    scene.sidekick.never_logs("without an event");
}

#[tokio::test]
async fn an_engine_that_answers_500_is_an_engine_that_cannot_be_asked() {
    let (scene, proxy) = wired(Some("4s")).await;
    let before = scene.etcd.get(KEY).await;

    proxy.set(Wire::Status500);
    scene.redis.hang_up().await;
    scene.etcd.keeps_entry(KEY, &before, secs(2)).await;
    scene.is_withdrawn().await;

    proxy.pass();
    scene.is_announced().await;
}

#[tokio::test]
async fn answers_that_take_20_s_are_no_word_on_the_container() {
    let (mut scene, proxy) = wired(None).await;
    let before = scene.etcd.get(KEY).await;

    proxy.set(Wire::SlowRequests(secs(20)));
    scene.redis.hang_up().await;
    scene.etcd.keeps_entry(KEY, &before, secs(12)).await;
    assert!(scene.sidekick.is_up(), "sidekick has exited");
    scene.sidekick.logs("Docker does not answer").await;

    scene.redis.kill().await;
    proxy.pass();
    // The question that is under way may wait for its deadline; the next one is answered.
    let gone = async || scene.etcd.get(KEY).await.is_none();
    eventually(secs(15), "the key goes", gone).await;
}

#[tokio::test]
async fn a_death_behind_a_black_hole_is_found_out_when_it_closes() {
    for hole in [Wire::BlackHole, Wire::MuteServer, Wire::DeafServer] {
        let (scene, proxy) = wired(None).await;
        let before = scene.etcd.get(KEY).await;
        proxy.set(hole);
        scene.redis.kill().await;
        // Events still pass where the engine alone hears nothing.
        if hole != Wire::DeafServer {
            scene.etcd.keeps_entry(KEY, &before, secs(1)).await;
            proxy.pass();
        }
        scene.is_withdrawn().await;
    }
}

#[tokio::test]
async fn an_engine_that_says_one_byte_at_a_time_is_understood() {
    let (mut scene, proxy) = wired(None).await;
    scene.sidekick.kill9().await;
    scene.redis.restart().await;
    proxy.set(Wire::Trickle);
    let at = proxy.url();
    scene.sidekick = scene.announce_again(|announce| announce.option("--docker-host", &at));

    // Docker 28 says twice as much as 20.10, at some 5 kB a second.
    let again = scene.redis.since().await;
    assert_ne!(again, scene.value.since);
    eventually(secs(20), "the new life is announced", async || {
        let entry = scene.etcd.get(KEY).await;
        entry.is_some_and(|entry| entry.value.contains(&again))
    })
    .await;
    scene.redis.kill().await;
    let gone = async || scene.etcd.get(KEY).await.is_none();
    eventually(secs(20), "the key goes", gone).await;
}

#[tokio::test]
async fn an_engine_that_drops_resets_refuses_or_dawdles_is_asked_again() {
    for wire in [
        Wire::DropAfter(3000),
        Wire::Reset,
        Wire::Refuse,
        Wire::Delay(millis(300)),
    ] {
        let (scene, proxy) = wired(None).await;
        let before = scene.etcd.get(KEY).await;
        proxy.set(wire);
        scene.redis.hang_up().await;
        scene.etcd.keeps_entry(KEY, &before, secs(1)).await;
        proxy.pass();
        scene.redis.kill().await;
        scene.is_withdrawn().await;
    }
}

/// An announced container, and the wire between its sidekick and the engine.
async fn wired(grace: Option<&str>) -> (AnnouncerScene<'static>, Proxy) {
    let engine = Engine::shared().await;
    let proxy = Proxy::before_engine(&engine.host()).await;
    let at = proxy.url();
    let scene = AnnouncerScene::announced_with(|announce| {
        let announce = announce.option("--docker-host", &at);
        match grace {
            Some(grace) => announce.option("--docker-grace", grace),
            None => announce,
        }
    })
    .await;
    (scene, proxy)
}
