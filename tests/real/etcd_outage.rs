//! etcd goes and comes back.

use std::time::{Duration, Instant};

use etcd_client::{AlarmAction, AlarmType};

use sidekick_harness::*;

/// From etcd's first answer to the key.
const BACK: Duration = secs(2);

#[tokio::test]
async fn an_etcd_that_is_down_at_the_start_is_waited_for() {
    let (engine, etcd) = tokio::join!(Engine::shared(), Etcd::not_yet());
    let redis = engine.redis().run().await;
    let mut sidekick = redis.announce(&etcd).spawn();
    // Long enough for the pauses between tries to have grown.
    never_for(secs(6), "sidekick exits", async || !sidekick.is_up()).await;

    etcd.restart().await;

    appears(&etcd, "was down at the start").await;
    etcd.shows(KEY, &redis.value().await).await;
}

#[tokio::test]
async fn an_etcd_that_comes_back_with_its_data_has_the_lease_renewed() {
    let mut scene = AnnouncerScene::announced_every(4, 2).await;
    scene.etcd.kill9().await;
    never_for(secs(6), "sidekick exits", async || !scene.sidekick.is_up()).await;

    scene.etcd.restart().await;

    appears(&scene.etcd, "came back with its data").await;
    scene.etcd.keeps(KEY, secs(6)).await;
    scene.is_announced().await;
    scene.redis.kill().await;
    scene.is_withdrawn().await;
}

/// It was "h2 protocol error", as if etcd had spoken wrongly.
#[tokio::test]
async fn a_connection_that_was_lost_is_told_as_a_lost_connection() {
    let scene = AnnouncerScene::announced().await;
    scene.etcd.kill9().await;
    scene.sidekick.logs("connection lost: ").await;
    let wrong = scene.sidekick.times_logged("h2 protocol error");
    assert_eq!(wrong, 0, "{:#?}", scene.sidekick.log());
}

#[tokio::test]
async fn an_etcd_that_comes_back_empty_has_the_key_again() {
    let mut scene = AnnouncerScene::announced().await;
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
    let scene =
        AnnouncerScene::announced_with(|announce| announce.times(3, 1).under_systemd()).await;
    let notifications = scene.sidekick.notifications();
    let alarm = async |action| {
        let mut client = scene.etcd.client().maintenance_client();
        let done = client.alarm(action, AlarmType::Nospace, None).await;
        done.expect("etcd takes and leaves an alarm");
    };
    alarm(AlarmAction::Activate).await;
    scene.etcd.keeps(KEY, secs(5)).await;
    scene.redis.kill().await;
    scene.is_withdrawn().await;
    scene.redis.start().await;
    let told = "etcd refuses redis@1; retrying";
    notifications.status(told, |status| status == told).await;

    alarm(AlarmAction::Deactivate).await;

    scene.is_announced().await;
    let announcing = |status: &str| status.starts_with("announcing ");
    notifications.status("an announcement", announcing).await;
}

#[tokio::test]
async fn an_etcd_that_was_frozen_for_longer_than_the_ttl_has_the_key_again() {
    let scene = AnnouncerScene::announced_every(3, 1).await;
    scene.etcd.freeze();
    let answers = async || scene.etcd.answers().await;
    never_for(secs(5), "a frozen etcd answers", answers).await;

    scene.etcd.thaw();

    scene.etcd.until_it_answers().await;
    let healed = Instant::now();
    // The old lease may run out a moment later; what counts is a key on a lease that is renewed.
    eventually(BACK, "the key is back on a lease that lives", async || {
        let entry = scene.etcd.get(KEY).await.ok_or("no key")?;
        let left = scene.etcd.seconds_left(entry.lease).await;
        (left >= 2).then_some(()).ok_or(format!("{left} s left"))
    })
    .await;
    let what = "key back after an etcd that was frozen";
    measured::took(2, what, healed.elapsed(), BACK);
    scene.etcd.keeps(KEY, secs(4)).await;
    scene.is_announced().await;
}

#[tokio::test]
async fn a_death_while_etcd_was_down_is_told_when_it_is_back() {
    let mut scene = AnnouncerScene::announced().await;
    scene.etcd.kill9().await;
    scene.redis.kill().await;
    never_for(secs(2), "sidekick exits", async || !scene.sidekick.is_up()).await;

    scene.etcd.restart().await;

    scene.is_withdrawn().await;
}

#[tokio::test]
async fn a_restart_while_etcd_was_down_is_told_when_it_is_back() {
    let scene = AnnouncerScene::announced().await;
    scene.etcd.kill9().await;
    scene.redis.restart().await;

    scene.etcd.restart().await;

    scene.is_announced_as_another_life().await;
}

#[tokio::test]
async fn a_key_deleted_while_sidekick_was_cut_off_comes_back() {
    let scene = AnnouncerScene::announced().await;
    scene.sidekick.freeze();
    scene.etcd.delete(KEY).await;
    scene.etcd.kill9().await;
    scene.sidekick.thaw();

    scene.etcd.restart().await;

    appears(&scene.etcd, "came back without it").await;
    scene.is_announced().await;
}

