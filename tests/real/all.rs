//! `announce --all`: every container with a label, at a key of its own, by one process.

use etcd_client::{Permission, PermissionType, RoleRevokePermissionOptions};
use sidekick_harness::*;

/// One announcer for a whole engine, which other tests use too: it announces their containers as
/// well, to this test's own etcd.
struct Host {
    sidekick: Sidekick,
    engine: &'static Engine,
    etcd: Etcd,
    /// A service that no other test uses, for the engine is shared.
    service: String,
}

impl Host {
    async fn new() -> Host {
        Host::with(|announce| announce).await
    }

    async fn with(more: impl FnOnce(Announce) -> Announce) -> Host {
        let (engine, etcd) = tokio::join!(Engine::shared(), Etcd::start());
        Host {
            sidekick: more(engine.announce_all(&etcd)).spawn(),
            engine,
            etcd,
            service: engine.name("svc"),
        }
    }

    /// A running container that asks to be announced.
    async fn redis(&self) -> Container<'static> {
        self.labelled(&[]).run().await
    }

    /// A container that asks to be announced, with further labels.
    fn labelled(&self, labels: &[&str]) -> Run<'static> {
        let name = self.engine.name("redis");
        let run = self.engine.container(&name).publish("6379");
        let run = run.label(&format!("sidekick.service={}", self.service));
        labels.iter().fold(run, |run, label| run.label(label))
    }

    fn key_of(&self, container: &Container<'_>) -> String {
        format!("/services/{}/{}@{HOST}", self.service, container.name())
    }

    async fn shows(&self, container: &Container<'_>) -> Entry {
        self.shows_at(&self.key_of(container), container).await
    }

    async fn shows_at(&self, key: &str, container: &Container<'_>) -> Entry {
        let port = container.host_port("6379/tcp").await;
        self.etcd.shows(key, &container.at(HOST, port).await).await
    }

    async fn loses(&self, container: &Container<'_>) {
        self.etcd.loses(&self.key_of(container)).await;
    }
}

#[tokio::test]
async fn containers_that_run_and_containers_that_start_are_announced_on_one_lease() {
    let engine = Engine::shared().await;
    let early = engine.container(&engine.name("redis")).publish("6379");
    let early = early.label("sidekick.service=early").run().await;
    let host = Host::new().await;
    let early_key = format!("/services/early/{}@{HOST}", early.name());
    let first = host.shows_at(&early_key, &early).await;

    let late = host.redis().await;
    let second = host.shows(&late).await;

    assert_eq!(first.lease, second.lease, "a process has one lease");
    assert_eq!(host.etcd.leases().await, [first.lease]);
}

#[tokio::test]
async fn each_container_comes_and_goes_alone_and_a_stop_takes_all_away() {
    let mut host = Host::new().await;
    let (one, other) = (host.redis().await, host.redis().await);
    host.shows(&one).await;
    let stays = host.shows(&other).await;

    one.kill().await;
    host.loses(&one).await;
    one.start().await;
    host.shows(&one).await;
    one.stop().await;
    host.loses(&one).await;
    one.restart().await;
    host.shows(&one).await;
    one.pause().await;
    host.loses(&one).await;
    one.unpause().await;
    host.shows(&one).await;
    one.remove().await;
    host.loses(&one).await;
    assert_eq!(host.shows(&other).await, stays, "the other isn't touched");

    host.sidekick.leaves().await;
    assert_eq!(host.etcd.keys().await, [""; 0]);
    assert_eq!(host.etcd.leases().await, [0; 0]);
}

#[tokio::test]
async fn a_container_that_is_renamed_has_another_key() {
    let host = Host::new().await;
    let redis = host.redis().await;
    host.shows(&redis).await;
    let name = host.engine.name("renamed");

    redis.rename(&name).await;

    host.shows_at(&format!("/services/{}/{name}@{HOST}", host.service), &redis)
        .await;
    host.loses(&redis).await;
}

#[tokio::test]
async fn a_new_container_under_the_same_name_is_announced_with_its_own_id() {
    let host = Host::new().await;
    let first = host.redis().await;
    host.shows(&first).await;
    first.remove().await;
    let run = host.engine.container(first.name()).publish("6379");
    let label = format!("sidekick.service={}", host.service);
    let second = run.label(&label).run().await;
    host.shows(&second).await;
}

