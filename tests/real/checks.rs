//! `--check`: sidekick beside the engine, as on a user's machine, asks real servers at their own addresses, and clients
//! come by the published port.

use std::io::{Read, Write};
use std::time::Instant;

use sidekick_harness::*;

/// The default, which is the most that a start waits.
const INTERVAL: &str = "2s";

/// A Redis that says -BUSY after 0.1 s.
const HASTY: [&str; 6] = [
    "--save",
    "",
    "--busy-reply-threshold",
    "100",
    "--protected-mode",
    "no",
];

/// An engine, an etcd, and sidekick where the engine is.
struct Case {
    engine: &'static Engine,
    etcd: Etcd,
    network: EngineNetwork,
}

impl Case {
    async fn new() -> Case {
        let (engine, etcd) = tokio::join!(Engine::shared(), Etcd::start());
        let network = engine.network(&etcd);
        Case {
            engine,
            etcd,
            network,
        }
    }

    /// The same for each command.
    fn beside(&self, command: Announce) -> Announce {
        let command = command.docker(self.engine).host(HOST);
        let command = command.endpoints(&[&self.network.url()]);
        command.within(&self.network.surroundings())
    }

    fn announce(&self, redis: &Container<'_>, check: &str, interval: &str) -> Sidekick {
        let announce = self.beside(Sidekick::announce(redis.name(), KEY));
        let announce = announce.option("--check", check);
        announce.option("--check-interval", interval).spawn()
    }

    async fn explain(&self, redis: &Container<'_>, check: &str) -> Explained {
        let explain = self.beside(Sidekick::explain(redis.name()));
        explain.option("--check", check).run().await
    }

    /// What a client gets who connects once and says PING.
    async fn ping(&self, redis: &Container<'_>) -> String {
        let port = redis.host_port("6379/tcp").await;
        let mut stream = self.network.dial(port).expect("the port accepts");
        stream.set_read_timeout(Some(SOON)).expect("a timeout");
        stream.write_all(b"PING\r\n").expect("it takes a PING");
        let mut answer = [0; 64];
        let read = stream.read(&mut answer).unwrap_or_default();
        let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
        answer.lines().next().unwrap_or_default().to_owned()
    }

    async fn signals(&self, redis: &Container<'_>, signal: &str) {
        let signal = format!("--signal={signal}");
        self.engine.docker(&["kill", &signal, redis.id()]).await;
    }

    /// With a script that ends by SCRIPT KILL alone.
    async fn keeps_busy(&self, redis: &Container<'_>) {
        let endless = ["exec", "--detach", redis.id(), "redis-cli", "eval"];
        let endless = [&endless[..], &["while true do end", "0"]].concat();
        self.engine.docker(&endless).await;
    }

