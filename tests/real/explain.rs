//! `sidekick explain`: the same decision, read only.

use sidekick_harness::{
    Announce, AnnouncerScene, Container, Engine, Etcd, Explained, HOST, KEY, Sidekick, Value, secs,
};

#[tokio::test]
async fn an_announceable_container_is_explained_with_its_rule_port_and_health() {
    let case = Case::of("16401:6379").await;
    let explained = case.explain(|explain| explain.option("--key", KEY)).await;
    assert_eq!(explained.code, Some(0));
    tells(
        &explained,
        &[
            case.redis.short_id(),
            Engine::HOSTNAME,
            "/info",
            "6379/tcp",
            "16401",
            "health",
            KEY,
        ],
    );
    assert_eq!(case.etcd.revision().await, 1, "explaining writes nothing");
}

#[tokio::test]
async fn the_rule_that_chose_the_host_is_named() {
    let case = Case::of("16402:6379").await;
    let explained = case.explain(|explain| explain.host(HOST)).await;
    assert_eq!(explained.code, Some(0));
    tells(&explained, &[HOST, "--host"]);
}

#[tokio::test]
async fn an_address_that_the_port_is_not_bound_on_is_explained_with_a_warning() {
    let bound = format!("{}:16408", Engine::ADDRESS);
    let case = Case::of(&format!("{bound}:6379")).await;
    let explained = case.explain(|explain| explain.host("10.1.2.3")).await;
    assert_eq!(explained.code, Some(0), "it is announced all the same");
    let words = format!("6379/tcp is published on {bound} and not on 10.1.2.3");
    tells(&explained, &["warning", &words]);
}

#[tokio::test]
async fn what_stands_at_the_key_is_shown() {
    let case = Case::of("16403:6379").await;
    let rival = Value::of_rival("badc0ffee000", "2999-01-01T00:00:00Z");
    case.etcd.put_leased(KEY, &rival.text(), secs(60)).await;
    let explained = case.explain(|explain| explain.option("--key", KEY)).await;
    assert_eq!(
        explained.code,
        Some(0),
        "it is announceable, whoever holds the key"
    );
    tells(&explained, &[KEY, "badc0ffee000"]);
}

#[tokio::test]
async fn the_key_of_an_announced_container_is_shown() {
    let scene = AnnouncerScene::announced().await;
    let revision = scene.etcd.revision().await;
    let explained = Sidekick::explain(scene.redis.name())
        .etcd(&scene.etcd)
        .docker(scene.engine)
        .host(HOST)
        .option("--key", KEY)
        .run()
        .await;
    assert_eq!(explained.code, Some(0));
    tells(&explained, &[KEY, HOST, &scene.value.port.to_string()]);
    assert_eq!(
        scene.etcd.revision().await,
        revision,
        "explaining writes nothing"
    );
}

#[tokio::test]
async fn a_paused_container_is_explained_as_paused() {
    let case = Case::of("16404:6379").await;
    case.redis.pause().await;
    let explained = case.explain(|explain| explain).await;
    assert_eq!(explained.code, Some(1));
    tells(&explained, &[&format!("{} is paused", case.redis.name())]);
}

#[tokio::test]
async fn a_port_that_is_not_published_is_explained() {
    let case = Case::of("16405:16379").await;
    let explained = case.explain(|explain| explain.port("6379")).await;
    assert_eq!(explained.code, Some(1));
    tells(
        &explained,
        &[
            "6379/tcp is not published; published: 16379/tcp → ",
            "16405",
        ],
    );
}

#[tokio::test]
async fn a_container_that_is_not_there_is_explained() {
    let case = Case::of("16406:6379").await;
    let explained = Sidekick::explain("nobody")
        .etcd(&case.etcd)
        .docker(case.engine)
        .run()
        .await;
    assert_eq!(explained.code, Some(1));
    tells(&explained, &["nobody"]);
}

#[tokio::test]
async fn an_etcd_that_is_away_does_not_hide_the_container() {
    let case = Case::of("16407:6379").await;
    case.etcd.kill9().await;
    let explained = case.explain(|explain| explain.option("--key", KEY)).await;
    assert_eq!(
        explained.code,
        Some(0),
        "it is announceable, whatever etcd does"
    );
    tells(&explained, &["16407", "etcd"]);
}

/// A container with one published port, and an empty etcd.
struct Case {
    redis: Container<'static>,
    engine: &'static Engine,
    etcd: Etcd,
}

impl Case {
    async fn of(publish: &str) -> Case {
        let engine = Engine::shared().await;
        let name = engine.name("redis1");
        let (redis, etcd) = tokio::join!(
            engine.container(&name).publish(publish).run(),
            Etcd::start()
        );
        Case {
            redis,
            engine,
            etcd,
        }
    }

    async fn explain(&self, more: impl FnOnce(Announce) -> Announce) -> Explained {
        more(
            Sidekick::explain(self.redis.name())
                .etcd(&self.etcd)
                .docker(self.engine),
        )
        .run()
        .await
    }
}

fn tells(explained: &Explained, words: &[&str]) {
    for word in words {
        assert!(
            explained.text.contains(word),
            "{word:?} is missing in:\n{}",
            explained.text
        );
    }
}
