//! `announce --all --registrator-labels`: containers that were labelled for registrator.

use sidekick_harness::*;

/// What no log, no explanation and no key may hold.
const SECRET: &str = "hunter2hunter2";

/// A container with one port, and a variable that looks like one of registrator's and is a secret.
fn redis(engine: &Engine) -> Run<'_> {
    let redis = engine.redis();
    let redis = redis.option(&format!("--env=SERVICE_PASSWORD={SECRET}"));
    redis.option(&format!("--env=SERVICE_6379_TOKEN={SECRET}"))
}

fn announce(engine: &Engine, etcd: &Etcd) -> Announce {
    engine.announce_all(etcd).flag("--registrator-labels")
}

/// Waits until the key holds the container's value, with these key-value pairs.
async fn shows(etcd: &Etcd, key: &str, container: &Container<'_>, meta: &str) {
    let port = container.host_port("6379/tcp").await;
    let value = container.at(HOST, port).await.text();
    let value = value.replace('}', &format!("{meta}}}"));
    let stands = async || etcd.get(key).await.map(|entry| entry.value);
    becomes(secs(5), key, Some(value), stands).await;
}

#[tokio::test]
async fn labels_and_environment_of_registrator_announce_a_container_by_its_precedence() {
    let (engine, etcd) = tokio::join!(Engine::shared(), Etcd::start());
    let service = engine.name("svc");
    let early = redis(engine).option(&format!("--env=SERVICE_NAME={service}-env"));
    let early = early.option("--env=SERVICE_ID=redis-1").run().await;
    let mut sidekick = announce(engine, &etcd).spawn();
    let early_key = format!("/services/{service}-env/redis-1");
    shows(&etcd, &early_key, &early, "").await;

    // The port's label comes first, and a label before the environment.
    let late = redis(engine).option("--env=SERVICE_6379_NAME=of-the-environment");
    let late = late.label(&format!("SERVICE_6379_NAME={service}"));
    let late = late.label("SERVICE_NAME=general");
    let late = late.option("--env=SERVICE_TAGS=of-the-environment");
    let late = late.label("SERVICE_TAGS=master,backups").run().await;
    let late_key = format!("/services/{service}/{}@{HOST}", late.name());
    let meta = r#","meta":{"tags":"master,backups"}"#;
    shows(&etcd, &late_key, &late, meta).await;

    // Of several ports without names of their own each is a service.
    let several = redis(engine).publish("6380");
    let several = several.label(&format!("SERVICE_NAME={service}-two"));
    let several = several.option("--env=SERVICE_6380_IGNORE=1").run().await;
    let instance = format!("{}@{HOST}", several.name());
    let several_key = format!("/services/{service}-two-6379/{instance}");
    shows(&etcd, &several_key, &several, "").await;

    // They come and go with their containers, as all others do.
    early.kill().await;
    etcd.loses(&early_key).await;
    early.start().await;
    shows(&etcd, &early_key, &early, "").await;
    late.remove().await;
    etcd.loses(&late_key).await;
    let ours = |key: &String| key.contains(&service);
    let keys: Vec<_> = etcd.keys().await.into_iter().filter(ours).collect();
    assert_eq!(keys, [early_key.clone(), several_key]);

    // What a sidekick that was killed leaves of a container that is down is cleared.
    sidekick.kill9().await;
    early.kill().await;
    sidekick = announce(engine, &etcd).spawn();
    etcd.loses(&early_key).await;
    sidekick.never_logs(SECRET);
}

