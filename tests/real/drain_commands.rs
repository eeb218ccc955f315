//! `sidekick drain`, `undrain` and `wait`, and what `list` and `explain` show of a wish.

use sidekick_harness::{Announce, AnnouncerScene, Etcd, KEY, SOON, Sidekick, eventually, secs};

const NAME: &str = "redis/redis@1";
const WISH: &str = "/sidekick/services/drain/redis/redis@1";
const AGENT: &str = "/sidekick/services/agents/worker-9";
const WORD: &str = "/sidekick/services/agents/worker-9/redis/redis@1";

const INSTANCE: &str = r#"{"host":"10.0.0.7","port":6379}"#;
const DRAINING: &str = r#"{"host":"10.0.0.7","port":6379,"status":"draining"}"#;

fn drain_wait(etcd: &Etcd, timeout: &str) -> Announce {
    let drain = Sidekick::drain(NAME).etcd(etcd).flag("--wait");
    drain.option("--timeout", timeout)
}

async fn is_draining(etcd: &Etcd) {
    eventually(SOON, "the key says draining", async || {
        let entry = etcd.get(KEY).await.ok_or("nothing")?;
        entry
            .value
            .contains("draining")
            .then_some(())
            .ok_or(entry.value)
    })
    .await;
}

#[tokio::test]
async fn an_operator_drains_an_instance_and_takes_it_back() {
    let scene = AnnouncerScene::announced_with(|announce| announce.option("--drain", "9s")).await;
    let drain = Sidekick::drain(NAME).etcd(&scene.etcd);
    let drained = drain.option("--reason", "new disk").run().await;
    assert_eq!((drained.code, &*drained.log), (Some(0), ""));
    is_draining(&scene.etcd).await;
    scene.sidekick.logs("(new disk)").await;

    let list = Sidekick::list().etcd(&scene.etcd).run().await;
    let (row, wish) = ("draining", "new disk");
    assert!(
        list.text.contains(row) && list.text.contains(wish),
        "{}",
        list.text
    );
    let explain = Sidekick::explain(scene.redis.name()).etcd(&scene.etcd);
    let explained = explain.docker(scene.engine).host(sidekick_harness::HOST);
    let explained = explained.run().await;
    assert!(
        explained
            .text
            .contains("an operator wishes that it drains (new disk)"),
        "{}",
        explained.text
    );

    let undrained = Sidekick::undrain(NAME).etcd(&scene.etcd).run().await;
    assert_eq!((undrained.code, &*undrained.log), (Some(0), ""));
    scene.is_announced().await;
    let again = Sidekick::undrain(NAME).etcd(&scene.etcd).run().await;
    assert_eq!(again.code, Some(0));
    assert!(again.log.contains("there was no wish"), "{}", again.log);
}

#[tokio::test]
async fn drain_waits_for_the_agents_word_and_says_what_is_missing() {
    let etcd = Etcd::start().await;
    etcd.put(KEY, INSTANCE).await;
    let late = drain_wait(&etcd, "1s").run().await;
    assert_eq!(late.code, Some(1));
    assert!(late.log.contains("has not obeyed"), "{}", late.log);
    etcd.put(KEY, DRAINING).await;
    let late = drain_wait(&etcd, "1s").run().await;
    assert_eq!(late.code, Some(1));
    assert!(late.log.contains("no agent is known"), "{}", late.log);
    etcd.put(AGENT, r#"{"services":["redis"]}"#).await;
    let late = drain_wait(&etcd, "1s").run().await;
    assert_eq!(late.code, Some(1));
    assert!(
        late.log.contains("no word from the agents worker-9"),
        "{}",
        late.log
    );

    let mut waits = drain_wait(&etcd, "60s").spawn();
    etcd.put(WORD, INSTANCE).await;
    assert_eq!(waits.wait_exit(SOON).await.code(), Some(0));
    waits.logs("redis/redis@1 is drained").await;
}

#[tokio::test]
async fn an_instance_that_goes_is_drained() {
    let etcd = Etcd::start().await;
    etcd.put(KEY, INSTANCE).await;
    let mut waits = drain_wait(&etcd, "60s").spawn();
    eventually(SOON, "the wish stands", async || etcd.get(WISH).await).await;
    etcd.delete(KEY).await;
    assert_eq!(waits.wait_exit(SOON).await.code(), Some(0));
}

#[tokio::test]
async fn a_wish_for_an_instance_that_does_not_exist_is_said_and_kept() {
    let etcd = Etcd::start().await;
    let drain = Sidekick::drain(NAME).etcd(&etcd).run().await;
    assert_eq!(drain.code, Some(0));
    assert!(
        drain.log.contains("is not registered below /services"),
        "{}",
        drain.log
    );
    let wish = etcd.get(WISH).await.expect("the wish stands");
    assert_eq!(wish.lease, 0);
    let list = Sidekick::list().etcd(&etcd).run().await;
    assert!(
        list.log
            .contains("redis/redis@1 is to drain, and is not registered"),
        "{}",
        list.log
    );
    let late = drain_wait(&etcd, "1s").run().await;
    assert_eq!(late.code, Some(1));
    assert!(late.log.contains("it is not registered"), "{}", late.log);
}

#[tokio::test]
async fn a_wish_for_a_time_hangs_on_a_lease() {
    let etcd = Etcd::start().await;
    let drain = Sidekick::drain(NAME).etcd(&etcd).option("--for", "1h");
    assert_eq!(drain.run().await.code, Some(0));
    let wish = etcd.get(WISH).await.expect("the wish stands");
    let left = etcd.seconds_left(wish.lease).await;
    assert!((3590..=3600).contains(&left), "{left}");
    etcd.revoke(wish.lease).await;
    assert_eq!(etcd.get(WISH).await, None);
}

#[tokio::test]
async fn wait_waits_for_instances_that_serve() {
    let etcd = Etcd::start().await;
    etcd.put(KEY, DRAINING).await;
    let wait = || Sidekick::wait("redis").etcd(&etcd).option("--count", "2");
    let late = wait().option("--timeout", "1s").run().await;
    assert_eq!(late.code, Some(1));
    assert!(
        late.log.contains("0 of 2 instances of redis serve"),
        "{}",
        late.log
    );

    let mut two = wait().spawn();
    let mut one = Sidekick::wait(NAME).etcd(&etcd).spawn();
    etcd.put("/services/redis/redis@2", INSTANCE).await;
    etcd.put("/services/redis/redis@3", "junk").await;
    sidekick_harness::never_for(secs(1), "one of them has seen enough", async || {
        !two.is_up() || !one.is_up()
    })
    .await;
    etcd.put(KEY, INSTANCE).await;
    assert_eq!(one.wait_exit(SOON).await.code(), Some(0));
    assert_eq!(two.wait_exit(SOON).await.code(), Some(0));

    // An etcd that isn't there yet is waited for, as long as that is asked for.
    let nowhere = Etcd::not_yet().await;
    let late = Sidekick::wait("redis")
        .etcd(&nowhere)
        .option("--timeout", "1s");
    assert_eq!(late.run().await.code, Some(1));
    let mut asked = Sidekick::wait("web").etcd(&etcd).spawn();
    asked.term();
    assert_ne!(asked.wait_exit(SOON).await.code(), Some(0));
}
