//! Which container's sidekick holds a key.

use std::time::Instant;

use sidekick_harness::*;

/// Later than any container of a test started.
const LATER: &str = "2999-12-31T23:59:59.999999999Z";

/// Earlier than any container of a test started.
const EARLIER: &str = "2001-01-01T00:00:00Z";

/// Twelve digits that no container of a test has.
const RIVAL: &str = "badc0ffee000";

#[tokio::test]
async fn a_key_deleted_by_hand_comes_back_at_once() {
    let scene = AnnouncerScene::announced().await;
    let deleted = Instant::now();
    scene.etcd.delete(KEY).await;
    scene.is_announced().await;
    let what = "key back after it was deleted by hand";
    measured::took(2, what, deleted.elapsed(), secs(2));
}

#[tokio::test]
async fn a_key_overwritten_by_hand_with_junk_is_taken_back() {
    let scene = AnnouncerScene::announced().await;
    scene.etcd.put(KEY, "\u{1}not json").await;
    scene.is_announced().await;
}

#[tokio::test]
async fn a_key_that_was_made_permanent_by_hand_gets_its_lease_back() {
    let scene = AnnouncerScene::announced().await;
    scene.etcd.put(KEY, &scene.value.text()).await;
    scene.is_announced().await;
    scene.sidekick.logs("by another writer; put back").await;
    scene.sidekick.never_logs("took the key");
}

#[tokio::test]
async fn a_key_whose_address_was_edited_by_hand_is_put_back_and_not_taken_over_from_itself() {
    let scene = AnnouncerScene::announced().await;
    let mut edited = scene.value.clone();
    edited.host = "elsewhere".to_owned();
    scene.etcd.put(KEY, &edited.text()).await;
    scene.is_announced().await;
    scene.sidekick.logs("by another writer; put back").await;
    scene.sidekick.never_logs("took the key");
}

#[tokio::test]
async fn what_a_killed_sidekick_left_is_no_other_containers_key() {
    let mut scene = AnnouncerScene::announced().await;
    scene.sidekick.kill9().await;
    let second = scene.announce_again(|announce| announce);
    let told = "took the key over from the previous sidekick process of this container";
    second.logs(told).await;
    scene.is_announced().await;
}

#[tokio::test]
async fn who_only_stood_by_says_so_when_it_stops() {
    let mut meeting = Meeting::with(&Value::of_rival(RIVAL, LATER).text()).await;
    meeting.rival_wins().await;
    meeting.sidekick.leaves().await;
    let told = "stopped; no key was announced; redis@1 is held by rival:1";
    meeting.sidekick.logs(told).await;
    meeting.sidekick.never_logs("withdr");

    let mut scene = AnnouncerScene::announced().await;
    scene.sidekick.leaves().await;
    scene.sidekick.logs("stopped; withdrew redis@1").await;
}

/// By its own machine's clock the holder's container starts in an hour.
#[tokio::test]
async fn a_holder_with_a_fast_clock_is_stood_by_and_its_clock_is_named() {
    let (engine, etcd) = tokio::join!(Engine::shared(), Etcd::start());
    let redis = engine.redis().run().await;
    let an_hour_ahead = std::time::SystemTime::now() + secs(3600);
    let unix = an_hour_ahead.duration_since(std::time::UNIX_EPOCH);
    let nanos = unix.expect("it is after 1970").as_nanos();
    let nanos = i128::try_from(nanos).expect("it is before 9999");
    let since = sidekick::endpoint::Since::from_unix_nanos(nanos).expect("it is a moment");
    let rival = Value::of_rival(RIVAL, &since.to_string());
    let meeting = Meeting::at(etcd, redis, &rival.text()).await;
    meeting.rival_wins().await;
    meeting.sidekick.logs("ahead of this machine's clock").await;
    let log = meeting.sidekick.log();
    let by = |line: &String| line.contains("35") && line.contains("check the clocks");
    assert!(log.iter().any(by), "{log:#?}");

    meeting.etcd.revoke(meeting.rivals_lease).await;
    meeting.sidekick_wins().await;
}