#[tokio::test]
async fn what_is_ignored_or_can_not_be_done_has_its_reason_in_log_and_explanation() {
    let (engine, etcd) = tokio::join!(Engine::shared(), Etcd::start());
    let service = engine.name("svc");
    let named = || redis(engine).label(&format!("SERVICE_NAME={service}"));
    let good = named().run().await;
    let ignored = named().option("--env=SERVICE_IGNORE=yes").run().await;
    let script = named().option("--env=SERVICE_6379_CHECK_SCRIPT=curl localhost");
    let script = script.run().await;
    let tags = named().label(r"SERVICE_TAGS=a\,b").run().await;
    let plain = redis(engine).run().await;

    let sidekick = announce(engine, &etcd)
        .option("--log-level", "debug")
        .spawn();
    shows(
        &etcd,
        &format!("/services/{service}/{}@{HOST}", good.name()),
        &good,
        "",
    )
    .await;
    let reasons = [
        (
            &script,
            "variable SERVICE_6379_CHECK_SCRIPT asks for a check that ",
        ),
        (&tags, "label SERVICE_TAGS has a tag with a comma in it"),
    ];
    for (container, reason) in reasons {
        let name = container.name();
        sidekick.logs(&format!("container=\"{name}\"")).await;
        let line = format!("not announcing: {reason}");
        let lines = sidekick.log();
        let of_it = |line: &&String| line.contains(&format!("container=\"{name}\""));
        let lines: Vec<_> = lines.iter().filter(of_it).collect();
        assert!(lines.len() == 1 && lines[0].contains(&line), "{lines:?}");
    }
    for container in [&ignored, &plain] {
        sidekick.never_logs(&format!("container=\"{}\"", container.name()));
    }
    // Later events of a container that asks for nothing are no reason to look at it again.
    plain.restart().await;
    ignored.restart().await;

    let explain = Sidekick::explain_all().flag("--registrator-labels");
    let explain = explain.docker(engine).host(HOST).etcd(&etcd);
    let explained = explain.run().await;

    assert_eq!(explained.code, Some(1), "not all are announceable");
    let text = &explained.text;
    for (container, reason) in reasons {
        let of_it = format!("{} ({}), started ", container.name(), container.short_id());
        let mut lines = text.lines().skip_while(|line| !line.starts_with(&of_it));
        let line = lines.nth(1).unwrap_or_default();
        assert!(line.starts_with(&format!("  no: {reason}")), "{text}");
    }
    let ignored_line = format!("{} asks to be ignored (SERVICE_IGNORE)\n", ignored.name());
    assert!(
        text.contains(&ignored_line) && !text.contains(plain.name()),
        "{text}"
    );
    assert!(text.contains(&format!(
        "/services/{service}/{}@{HOST}: yes: ",
        good.name()
    )));
    sidekick.never_logs(SECRET);
    assert!(!text.contains(SECRET) && !explained.log.contains(SECRET));
    for key in etcd.keys().await {
        let entry = etcd.get(&key).await.expect("the key stands");
        assert!(!entry.value.contains(SECRET), "{key}");
    }

    // Without the option they are nobody's business.
    let explain = Sidekick::explain_all()
        .docker(engine)
        .host(HOST)
        .etcd(&etcd);
    let explained = explain.run().await;
    assert!(!explained.text.contains(good.name()), "{}", explained.text);
}

/// The test's engine has a network namespace of its own, as where sidekick is in a container. So checks ask at the
/// published port on this machine, where the test stands in for Docker's proxy.
#[tokio::test]
async fn a_check_keeps_a_container_from_etcd_until_it_passes_and_while_it_fails() {
    let (engine, etcd) = tokio::join!(Engine::shared(), Etcd::start());
    let (service, port) = (engine.name("svc"), free_port());
    let redis = engine.container(&engine.name("redis"));
    let redis = redis.publish(&format!("{port}:6379"));
    let redis = redis.label(&format!("SERVICE_NAME={service}"));
    let redis = redis.option("--env=SERVICE_6379_CHECK_TCP=true");
    let redis = redis.label("SERVICE_CHECK_INTERVAL=200ms").run().await;
    let mut sidekick = announce(engine, &etcd).spawn();
    let key = format!("/services/{service}/{}@{HOST}", redis.name());
    let why = format!("not announcing: its check tcp fails: 127.0.0.1:{port}: Connection refused");
    sidekick.logs(&why).await;
    let explain = Sidekick::explain_all().flag("--registrator-labels");
    let explain = explain.docker(engine).host(HOST).etcd(&etcd);
    let explained = explain.run().await;
    let why = format!("{key}: no: its check tcp fails: 127.0.0.1:{port}: ");
    assert!(explained.text.contains(&why), "{}", explained.text);
    assert_eq!(etcd.get(&key).await, None);

    let listen = || std::net::TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
    let listener = listen();
    shows(&etcd, &key, &redis, "").await;
    let log = etcd.watch(&key).await;
    // A sidekick that starts leaves the key alone until its first check is over.
    sidekick.kill9().await;
    sidekick = announce(engine, &etcd).spawn();
    sidekick.logs("took the key over").await;
    shows(&etcd, &key, &redis, "").await;
    assert!(!log.has_a_gap().await);

    drop(listener);
    etcd.loses(&key).await;
    let _listener = listen();
    shows(&etcd, &key, &redis, "").await;
    redis.kill().await;
    etcd.loses(&key).await;
}

#[tokio::test]
async fn a_check_by_http_tells_what_was_wrong_with_the_answer() {
    let (engine, etcd) = tokio::join!(Engine::shared(), Etcd::start());
    let port = free_port();
    let redis = engine.container(&engine.name("redis"));
    let redis = redis.publish(&format!("{port}:6379"));
    let redis = redis.label(&format!("sidekick.service={}", engine.name("svc")));
    let redis = redis.label("sidekick.check=http:/health");
    let redis = redis.label("sidekick.check-interval=200ms").run().await;
    let sidekick = engine.announce_all(&etcd).spawn();
    let why = format!("not announcing: its check http:/health fails: 127.0.0.1:{port}: ");
    sidekick.logs(&why).await;
    let keys = etcd.keys().await;
    assert!(
        !keys.iter().any(|key| key.contains(redis.name())),
        "{keys:?}"
    );
}
