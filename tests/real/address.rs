//! Which port and which host are announced, and why none is.

use sidekick_harness::{
    Announce, Container, Engine, Etcd, HOST, KEY, Run, Sidekick, millis, never_for,
};

#[tokio::test]
async fn the_port_that_docker_chose_is_announced() {
    let case = Case::of(
        |redis| redis.publish("6379"),
        |announce| announce.host(HOST),
    )
    .await;
    case.announces(HOST, case.redis.host_port("6379/tcp").await)
        .await;
}

#[tokio::test]
async fn the_port_that_was_chosen_by_hand_is_announced() {
    let case = Case::of(
        |redis| redis.publish("16101:6379"),
        |announce| announce.host(HOST),
    )
    .await;
    case.announces(HOST, 16101).await;
}

#[tokio::test]
async fn a_port_that_the_image_exposes_is_announced() {
    let case = Case::of(
        |redis| redis.option("--publish-all"),
        |announce| announce.host(HOST),
    )
    .await;
    case.announces(HOST, case.redis.host_port("6379/tcp").await)
        .await;
}

#[tokio::test]
async fn the_port_option_means_the_containers_port() {
    let case = Case::of(
        |redis| redis.publish("16102:6379").publish("16103:16379"),
        |announce| announce.host(HOST).port("16379"),
    )
    .await;
    case.announces(HOST, 16103).await;
}

#[tokio::test]
async fn a_udp_port_can_be_announced() {
    let case = Case::of(
        |redis| redis.publish("16104:53/tcp").publish("16105:53/udp"),
        |announce| announce.host(HOST).port("53/udp"),
    )
    .await;
    let mut udp = case.redis.at(HOST, 16105).await;
    udp.protocol = Some("udp".to_owned());
    case.etcd.shows(KEY, &udp).await;
}

#[tokio::test]
async fn every_start_tells_its_port_anew() {
    let case = Case::of(
        |redis| redis.publish("6379"),
        |announce| announce.host(HOST),
    )
    .await;
    let first = case.redis.host_port("6379/tcp").await;
    case.announces(HOST, first).await;

    case.redis.stop().await;
    // Somebody takes the port meanwhile, so that Docker must choose another one.
    let publish = format!("{first}:6379");
    let _thief = case
        .engine
        .container(&case.engine.name("thief"))
        .publish(&publish)
        .run()
        .await;
    case.redis.start().await;

    let second = case.redis.host_port("6379/tcp").await;
    assert_ne!(first, second, "the port is taken");
    case.announces(HOST, second).await;
}

#[tokio::test]
async fn of_several_published_ports_none_is_guessed() {
    let case = Case::of(
        |redis| redis.publish("16106:6379").publish("16107:16379"),
        |announce| announce.host(HOST),
    )
    .await;
    case.refuses(&["6379/tcp", "16379/tcp", "--port"]).await;
}

#[tokio::test]
async fn a_container_without_a_published_port_is_not_announced() {
    let case = Case::of(|redis| redis, |announce| announce.host(HOST)).await;
    case.refuses(&["published"]).await;
}

#[tokio::test]
async fn a_port_that_is_not_published_is_told_with_those_that_are() {
    let case = Case::of(
        |redis| redis.publish("16108:16379"),
        |announce| announce.host(HOST).port("6379"),
    )
    .await;
    case.refuses(&[
        "6379/tcp is not published; published: 16379/tcp → ",
        "16108",
    ])
    .await;
}

#[tokio::test]
async fn a_binding_on_loopback_is_no_address() {
    let case = Case::of(
        |redis| redis.publish("127.0.0.1:16109:6379"),
        |announce| announce.host(HOST),
    )
    .await;
    case.refuses(&["6379/tcp", "loopback"]).await;
}

#[tokio::test]
async fn on_the_hosts_network_the_containers_port_is_announced() {
    let case = Case::of(
        |redis| {
            redis
                .option("--network=host")
                .redis_arguments(&["--port", "16110"])
        },
        |announce| announce.host(HOST).port("16110"),
    )
    .await;
    case.announces(HOST, 16110).await;
}

#[tokio::test]
async fn on_the_hosts_network_no_port_is_guessed() {
    let case = Case::of(
        |redis| {
            redis
                .option("--network=host")
                .redis_arguments(&["--port", "16111"])
        },
        |announce| announce.host(HOST),
    )
    .await;
    case.refuses(&["--port"]).await;
}

