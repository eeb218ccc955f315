//! `announce --drain`: a shutdown that waits for the agents, and operators' wishes. The test plays the agents, by
//! writing their keys into the real etcd.

use std::time::{Duration, Instant};

use etcd_client::PutOptions;
use sidekick_harness::{
    AnnouncerScene, Engine, Etcd, KEY, SOON, Value, eventually, measured, millis, never_for, secs,
    throughout,
};

pub(super) const AGENT: &str = "/sidekick/services/agents/worker-9";
pub(super) const WORD: &str = "/sidekick/services/agents/worker-9/redis/redis@1";
const WISH: &str = "/sidekick/services/drain/redis/redis@1";

/// What `--drain` is where an agent is to end it sooner.
pub(super) const LONG: &str = "60s";

/// The value while the instance drains.
fn draining(value: &Value) -> String {
    value.text().replace('}', r#","status":"draining"}"#)
}

/// The agent's word about the instance.
pub(super) fn word(value: &Value, alone: bool) -> String {
    let alone = if alone { r#","alone":true"# } else { "" };
    let Value {
        host, port, since, ..
    } = value;
    format!(r#"{{"host":"{host}","port":{port},"since":"{since}"{alone}}}"#)
}

pub(super) async fn drains_for(longest: &str) -> AnnouncerScene<'static> {
    AnnouncerScene::announced_with(|announce| announce.option("--drain", longest)).await
}

pub(super) trait Drains {
    /// Waits until the key has the draining value; returns its lease.
    async fn shows_draining(&self, value: &Value) -> i64;
    /// An agent that serves redis, on a lease of its own; returns that.
    async fn agent(&self) -> i64;
}

impl Drains for Etcd {
    async fn shows_draining(&self, value: &Value) -> i64 {
        let wanted = draining(value);
        eventually(SOON, format!("etcd shows {wanted}"), async || {
            let entry = self.get(KEY).await.ok_or("nothing")?;
            match entry.value == wanted {
                true => Ok(entry.lease),
                false => Err(entry.value),
            }
        })
        .await
    }

    async fn agent(&self) -> i64 {
        let record = r#"{"services":["redis"]}"#;
        self.put_leased(AGENT, record, secs(60)).await
    }
}

pub(super) async fn put_on(etcd: &Etcd, lease: i64, key: &str, value: &str) {
    let options = Some(PutOptions::new().with_lease(lease));
    let put = etcd.client().kv_client().put(key, value, options).await;
    put.expect("the test may put");
}

/// Waits for exit status 0, and that the key and the lease are gone.
pub(super) async fn left(scene: &mut AnnouncerScene<'_>, within: Duration) {
    let status = scene.sidekick.wait_exit(within).await;
    assert_eq!(status.code(), Some(0));
    assert_eq!(scene.etcd.get(KEY).await, None);
}

#[tokio::test]
async fn a_stop_drains_on_the_same_lease_and_ends_with_the_last_agents_word() {
    let mut scene = drains_for(LONG).await;
    let lease = scene.etcd.get(KEY).await.expect("it is announced").lease;
    let agents = scene.etcd.agent().await;
    let other = scene
        .etcd
        .put_leased(
            "/sidekick/services/agents/worker-8",
            r#"{"services":["redis"]}"#,
            secs(60),
        )
        .await;
    scene.sidekick.term();
    assert_eq!(scene.etcd.shows_draining(&scene.value).await, lease);
    put_on(&scene.etcd, agents, WORD, &word(&scene.value, false)).await;
    let sidekick = &mut scene.sidekick;
    never_for(
        millis(700),
        "sidekick left before the last word",
        async || !sidekick.is_up(),
    )
    .await;
    let last = WORD.replace("worker-9", "worker-8");
    let began = Instant::now();
    put_on(&scene.etcd, other, &last, &word(&scene.value, false)).await;
    left(&mut scene, SOON).await;
    measured::took(6, "the last agent's word to exit", began.elapsed(), secs(5));
    assert!(!scene.etcd.leases().await.contains(&lease));
    assert_eq!(scene.sidekick.times_logged("drained in"), 1);
}

#[tokio::test]
async fn a_sole_instance_leaves_with_the_agents_word_that_it_is_alone() {
    let mut scene = drains_for(LONG).await;
    let agent = scene.etcd.agent().await;
    put_on(&scene.etcd, agent, WORD, &word(&scene.value, true)).await;
    let took = scene.sidekick.leaves().await;
    assert!(took < secs(3), "leaving took {took:?}");
    assert_eq!(scene.etcd.get(KEY).await, None);
}

#[tokio::test]
async fn without_an_agent_a_stop_drains_for_the_full_time() {
    takes_the_full_time(
        drains_for("2s").await,
        "no agent is known that serves redis",
    )
    .await;
}

#[tokio::test]
async fn an_agent_that_vanishes_without_its_word_costs_the_full_time() {
    let scene = drains_for("3s").await;
    let agent = scene.etcd.agent().await;
    // About another life of the container.
    let stale = Value {
        since: "2020-01-01T00:00:00Z".to_owned(),
        ..scene.value.clone()
    };
    put_on(&scene.etcd, agent, WORD, &word(&stale, false)).await;
    let began = Instant::now();
    scene.sidekick.term();
    scene.etcd.shows_draining(&scene.value).await;
    scene.sidekick.logs("draining").await;
    // The agents have been read once the word is taken back: this is long after that.
    let sidekick = &scene.sidekick;
    throughout(secs(1), "it drains", async || {
        sidekick.times_logged("stopped") == 0
    })
    .await;
    scene.etcd.revoke(agent).await;
    ends_by_time(scene, began, secs(3), "no word from the agents worker-9").await;
}

pub(super) async fn takes_the_full_time(scene: AnnouncerScene<'_>, words: &str) {
    let began = Instant::now();
    scene.sidekick.term();
    scene.etcd.shows_draining(&scene.value).await;
    ends_by_time(scene, began, secs(2), words).await;
}

pub(super) async fn ends_by_time(
    mut scene: AnnouncerScene<'_>,
    began: Instant,
    longest: Duration,
    words: &str,
) {
    left(&mut scene, longest + SOON).await;
    let took = began.elapsed();
    assert!(took >= longest, "it drained for {took:?} alone");
    assert_eq!(scene.sidekick.times_logged(words), 1);
}

#[tokio::test]
async fn the_containers_death_ends_the_drain() {
    let mut scene = drains_for(LONG).await;
    scene.sidekick.term();
    scene.etcd.shows_draining(&scene.value).await;
    scene.redis.kill().await;
    left(&mut scene, SOON).await;
}

#[tokio::test]
async fn a_second_sigterm_ends_the_drain_at_once_and_the_key_goes() {
    let mut scene = drains_for(LONG).await;
    scene.sidekick.term();
    scene.etcd.shows_draining(&scene.value).await;
    let began = Instant::now();
    scene.sidekick.term();
    left(&mut scene, SOON).await;
    measured::took(6, "a second SIGTERM to exit", began.elapsed(), secs(5));
}

#[tokio::test]
async fn a_key_that_was_never_announced_needs_no_drain() {
    let mut scene = drains_for(LONG).await;
    scene.redis.kill().await;
    scene.is_withdrawn().await;
    let took = scene.sidekick.leaves().await;
    assert!(took < secs(3), "leaving took {took:?}");
}

#[tokio::test]
async fn an_etcd_that_does_not_confirm_the_drain_costs_no_more_than_two_deadlines() {
    let mut scene = drains_for(LONG).await;
    scene.etcd.freeze();
    let began = Instant::now();
    scene.sidekick.term();
    let status = scene.sidekick.wait_exit(secs(15)).await;
    let took = began.elapsed();
    measured::took(
        6,
        "SIGTERM to exit, --drain and a frozen etcd",
        took,
        secs(10),
    );
    assert_eq!(status.code(), Some(0));
    assert!(took < secs(10), "it took {took:?}");
    assert_eq!(scene.sidekick.times_logged("not draining: etcd"), 1);
    scene.etcd.thaw();
}

/// Who has no right to the control keys drains all the same, says so once, and keeps its key meanwhile as ever.
#[tokio::test]
async fn without_the_right_to_read_control_keys_the_drain_takes_the_full_time() {
    let etcd = Etcd::start_with_login(300).await;
    let mut scene = AnnouncerScene::announced_in(etcd, |announce, etcd| {
        announce.etcd(etcd).login().option("--drain", "2s")
    })
    .await;
    scene.sidekick.logs("no effect here").await;
    scene.etcd.delete(KEY).await;
    scene.is_announced().await;
    let began = Instant::now();
    scene.sidekick.term();
    scene.etcd.shows_draining(&scene.value).await;
    left(&mut scene, SOON).await;
    assert!(began.elapsed() >= secs(2), "the full time");
    assert_eq!(scene.sidekick.times_logged("no effect here"), 1);
    assert_eq!(scene.sidekick.times_logged("draining for the full 2 s"), 1);
}

#[tokio::test]
async fn without_drain_nothing_is_read_below_the_control_prefix() {
    let etcd = Etcd::start_with_login(300).await;
    let mut scene =
        AnnouncerScene::announced_in(etcd, |announce, etcd| announce.etcd(etcd).login()).await;
    scene.etcd.put(WISH, "{}").await;
    let revision = scene.etcd.revision().await;
    never_for(secs(2), "the wish is obeyed", async || {
        scene.etcd.revision().await != revision
    })
    .await;
    let took = scene.sidekick.leaves().await;
    assert!(took < secs(3), "leaving took {took:?}");
    assert!(scene.etcd.denials().await < 1.0, "a control key was read");
}

#[tokio::test]
async fn a_wish_drains_until_it_is_taken_back_and_survives_both_restarts() {
    let mut scene = drains_for(LONG).await;
    let lease = scene.etcd.get(KEY).await.expect("it is announced").lease;
    scene.etcd.put(WISH, r#"{"reason":"new disk"}"#).await;
    assert_eq!(scene.etcd.shows_draining(&scene.value).await, lease);
    scene.sidekick.logs("(new disk)").await;

    // Each value that stands at the key from now on.
    let watch = scene.etcd.watch(KEY).await;
    scene.redis.kill().await;
    scene.is_withdrawn().await;
    scene.redis.start().await;
    let value = scene.redis.value().await;
    scene.etcd.shows_draining(&value).await;
    scene.sidekick.kill9().await;
    let again = scene.announce_again(|announce| announce.option("--drain", LONG));
    eventually(SOON, "the next sidekick takes the key over", async || {
        let entry = scene.etcd.get(KEY).await;
        entry.is_some_and(|entry| entry.lease != lease)
    })
    .await;
    let changes = watch.so_far().await;
    let puts: Vec<_> = changes.into_iter().filter_map(|it| it.put).collect();
    assert!(puts.len() >= 2, "{puts:?}");
    assert!(puts.iter().all(|it| it.contains("draining")), "{puts:?}");
    scene.etcd.delete(WISH).await;
    scene.etcd.shows(KEY, &value).await;
    drop(again);
}

#[tokio::test]
async fn a_wish_that_an_agent_has_granted_already_lets_a_stop_leave_at_once() {
    let mut scene = drains_for(LONG).await;
    scene.etcd.put(WISH, "").await;
    scene.etcd.shows_draining(&scene.value).await;
    let agent = scene.etcd.agent().await;
    put_on(&scene.etcd, agent, WORD, &word(&scene.value, false)).await;
    let took = scene.sidekick.leaves().await;
    assert!(took < secs(3), "leaving took {took:?}");
}

#[tokio::test]
async fn ready_announced_is_told_once_the_key_stands() {
    let (engine, etcd) = tokio::join!(Engine::shared(), Etcd::start());
    let redis = engine.redis().create().await;
    let sidekick = redis
        .announce(&etcd)
        .option("--ready", "announced")
        .under_systemd()
        .spawn();
    let notifications = sidekick.notifications();
    notifications
        .status("that it waits", |status| status.starts_with("waiting"))
        .await;
    assert_eq!(notifications.count("READY=1"), 0);
    redis.start().await;
    etcd.shows(KEY, &redis.value().await).await;
    notifications.tell("READY=1").await;
    let told = notifications.all();
    let at = |words: &str| told.iter().position(|it| it.starts_with(words));
    assert!(at("READY=1") > at("STATUS=waiting"), "{told:?}");
}
