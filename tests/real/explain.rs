//! `sidekick explain`: the same decision, read only.

use sidekick_harness::*;

#[tokio::test]
async fn an_announceable_container_is_explained_with_its_rule_port_and_health() {
    let case = Case::of("16401:6379").await;
    let explained = case.explain(|explain| explain.option("--key", KEY)).await;
    assert_eq!(explained.code, Some(0));
    let id = case.redis.short_id();
    tells(
        &explained,
        &[id, Engine::HOSTNAME, "/info", "6379/tcp", "16401"],
    );
    tells(&explained, &["health", KEY]);
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
    let why = "it is announceable, whoever holds the key";
    assert_eq!(explained.code, Some(0), "{why}");
    tells(&explained, &[KEY, "badc0ffee000"]);
}

#[tokio::test]
async fn the_key_of_an_announced_container_is_shown() {
    let scene = AnnouncerScene::announced().await;
    let revision = scene.etcd.revision().await;
    let explain = Sidekick::explain(scene.redis.name()).etcd(&scene.etcd);
    let explain = explain.docker(scene.engine).host(HOST);
    let explained = explain.option("--key", KEY).run().await;
    assert_eq!(explained.code, Some(0));
    tells(&explained, &[KEY, HOST, &scene.value.port.to_string()]);
    assert_eq!(scene.etcd.revision().await, revision, "nothing is written");
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
    let words = "6379/tcp is not published; published: 16379/tcp → ";
    tells(&explained, &[words, "16405"]);
}

#[tokio::test]
async fn a_container_that_is_not_there_is_explained() {
    let case = Case::of("16406:6379").await;
    let explain = Sidekick::explain("absent").etcd(&case.etcd);
    let explained = explain.docker(case.engine).run().await;
    assert_eq!(explained.code, Some(1));
    tells(&explained, &["absent"]);
}

#[tokio::test]
async fn an_etcd_that_is_away_does_not_hide_the_container() {
    let case = Case::of("16407:6379").await;
    case.etcd.kill9().await;
    let explained = case.explain(|explain| explain.option("--key", KEY)).await;
    let why = "it is announceable, whatever etcd does";
    assert_eq!(explained.code, Some(0), "{why}");
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
        let (engine, etcd) = tokio::join!(Engine::shared(), Etcd::start());
        let redis = engine.container(&engine.name("redis1")).publish(publish);
        let redis = redis.run().await;
        Case {
            redis,
            engine,
            etcd,
        }
    }

    async fn explain(&self, more: impl FnOnce(Announce) -> Announce) -> Explained {
        let explain = Sidekick::explain(self.redis.name()).etcd(&self.etcd);
        more(explain.docker(self.engine)).run().await
    }
}

fn tells(explained: &Explained, words: &[&str]) {
    let text = &explained.text;
    for word in words {
        assert!(text.contains(word), "{word:?} is missing in:\n{text}");
    }
}
