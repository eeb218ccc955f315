//! Which port and which host are announced, and why none is.

use sidekick_harness::*;

const BY_HOST: (&str, &str) = ("--host", HOST);

#[tokio::test]
async fn the_port_that_docker_chose_is_announced() {
    let case = Case::of(&["--publish=6379"], &[BY_HOST]).await;
    case.announces(HOST, case.port().await).await;
}

#[tokio::test]
async fn the_port_that_was_chosen_by_hand_is_announced() {
    let case = Case::of(&["--publish=16101:6379"], &[BY_HOST]).await;
    case.announces(HOST, 16101).await;
}

#[tokio::test]
async fn a_port_that_the_image_exposes_is_announced() {
    let case = Case::of(&["--publish-all"], &[BY_HOST]).await;
    case.announces(HOST, case.port().await).await;
}

#[tokio::test]
async fn the_port_option_means_the_containers_port() {
    let both = ["--publish=16102:6379", "--publish=16103:16379"];
    let case = Case::of(&both, &[BY_HOST, ("--port", "16379")]).await;
    case.announces(HOST, 16103).await;
}

#[tokio::test]
async fn a_udp_port_can_be_announced() {
    let both = ["--publish=16104:53/tcp", "--publish=16105:53/udp"];
    let case = Case::of(&both, &[BY_HOST, ("--port", "53/udp")]).await;
    let mut udp = case.redis.at(HOST, 16105).await;
    udp.protocol = Some("udp".to_owned());
    case.etcd.shows(KEY, &udp).await;
}

#[tokio::test]
async fn every_start_announces_its_own_port() {
    let case = Case::of(&["--publish=6379"], &[BY_HOST]).await;
    let first = case.port().await;
    case.announces(HOST, first).await;

    case.redis.stop().await;
    // Another container takes the port meanwhile, so that Docker must choose another one.
    let thief = case.engine.container(&case.engine.name("thief"));
    let _thief = thief.publish(&format!("{first}:6379")).run().await;
    case.redis.start().await;

    let second = case.port().await;
    assert_ne!(first, second, "the port is taken");
    case.announces(HOST, second).await;
}

#[tokio::test]
async fn of_several_published_ports_none_is_guessed() {
    let both = ["--publish=16106:6379", "--publish=16107:16379"];
    let case = Case::of(&both, &[BY_HOST]).await;
    case.refuses(&["6379/tcp", "16379/tcp", "--port"]).await;
}

#[tokio::test]
async fn a_container_without_a_published_port_is_not_announced() {
    let case = Case::of(&[], &[BY_HOST]).await;
    case.refuses(&["published"]).await;
}

#[tokio::test]
async fn a_port_that_is_not_published_is_told_with_those_that_are() {
    let case = Case::of(&["--publish=16108:16379"], &[BY_HOST, ("--port", "6379")]).await;
    let words = "6379/tcp is not published; published: 16379/tcp → ";
    case.refuses(&[words, "16108"]).await;
}

#[tokio::test]
async fn a_binding_on_loopback_is_no_address() {
    let case = Case::of(&["--publish=127.0.0.1:16109:6379"], &[BY_HOST]).await;
    case.refuses(&["6379/tcp", "loopback"]).await;
}

#[tokio::test]
async fn on_the_hosts_network_the_containers_port_is_announced() {
    let case = Case::on_the_hosts_network("16110", &[BY_HOST, ("--port", "16110")]).await;
    case.announces(HOST, 16110).await;
}

#[tokio::test]
async fn on_the_hosts_network_no_port_is_guessed() {
    let case = Case::on_the_hosts_network("16111", &[BY_HOST]).await;
    case.refuses(&["--port"]).await;
}

#[tokio::test]
async fn a_binding_on_one_address_tells_the_host() {
    let publish = format!("--publish={}:16112:6379", Engine::ADDRESS);
    let case = Case::of(&[&publish], &[]).await;
    case.announces(Engine::ADDRESS, 16112).await;
}

#[tokio::test]
async fn the_label_comes_before_the_binding() {
    let publish = format!("--publish={}:16113:6379", Engine::ADDRESS);
    let case = Case::of(&[&publish, "--label=sidekick.host=10.1.2.3"], &[]).await;
    case.announces("10.1.2.3", 16113).await;
}

#[tokio::test]
async fn the_host_option_comes_before_the_label() {
    let labelled = ["--publish=16114:6379", "--label=sidekick.host=10.1.2.3"];
    let case = Case::of(&labelled, &[BY_HOST]).await;
    case.announces(HOST, 16114).await;
}

#[tokio::test]
async fn a_label_that_names_loopback_is_refused() {
    let labelled = ["--publish=16115:6379", "--label=sidekick.host=127.0.0.1"];
    let case = Case::of(&labelled, &[]).await;
    case.refuses(&["sidekick.host"]).await;
}

#[tokio::test]
async fn the_docker_hosts_own_name_is_the_last_resort() {
    let case = Case::of(&["--publish=16116:6379"], &[]).await;
    case.announces(Engine::HOSTNAME, 16116).await;
}

#[tokio::test]
async fn an_address_that_the_port_is_not_bound_on_is_announced_with_one_warning() {
    let publish = format!("--publish={}:16117:6379", Engine::ADDRESS);
    let case = Case::of(&[&publish], &[("--host", "10.1.2.3")]).await;
    case.announces("10.1.2.3", 16117).await;
    let bound = format!("{}:16117", Engine::ADDRESS);
    let words = format!("published on {bound} and not on 10.1.2.3");
    case.sidekick.logs(&words).await;
    assert_eq!(case.sidekick.times_logged(&words), 1, "it is told once");
}

#[tokio::test]
async fn an_address_of_ipv6_is_doubted_where_the_port_is_bound_on_ipv4_alone() {
    let publish = "--publish=0.0.0.0:16118:6379";
    let case = Case::of(&[publish], &[("--host", "2001:db8::7")]).await;
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
    /// With these options of `docker run` and of `sidekick announce`.
    async fn of(run: &[&str], announce: &[(&str, &str)]) -> Case {
        Case::with(run, &[], announce).await
    }

    /// A container on its engine's network, where Redis listens on this port.
    async fn on_the_hosts_network(port: &str, announce: &[(&str, &str)]) -> Case {
        Case::with(&["--network=host"], &["--port", port], announce).await
    }

    async fn with(run: &[&str], redis: &[&str], announce: &[(&str, &str)]) -> Case {
        let (engine, etcd) = tokio::join!(Engine::shared(), Etcd::start());
        let container = engine.container(&engine.name("redis1"));
        let container = run.iter().fold(container, |run, option| run.option(option));
        let redis = container.redis_arguments(redis).run().await;
        let sidekick = Sidekick::announce(redis.name(), KEY).etcd(&etcd);
        let sidekick = sidekick.docker(engine).under_systemd();
        let announce = announce.iter().copied();
        let sidekick = announce.fold(sidekick, |it, (name, value)| it.option(name, value));
        Case {
            sidekick: sidekick.spawn(),
            redis,
            engine,
            etcd,
        }
    }

    /// The port that Docker chose.
    async fn port(&self) -> u16 {
        self.redis.host_port("6379/tcp").await
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
        self.sidekick.status(&what, told).await;
        self.etcd.lacks(KEY, millis(500)).await;
    }
}