#[tokio::test]
async fn labels_say_instance_port_and_words() {
    let host = Host::new().await;
    let labels = [
        "sidekick.instance=redis@7",
        "sidekick.port=6379",
        "sidekick.meta.zone=a",
    ];
    let redis = host.labelled(&labels).publish("6380").run().await;
    let key = format!("/services/{}/redis@7", host.service);
    let port = redis.host_port("6379/tcp").await;
    let value = redis.at(HOST, port).await.text();
    let value = value.replace('}', r#","meta":{"zone":"a"}}"#);
    let stands = async || host.etcd.get(&key).await.map(|entry| entry.value);
    becomes(secs(5), &key, Some(value), stands).await;
}

#[tokio::test]
async fn several_ports_have_a_key_each() {
    let host = Host::new().await;
    let service = &host.service;
    let redis = host.engine.redis().publish("6380");
    let redis = redis.label(&format!("sidekick.6379.service={service}"));
    let redis = redis.label(&format!("sidekick.6380.service={service}"));
    let redis = redis.label(&format!("sidekick.53/udp.service={service}-dns"));
    let redis = redis.run().await;
    let instance = format!("{}@{HOST}", redis.name());
    for port in [6379, 6380] {
        let published = redis.host_port(&format!("{port}/tcp")).await;
        let value = redis.at(HOST, published).await;
        let key = format!("/services/{service}/{instance}:{port}");
        host.etcd.shows(&key, &value).await;
    }
    host.sidekick.logs("53/udp is not published").await;

    redis.kill().await;

    for port in [6379, 6380] {
        let key = format!("/services/{service}/{instance}:{port}");
        host.etcd.loses(&key).await;
    }
}

#[tokio::test]
async fn a_bad_label_refuses_that_container_alone_and_is_told_once() {
    let host = Host::new().await;
    let bad = host.labelled(&["sidekick.port=http"]).run().await;
    let good = host.redis().await;
    host.shows(&good).await;
    let told = format!("container=\"{}\"", bad.name());
    host.sidekick.logs(&told).await;
    bad.hang_up().await;
    bad.restart().await;
    let late = host.redis().await;
    host.shows(&late).await;

    let mut lines = host.sidekick.log();
    lines.retain(|line| line.contains(&told));
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("label sidekick.port"), "{lines:?}");
    assert_eq!(host.etcd.get(&host.key_of(&bad)).await, None);
}

#[tokio::test]
async fn explain_all_tells_of_each_container_why_or_why_not() {
    let host = Host::new().await;
    let good = host.redis().await;
    let bad = host
        .engine
        .redis()
        .label("sidekick.service=no/name")
        .run()
        .await;
    let plain = host.engine.redis().run().await;
    host.shows(&good).await;

    let explain = Sidekick::explain_all().docker(host.engine).host(HOST);
    let explained = explain.etcd(&host.etcd).run().await;

    assert_eq!(explained.code, Some(1), "not all are announceable");
    let told = |words: &str| explained.text.contains(words);
    let port = good.host_port("6379/tcp").await;
    assert!(told(&format!(
        "{}: yes: {HOST}:{port} (6379/tcp → {port}; host by --host)\n    {HOST}:{port}",
        host.key_of(&good)
    )));
    assert!(told("; the key is as desired\n"));
    let of_bad = format!("{} ({}), started ", bad.name(), bad.short_id());
    let lines = explained.text.lines();
    let mut of_bad = lines.skip_while(|line| !line.starts_with(&of_bad)).skip(1);
    let reason = of_bad.next().unwrap_or_default();
    let why = "  no: label sidekick.service \"no/name\"";
    assert!(reason.starts_with(why), "{}", explained.text);
    assert!(!told(plain.name()) && told(" without\n"));
}

#[tokio::test]
async fn of_two_containers_with_one_key_the_later_has_it_and_the_earlier_after_it() {
    let host = Host::new().await;
    let early = host.labelled(&["sidekick.instance=one"]).run().await;
    let key = format!("/services/{}/one", host.service);
    host.shows_at(&key, &early).await;
    let log = host.etcd.watch(&key).await;

    let late = host.labelled(&["sidekick.instance=one"]).run().await;
    host.shows_at(&key, &late).await;
    let told = format!("{} has the key {key}", late.name());
    host.sidekick.logs(&told).await;
    late.kill().await;
    host.shows_at(&key, &early).await;

    assert!(!log.has_a_gap().await, "whoever reads the key finds it");
    early.kill().await;
    host.etcd.loses(&key).await;
    // Neither that is down says that the other has the key.
    let log = host.sidekick.log();
    let told = log.iter().filter(|line| line.contains(" has the key "));
    assert_eq!(told.count(), 1, "{log:?}");
}

#[tokio::test]
async fn keys_that_are_deleted_by_hand_are_put_back_at_once() {
    let host = Host::new().await;
    let (one, other) = (host.redis().await, host.redis().await);
    host.shows(&one).await;
    host.shows(&other).await;
    host.etcd.delete(&host.key_of(&one)).await;
    host.etcd.delete(&host.key_of(&other)).await;
    host.shows(&one).await;
    host.shows(&other).await;
}

#[tokio::test]
async fn an_etcd_that_comes_back_empty_has_all_keys_again() {
    let host = Host::with(|announce| announce.times(3, 1)).await;
    let (one, other) = (host.redis().await, host.redis().await);
    host.shows(&one).await;
    host.shows(&other).await;
    host.etcd.kill9().await;
    one.kill().await;
    let late = host.redis().await;
    host.etcd.wipe_and_restart().await;
    host.shows(&late).await;
    host.shows(&other).await;
    assert_eq!(host.etcd.get(&host.key_of(&one)).await, None);
}