#[tokio::test]
async fn a_value_of_the_shell_loop_is_taken_over() {
    let meeting = Meeting::with(r#"{"host":"old","port":6379}"#).await;
    meeting.sidekick_wins().await;
}

#[tokio::test]
async fn junk_that_stands_at_the_key_is_taken_over_and_logged_once() {
    let meeting = Meeting::with("{\"host\":").await;
    meeting.sidekick_wins().await;
    meeting.sidekick.logs("WARN").await;
    meeting.etcd.put(KEY, "{\"host\":").await;
    meeting.sidekick_wins().await;
    meeting.sidekick.logged_times("WARN", 1);
}

#[tokio::test]
async fn a_rival_whose_container_is_older_is_taken_over_at_once() {
    let meeting = Meeting::with(&Value::of_rival(RIVAL, EARLIER).text()).await;
    meeting.sidekick_wins().await;

    meeting.etcd.revoke(meeting.rivals_lease).await;
    meeting.etcd.keeps(KEY, secs(1)).await;
}

#[tokio::test]
async fn a_rival_whose_container_is_newer_is_stood_by_until_it_goes() {
    let meeting = Meeting::with(&Value::of_rival(RIVAL, LATER).text()).await;
    meeting.rival_wins().await;
    meeting.sidekick.logged_times(RIVAL, 1);

    meeting.etcd.delete(KEY).await;
    meeting.sidekick_wins().await;
}

#[tokio::test]
async fn a_rival_whose_lease_runs_out_is_succeeded() {
    let meeting = Meeting::with(&Value::of_rival(RIVAL, LATER).text()).await;
    meeting.rival_wins().await;
    meeting.etcd.revoke(meeting.rivals_lease).await;
    meeting.sidekick_wins().await;
}

#[tokio::test]
async fn of_two_containers_that_started_together_the_greater_id_wins() {
    let (engine, etcd) = tokio::join!(Engine::shared(), Etcd::start());
    let redis = engine.redis().run().await;
    let smaller = Value::of_rival("000000000000", &redis.since().await);
    let meeting = Meeting::at(etcd, redis, &smaller.text()).await;
    meeting.sidekick_wins().await;

    let greater = Value::of_rival("ffffffffffff", &meeting.redis.since().await);
    let rival = greater.text();
    meeting.etcd.put_leased(KEY, &rival, secs(60)).await;
    let put = meeting.etcd.get(KEY).await;
    meeting.etcd.keeps_entry(KEY, &put, secs(2)).await;
}

#[tokio::test]
async fn who_is_overtaken_by_a_newer_container_stands_by_and_deletes_nothing() {
    let mut scene = AnnouncerScene::announced_every(3, 1).await;
    let rival = Value::of_rival(RIVAL, LATER).text();
    scene.etcd.put_leased(KEY, &rival, secs(60)).await;
    let put = scene.etcd.get(KEY).await;
    scene.sidekick.logs(RIVAL).await;
    scene.etcd.keeps_entry(KEY, &put, secs(2)).await;

    scene.redis.kill().await;
    scene.etcd.keeps_entry(KEY, &put, secs(1)).await;

    scene.sidekick.leaves().await;
    assert_eq!(scene.etcd.get(KEY).await, put, "the rival's key stands");
}

#[tokio::test]
async fn who_is_overtaken_by_an_older_container_takes_the_key_back() {
    let scene = AnnouncerScene::announced().await;
    let rival = Value::of_rival(RIVAL, EARLIER).text();
    scene.etcd.put_leased(KEY, &rival, secs(60)).await;
    scene.is_announced().await;
}

#[tokio::test]
async fn two_sidekicks_for_one_container_never_fight() {
    let mut scene = AnnouncerScene::announced_every(3, 1).await;
    let mut second = scene.announce_again(|announce| announce.times(3, 1));
    let log = scene.etcd.watch(KEY).await;

    // Two intervals without a write: they have settled who holds it.
    let quiet = async || log.quiet_for().await > secs(2);
    eventually(2 * SOON, "they settle", quiet).await;
    let settled = scene.etcd.get(KEY).await;
    let writes = log.so_far().await.len();
    let what = "overwrites until two sidekicks for one container have settled who has the key";
    measured::counted(3, what, writes, 2);
    scene.etcd.keeps_entry(KEY, &settled, secs(4)).await;

    scene.sidekick.leaves().await;
    scene.is_announced().await;
    second.leaves().await;
    let left = scene.etcd.get(KEY).await;
    assert_eq!(left, None, "the last one takes the key away");
}

#[tokio::test]
async fn failover_to_a_newer_container_on_another_machine_leaves_no_gap() {
    let scene = AnnouncerScene::announced().await;
    let log = scene.etcd.watch(KEY).await;
    // The other machine: another container by another name, and a sidekick of its own.
    let other = scene.engine.redis().run().await;
    let mut value = other.value().await;
    value.host = "worker-2.test".to_owned();
    let announce = other.announce(&scene.etcd);
    let mut elsewhere = announce.host("worker-2.test").spawn();
    scene.etcd.shows(KEY, &value).await;

    scene.redis.kill().await;
    scene.etcd.keeps(KEY, secs(1)).await;
    assert!(!log.has_a_gap().await, "the key was there all the time");

    scene.redis.start().await;
    // The restarted container is the newer one now.
    scene.is_announced().await;
    elsewhere.leaves().await;
    scene.is_announced().await;
}

#[tokio::test]
async fn whatever_becomes_of_a_key_each_put_hangs_on_a_lease() {
    let scene = AnnouncerScene::announced().await;
    let log = scene.etcd.watch(KEY).await;
    for _ in 0..3 {
        scene.etcd.delete(KEY).await;
        scene.is_announced().await;
        let there = scene.etcd.get(KEY).await.expect("it is announced");
        scene.etcd.revoke(there.lease).await;
        scene.is_announced().await;
        scene.redis.kill().await;
        scene.is_withdrawn().await;
        scene.redis.start().await;
        scene.is_announced().await;
    }
    let changes = log.so_far().await;
    let puts = changes.iter().filter(|change| change.put.is_some());
    let leases: Vec<_> = puts.map(|put| put.lease).collect();
    assert!(leases.len() >= 9, "{changes:?}");
    let bare = leases.iter().filter(|lease| **lease == 0).count();
    let puts = leases.len();
    let what = format!("of {puts} puts after deletes, revokes and deaths, those without a lease");
    measured::counted(4, what, bare, 0);
}

#[tokio::test]
async fn a_lease_revoked_by_hand_is_granted_again() {
    let scene = AnnouncerScene::announced().await;
    let lost = scene.etcd.get(KEY).await.expect("the key stands").lease;

    scene.etcd.revoke(lost).await;

    let entry = scene.etcd.shows(KEY, &scene.value).await;
    assert_ne!(entry.lease, lost, "the old lease is gone");
}

/// A sidekick that comes to a key which a rival holds.
struct Meeting {
    sidekick: Sidekick,
    redis: Container<'static>,
    etcd: Etcd,
    held: String,
    rivals_lease: i64,
}

impl Meeting {
    async fn with(held: &str) -> Meeting {
        let (engine, etcd) = tokio::join!(Engine::shared(), Etcd::start());
        let redis = engine.redis().run().await;
        Meeting::at(etcd, redis, held).await
    }

    async fn at(etcd: Etcd, redis: Container<'static>, held: &str) -> Meeting {
        let rivals_lease = etcd.put_leased(KEY, held, secs(60)).await;
        let sidekick = redis.announce(&etcd).times(3, 1).spawn();
        Meeting {
            sidekick,
            redis,
            etcd,
            held: held.to_owned(),
            rivals_lease,
        }
    }

    async fn sidekick_wins(&self) {
        self.etcd.shows(KEY, &self.redis.value().await).await;
    }

    async fn rival_wins(&self) {
        self.sidekick.logs(RIVAL).await;
        let before = self.etcd.get(KEY).await.expect("the rival's key stands");
        assert_eq!(before.value, self.held, "the rival's value stands");
        self.etcd.keeps_entry(KEY, &Some(before), secs(3)).await;
    }
}
