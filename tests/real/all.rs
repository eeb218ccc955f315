//! `announce --all`: every container with a label, at a key of its own, by one process.

use crate::harness::{Announce, Container, Engine, Entry, Etcd, HOST, Sidekick};

/// One announcer for a whole engine, and a prefix of the test's own. The engine is shared: containers
/// of other tests have no labels.
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
        let announce = Sidekick::announce_all()
            .etcd(&etcd)
            .docker(engine)
            .host(HOST);
        Host {
            sidekick: more(announce).spawn(),
            engine,
            etcd,
            service: engine.name("svc"),
        }
    }

    /// A running container that asks to be announced.
    async fn redis(&self) -> Container<'static> {
        let name = self.engine.name("redis");
        let run = self.engine.container(&name).publish("6379");
        run.label(&format!("sidekick.service={}", self.service))
            .run()
            .await
    }

    fn key_of(&self, container: &Container<'_>) -> String {
        format!("/services/{}/{}@{HOST}", self.service, container.name())
    }

    async fn shows(&self, container: &Container<'_>) -> Entry {
        let value = container
            .at(HOST, container.host_port("6379/tcp").await)
            .await;
        self.etcd.shows(&self.key_of(container), &value).await
    }

    async fn loses(&self, container: &Container<'_>) {
        self.etcd.loses(&self.key_of(container)).await;
    }
}

#[tokio::test]
async fn each_container_comes_and_goes_by_itself_and_a_stop_takes_all_away() {
    let mut host = Host::new().await;
    let (one, other) = (host.redis().await, host.redis().await);
    host.shows(&one).await;
    let stays = host.shows(&other).await;

    one.kill().await;
    host.loses(&one).await;
    one.start().await;
    host.shows(&one).await;
    assert_eq!(host.shows(&other).await, stays, "the other isn't touched");

    host.sidekick.leaves().await;
    assert_eq!(host.etcd.keys().await, [""; 0]);
    assert_eq!(host.etcd.leases().await, [0; 0]);
}

#[tokio::test]
async fn explain_all_tells_of_each_container_why_or_why_not() {
    let host = Host::new().await;
    let good = host.redis().await;
    let bad = host.engine.name("bad");
    let bad = host.engine.container(&bad).publish("6379");
    let bad = bad.label("sidekick.service=no/name").run().await;
    host.shows(&good).await;
    host.sidekick.logs("label sidekick.service").await;

    let explain = Sidekick::explain_all().docker(host.engine).host(HOST);
    let explained = explain.etcd(&host.etcd).run().await;

    assert_eq!(explained.code, Some(1), "not all are announceable");
    for words in [
        &host.key_of(&good),
        bad.name(),
        "no: label sidekick.service",
        "yes: ",
    ] {
        assert!(
            explained.text.contains(words),
            "{words}: {}",
            explained.text
        );
    }
}

#[tokio::test]
async fn containers_that_run_and_containers_that_start_are_announced_on_one_lease() {
    let engine = Engine::shared().await;
    let early = engine.name("redis");
    let early = engine
        .container(&early)
        .publish("6379")
        .label("sidekick.service=early")
        .run()
        .await;
    let host = Host::new().await;
    let early_key = format!("/services/early/{}@{HOST}", early.name());
    let value = early.at(HOST, early.host_port("6379/tcp").await).await;
    let first = host.etcd.shows(&early_key, &value).await;

    let late = host.redis().await;
    let second = host.shows(&late).await;

    assert_eq!(first.lease, second.lease, "a process has one lease");
    assert_eq!(host.etcd.leases().await, [first.lease]);
}