/// A third of the TTL has passed since the last renewal when etcd goes, and the try that meets its return
/// may have to end first.
#[tokio::test]
async fn an_etcd_behind_a_black_hole_for_a_ttl_less_a_third_and_a_failover_costs_no_key() {
    outlives(Wire::BlackHole).await;
}

#[tokio::test]
async fn an_etcd_that_refuses_for_a_ttl_less_a_third_and_a_failover_costs_no_key() {
    outlives(Wire::Refuse).await;
}

/// etcd itself goes on, and counts the lease down.
async fn outlives(wire: Wire) {
    const TTL: u32 = 9;
    const FAILOVER: Duration = secs(2);
    let outage = secs(TTL.into()) * 2 / 3 - FAILOVER;
    let etcd = Etcd::start().await;
    let proxy = Proxy::before(etcd.url()).await;
    let url = proxy.url();
    let announce = |announce: Announce, _: &Etcd| announce.endpoints(&[&url]).times(TTL, 6);
    let scene = AnnouncerScene::announced_in(etcd, announce).await;
    let log = scene.etcd.watch(KEY).await;
    let heard = async || scene.etcd.asked("LeaseKeepAlive").await;
    let renewal = async || {
        let before = heard().await;
        let asked = async || heard().await > before;
        eventually(secs(TTL.into()), "the lease is renewed", asked).await;
        Instant::now()
    };
    // The worst moment is just before a renewal, whatever their pace is. Where a renewal slips through after all,
    // the test tries again.
    let mut cut = None;
    for _ in 0..5 {
        let (first, second) = (renewal().await, renewal().await);
        let next = second + (second - first) - millis(150);
        let is_due = async || Instant::now() >= next;
        eventually(secs(TTL.into()), "a renewal is due", is_due).await;
        let before = heard().await;
        proxy.set(wire);
        let since = Instant::now();
        // What was under way has arrived by then.
        tokio::time::sleep(millis(100)).await;
        if heard().await == before {
            cut = Some((since, before));
            break;
        }
        proxy.pass();
    }
    let (since, renewals) = cut.expect("etcd is cut off just before a renewal");

    let rest = outage.saturating_sub(since.elapsed());
    let renewed = async || heard().await > renewals;
    never_for(rest, "etcd hears of a renewal", renewed).await;
    proxy.pass();

    scene.etcd.keeps(KEY, secs(TTL.into())).await;
    let gaps = log.so_far().await;
    let gaps = gaps.iter().filter(|change| change.put.is_none()).count();
    let seconds = outage.as_secs();
    let what =
        format!("gaps of a key with a TTL of {TTL} s after {seconds} s of {wire:?} before etcd");
    measured::counted(2, what, gaps, 0);
}

/// Each try used to leave a lease.
#[tokio::test]
async fn a_grant_whose_answer_is_lost_leaves_no_second_lease() {
    let mut grant = Grant::whose_answer_is_lost().await;
    let asked = async || grant.etcd.asked("LeaseGrant").await >= 2;
    eventually(secs(10), "the lease is asked for again", asked).await;

    grant.proxy.pass();

    let key = async || grant.etcd.get(KEY).await;
    eventually(secs(5), "the key appears", key).await;
    assert_eq!(grant.etcd.leases().await.len(), 1, "one process, one lease");
    grant.sidekick.leaves().await;
    assert_eq!(grant.etcd.leases().await, [0; 0]);
}

#[tokio::test]
async fn a_lease_whose_grant_was_never_answered_is_revoked_on_leaving() {
    let mut grant = Grant::whose_answer_is_lost().await;

    grant.sidekick.leaves().await;

    let what = "the lease is revoked";
    eventually(secs(1), what, async || grant.etcd.leases().await.is_empty()).await;
}

/// A sidekick that was granted a lease and doesn't know it.
struct Grant {
    sidekick: Sidekick,
    proxy: Proxy,
    _redis: Container<'static>,
    etcd: Etcd,
}

impl Grant {
    async fn whose_answer_is_lost() -> Grant {
        let (engine, etcd) = tokio::join!(Engine::shared(), Etcd::start());
        let redis = engine.redis().run().await;
        let proxy = Proxy::before(etcd.url()).await;
        proxy.set(Wire::MuteServer);
        let announce = Sidekick::announce(redis.name(), KEY).docker(engine);
        let sidekick = announce.endpoints(&[&proxy.url()]).host(HOST).spawn();
        let granted = async || !etcd.leases().await.is_empty();
        eventually(secs(5), "etcd grants a lease", granted).await;
        Grant {
            sidekick,
            proxy,
            _redis: redis,
            etcd,
        }
    }
}

async fn appears(etcd: &Etcd, that: &str) {
    let healed = Instant::now();
    eventually(BACK, "the key is back", async || etcd.get(KEY).await).await;
    let what = format!("key back after an etcd that {that}");
    measured::took(2, what, healed.elapsed(), BACK);
}