#[tokio::test]
async fn a_binding_on_one_address_tells_the_host() {
    let publish = format!("{}:16112:6379", Engine::ADDRESS);
    let case = Case::of(|redis| redis.publish(&publish), |announce| announce).await;
    case.announces(Engine::ADDRESS, 16112).await;
}

#[tokio::test]
async fn the_label_comes_before_the_binding() {
    let publish = format!("{}:16113:6379", Engine::ADDRESS);
    let labelled = |redis: Run<'static>| {
        redis
            .publish(&publish)
            .option("--label=sidekick.host=10.1.2.3")
    };
    let case = Case::of(labelled, |announce| announce).await;
    case.announces("10.1.2.3", 16113).await;
}

#[tokio::test]
async fn the_host_option_comes_before_the_label() {
    let labelled = |redis: Run<'static>| {
        redis
            .publish("16114:6379")
            .option("--label=sidekick.host=10.1.2.3")
    };
    let case = Case::of(labelled, |announce| announce.host(HOST)).await;
    case.announces(HOST, 16114).await;
}

#[tokio::test]
async fn a_label_that_names_loopback_is_refused() {
    let labelled = |redis: Run<'static>| {
        redis
            .publish("16115:6379")
            .option("--label=sidekick.host=127.0.0.1")
    };
    let case = Case::of(labelled, |announce| announce).await;
    case.refuses(&["sidekick.host"]).await;
}

#[tokio::test]
async fn the_docker_hosts_own_name_is_the_last_resort() {
    let case = Case::of(|redis| redis.publish("16116:6379"), |announce| announce).await;
    case.announces(Engine::HOSTNAME, 16116).await;
}

#[tokio::test]
async fn an_address_that_the_port_is_not_bound_on_is_announced_with_one_warning() {
    let publish = format!("{}:16117:6379", Engine::ADDRESS);
    let case = Case::of(
        |redis| redis.publish(&publish),
        |announce| announce.host("10.1.2.3"),
    )
    .await;
    case.announces("10.1.2.3", 16117).await;
    let bound = format!("{}:16117", Engine::ADDRESS);
    let words = format!("published on {bound} and not on 10.1.2.3");
    case.sidekick.logs(&words).await;
    assert_eq!(case.sidekick.times_logged(&words), 1, "it is told once");
}

#[tokio::test]
async fn an_address_of_ipv6_is_doubted_where_the_port_is_bound_on_ipv4_alone() {
    let case = Case::of(
        |redis| redis.publish("0.0.0.0:16118:6379"),
        |announce| announce.host("2001:db8::7"),
    )
    .await;
    case.announces("2001:db8::7", 16118).await;
    let words = "published on 0.0.0.0:16118 and not on 2001:db8::7";
    case.sidekick.logs(words).await;
}

/// A container on the shared engine and a sidekick that judges it.
struct Case {
    sidekick: Sidekick,
    redis: Container<'static>,
    engine: &'static Engine,
    etcd: Etcd,
}

impl Case {
    async fn of(
        run: impl FnOnce(Run<'static>) -> Run<'static>,
        announce: impl FnOnce(Announce) -> Announce,
    ) -> Case {
        let engine = Engine::shared().await;
        let name = engine.name("redis1");
        let (redis, etcd) = tokio::join!(run(engine.container(&name)).run(), Etcd::start());
        let sidekick = Sidekick::announce(&name, KEY)
            .etcd(&etcd)
            .docker(engine)
            .under_systemd();
        Case {
            sidekick: announce(sidekick).spawn(),
            redis,
            engine,
            etcd,
        }
    }

    async fn announces(&self, host: &str, port: u16) {
        self.etcd.shows(KEY, &self.redis.at(host, port).await).await;
    }

    /// Waits for a status that holds all these words, and makes sure that nothing is written.
    async fn refuses(&self, words: &[&str]) {
        let what = format!("a reason that holds {words:?}");
        let told = |status: &str| {
            status.starts_with("waiting: ") && words.iter().all(|word| status.contains(word))
        };
        self.sidekick.notifications().status(&what, told).await;
        never_for(millis(500), "something is announced", async || {
            !self.etcd.keys().await.is_empty()
        })
        .await;
    }
}