#[tokio::test]
async fn an_engine_that_is_restarted_is_followed() {
    let engine = Engine::start().await;
    let etcd = Etcd::start().await;
    let announce = engine.announce_all(&etcd);
    let sidekick = announce.spawn();
    let run = |name, policy: &str| {
        let run = engine.container(name).publish("6379");
        let run = run.label("sidekick.service=redis");
        run.option(&format!("--restart={policy}")).run()
    };
    let (back, gone) = (run("back", "always").await, run("gone", "no").await);
    let shows = async |container: &Container<'_>| {
        let key = format!("/services/redis/{}@{HOST}", container.name());
        etcd.shows(&key, &container.value().await).await
    };
    shows(&back).await;
    shows(&gone).await;

    engine.stop().await;
    let kept = "Docker does not answer; keeping the keys that are announced for 60 s at most";
    sidekick.logs(kept).await;
    engine.start_again().await;

    etcd.loses(&format!("/services/redis/gone@{HOST}")).await;
    assert_eq!(sidekick.times_logged(kept), 1, "once for both keys");
    let running = async || back.inspect().await["State"]["Status"] == "running";
    eventually(secs(10), "the container is back", running).await;
    shows(&back).await;
    gone.start().await;
    shows(&gone).await;
}

#[tokio::test]
async fn a_killed_sidekicks_keys_are_taken_over_without_a_gap_or_cleared() {
    let mut host = Host::new().await;
    let (stays, dies) = (host.redis().await, host.redis().await);
    host.shows(&stays).await;
    host.shows(&dies).await;
    let log = host.etcd.watch(&host.key_of(&stays)).await;
    host.sidekick.kill9().await;
    dies.kill().await;

    host.sidekick = host.engine.announce_all(&host.etcd).spawn();

    host.loses(&dies).await;
    host.sidekick.logs("took the key over").await;
    host.shows(&stays).await;
    assert!(!log.has_a_gap().await);
}

#[tokio::test]
async fn one_renewal_each_third_of_a_ttl_is_enough_for_all_keys() {
    let host = Host::with(|announce| announce.times(4, 1)).await;
    let all = [host.redis().await, host.redis().await, host.redis().await];
    for redis in &all {
        host.shows(redis).await;
    }
    let before = host.etcd.asked("LeaseKeepAlive").await;
    let revision = host.etcd.revision().await;
    let begun = std::time::Instant::now();
    host.etcd.keeps(&host.key_of(&all[0]), secs(8)).await;
    let renewals = host.etcd.asked("LeaseKeepAlive").await - before;
    let seconds = begun.elapsed().as_secs();
    let range = seconds / 2..=seconds + 1;
    assert!(range.contains(&renewals), "{renewals} in {seconds} s");
    for redis in &all {
        let entry = host.shows(redis).await;
        assert!(entry.mod_revision <= revision, "nothing is written");
    }
}

#[tokio::test]
async fn a_service_that_etcd_gives_no_right_to_does_not_hold_up_the_others() {
    let (engine, etcd) = tokio::join!(Engine::shared(), Etcd::start_with_login(300));
    let mut auth = etcd.client().auth_client();
    let below = Some(RoleRevokePermissionOptions::new().with_prefix());
    auth.role_revoke_permission("announcer", "/services/", below)
        .await
        .expect("a right is taken");
    let service = engine.name("good");
    let right = Permission::new(PermissionType::Readwrite, format!("/services/{service}/"));
    auth.role_grant_permission("announcer", right.with_prefix())
        .await
        .expect("a right is given");
    let run = |service: &str| {
        let run = engine.container(&engine.name("redis")).publish("6379");
        run.label(&format!("sidekick.service={service}"))
    };
    // Its key comes before the others.
    let denied = run("a-denied").run().await;
    let first = run(&service).run().await;
    let announce = engine.announce_all(&etcd);
    let user = format!("{}:{}", Login::NAME, Login::PASSWORD);
    let sidekick = announce.environment("ETCDCTL_USER", &user).spawn();
    let key = |redis: &Container<'_>| format!("/services/{service}/{}@{HOST}", redis.name());
    let shows = async |redis: &Container<'_>| {
        let value = redis.value().await;
        etcd.shows(&key(redis), &value).await
    };

    shows(&first).await;
    sidekick.logs("permission denied").await;
    let second = run(&service).run().await;
    shows(&second).await;
    etcd.delete(&key(&first)).await;
    shows(&first).await;
    second.kill().await;
    etcd.loses(&key(&second)).await;

    let keys = etcd.keys().await;
    let refused = |key: &String| key.contains(denied.name());
    assert!(!keys.iter().any(refused), "{keys:?}");
}