    async fn is_draining(&self) -> bool {
        let entry = self.etcd.get(KEY).await;
        entry.is_some_and(|entry| entry.value.contains(r#""status":"draining""#))
    }

    async fn drains(&self) {
        let drains = async || self.is_draining().await;
        eventually(SOON, "the instance drains", drains).await;
    }

    async fn in_container(&self, redis: &Container<'_>, words: &[&str]) -> String {
        let exec = [&["exec", redis.id()], words].concat();
        self.engine.docker(&exec).await
    }
}

/// Docker's proxy accepts as soon as the container runs. The check asks behind it.
#[tokio::test]
async fn a_container_that_listens_late_is_announced_when_it_listens() {
    let case = Case::new().await;
    // The second Redis is the one that is announced; it starts when the first one is told.
    let late = "redis-server --port 6380 --save '' --daemonize yes
        until redis-cli -p 6380 ping; do :; done
        redis-cli -p 6380 blpop go 0
        exec redis-server --save '' --protected-mode no";
    let redis = case.engine.redis().option("--entrypoint=sh");
    let redis = redis.redis_arguments(&["-c", late]).run().await;
    let began = Instant::now();
    let _sidekick = case.announce(&redis, "tcp", INTERVAL);
    if !Engine::is_podman() {
        let port = redis.host_port("6379/tcp").await;
        let accepts = || case.network.dial(port).map(drop);
        accepts().expect("the proxy accepts for a container that doesn't listen");
    }
    case.etcd.lacks(KEY, millis(400)).await;
    let value = redis.value().await;

    let (waited, told) = (began.elapsed(), Instant::now());
    case.in_container(&redis, &["redis-cli", "-p", "6380", "rpush", "go", "1"])
        .await;
    case.etcd.shows(KEY, &value).await;
    let took = told.elapsed();
    assert_eq!(case.ping(&redis).await, "+PONG", "the key stands");
    let what = format!("a server that listens after {waited:?}: from then to its key");
    measured::took(13, what, took, SOON);
}

#[tokio::test]
async fn a_redis_that_reads_its_data_is_announced_when_it_has_read_it() {
    let case = Case::new().await;
    // 2,000 keys of which each takes 10 ms to read until the check has found that, and so long that Redis answers after each.
    let slow = [
        "--save",
        "",
        "--protected-mode",
        "no",
        "--key-load-delay",
        "10000",
        "--loading-process-events-interval-bytes",
        "1024",
        "--rdbcompression",
        "no",
    ];
    let redis = case.engine.redis().redis_arguments(&slow).run().await;
    let sidekick = case.announce(&redis, "redis", INTERVAL);
    case.etcd.shows(KEY, &redis.value().await).await;
    let fill = "for i = 1, 2000 do redis.call('set', i, string.rep('x', 1024)) end";
    for words in [
        &["redis-cli", "eval", fill, "0"][..],
        &["redis-cli", "save"],
    ] {
        case.in_container(&redis, words).await;
    }

    redis.restart().await;
    // A reason is logged once it has held for 3 s.
    sidekick.logs("its check redis fails: ").await;
    assert!(case.etcd.get(KEY).await.is_none(), "it reads still");
    let quick = ["redis-cli", "config", "set", "key-load-delay", "0"];
    case.in_container(&redis, &quick).await;
    let began = Instant::now();
    let value = redis.value().await;
    case.etcd.shows(KEY, &value).await;
    let took = began.elapsed();
    assert_eq!(case.ping(&redis).await, "+PONG", "the key stands");
    let why = ":6379 answers -LOADING Redis is loading the dataset in memory";
    assert_eq!(sidekick.times_logged(why), 1);
    measured::took(
        13,
        "a Redis that has read its data: from then to its key",
        took,
        PATIENCE,
    );
}

#[tokio::test]
async fn a_key_goes_after_three_failures_and_comes_back_with_the_next_success() {
    let case = Case::new().await;
    let redis = case.engine.redis().redis_arguments(&HASTY).run().await;
    let sidekick = case.announce(&redis, "redis", "100ms");
    let value = redis.value().await;
    case.etcd.shows(KEY, &value).await;
    let explained = case.explain(&redis, "tcp redis").await;
    assert_eq!(explained.code, Some(0), "{}", explained.text);

    case.keeps_busy(&redis).await;
    case.etcd.loses(KEY).await;
    let why = ":6379 answers -BUSY Redis is busy running a script.";
    sidekick.logs(why).await;
    let explained = case.explain(&redis, "tcp redis").await;
    assert_eq!(explained.code, Some(1), "{}", explained.text);
    let said = explained.text.contains("no: its check redis fails: ");
    assert!(said && explained.text.contains(why), "{}", explained.text);

    case.in_container(&redis, &["redis-cli", "script", "kill"])
        .await;
    case.etcd.shows(KEY, &value).await;
}

#[tokio::test]
async fn a_server_that_closes_its_listener_on_its_stop_drains_until_its_death() {
    let case = Case::new().await;
    let redis = case.engine.redis().option("--stop-signal=USR1");
    let open = ["--save", "", "--protected-mode", "no"];
    let redis = redis.redis_arguments(&open).run().await;
    let sidekick = case.announce(&redis, "tcp", "100ms");
    case.etcd.shows(KEY, &redis.value().await).await;

    let changes = case.etcd.watch(KEY).await;
    case.signals(&redis, "USR1").await;
    case.drains().await;
    let close = ["redis-cli", "config", "set", "port", "0"];
    case.in_container(&redis, &close).await;
    never_for(A_WHILE, "the key goes or serves", async || {
        !case.is_draining().await
    })
    .await;
    redis.kill().await;
    case.etcd.loses(KEY).await;
    let changes = changes.so_far().await;
    assert_eq!(changes.len(), 2, "draining, gone: {changes:?}");
    assert_eq!(sidekick.times_logged("its check tcp fails"), 0);
}

#[tokio::test]
async fn who_outlives_its_stop_serves_again_once_its_check_passes() {
    let case = Case::new().await;
    let redis = case.engine.redis();
    let redis = redis
        .option("--stop-signal=USR1")
        .option("--stop-timeout=1");
    let redis = redis.redis_arguments(&HASTY).run().await;
    let sidekick = case.announce(&redis, "redis", "100ms");
    let value = redis.value().await;
    case.etcd.shows(KEY, &value).await;

    case.signals(&redis, "USR1").await;
    case.drains().await;
    case.keeps_busy(&redis).await;
    sidekick.logs("has outlived its stop timeout of 1 s").await;
    never_for(A_WHILE, "the key goes or serves", async || {
        !case.is_draining().await
    })
    .await;
    case.in_container(&redis, &["redis-cli", "script", "kill"])
        .await;
    case.etcd.shows(KEY, &value).await;
    // The next stop is one.
    case.signals(&redis, "USR1").await;
    case.drains().await;
    case.etcd.shows(KEY, &value).await;
}

#[tokio::test]
async fn a_redis_with_a_password_passes_without_it() {
    let case = Case::new().await;
    let locked = ["--save", "", "--requirepass", "hunter2"];
    let redis = case.engine.redis().redis_arguments(&locked).run().await;
    let _sidekick = case.announce(&redis, "redis", INTERVAL);
    case.etcd.shows(KEY, &redis.value().await).await;
    let answer = case.ping(&redis).await;
    assert!(answer.starts_with("-NOAUTH"), "{answer}");
}

/// The option is for those whose labels say nothing.
#[tokio::test]
async fn a_label_counts_before_the_option_of_all() {
    let case = Case::new().await;
    let service = case.engine.name("svc");
    let deaf = || {
        let redis = case.engine.container(&case.engine.name("deaf"));
        let redis = redis.publish("6380").label("sidekick.port=6380");
        redis.label(&format!("sidekick.service={service}"))
    };
    let (checked, unchecked) = tokio::join!(deaf().run(), async {
        deaf().label("sidekick.check=none").run().await
    });
    let announce = case.beside(Sidekick::announce_all());
    let sidekick = announce.option("--check", "redis").spawn();
    let key = |of: &Container<'_>| format!("/services/{service}/{}@{HOST}", of.name());
    let stands = async || case.etcd.get(&key(&unchecked)).await.is_some();
    eventually(SOON, "it is announced without a check", stands).await;
    sidekick.logs("its check redis fails: ").await;
    assert_eq!(case.etcd.get(&key(&checked)).await, None);
    let lines = sidekick.log();
    let of_it = |line: &&String| line.contains("its check redis fails: ");
    let told = lines.iter().find(of_it).expect("it was logged");
    assert!(told.contains(checked.name()), "{told}");
}
