//! sidekick asks for little: of etcd, of the Docker Engine, of the machine.

use std::collections::BTreeMap;
use std::fs;

use sidekick_harness::*;

/// Below 65,536 and no group of any system's.
const GROUP: u32 = 64_242;

#[tokio::test]
async fn a_role_that_may_only_touch_services_is_enough_for_every_job() {
    let (engine, etcd) = tokio::join!(Engine::shared(), Etcd::start_with_login(300));
    let redis = engine.redis().run().await;
    let port = redis.host_port("6379/tcp").await;
    // An address, so that no name has to be resolved.
    let announce = redis.announce(&etcd).host(Engine::ADDRESS).times(6, 2);
    let _announcer = announce.login().spawn();
    etcd.shows(KEY, &redis.at(Engine::ADDRESS, port).await)
        .await;

    assert!(etcd.denials().await < 1.0, "announce needs no other right");
    let explain = Sidekick::explain(redis.name()).etcd(&etcd).docker(engine);
    let explained = explain.host(Engine::ADDRESS).login().run().await;
    assert_eq!(explained.code, Some(0));
    assert!(explained.text.contains(KEY), "{}", explained.text);

    let listed = Sidekick::list().etcd(&etcd).login().run().await;
    assert_eq!(listed.code, Some(0));
    assert!(listed.text.contains("redis@1"), "{}", listed.text);

    // Both ask for drain wishes, once, and do without.
    let asked_for_wishes = etcd.denials().await;
    assert!(asked_for_wishes <= 2.0, "{asked_for_wishes}");

    let balancer = balancer();
    let file = balancer.directory().join("haproxy.cfg");
    let mut agent = agent_of(&balancer, &etcd).login().spawn();
    let server = format!("{}:{port}", Engine::ADDRESS);
    let served = async || fs::read_to_string(&file).is_ok_and(|text| text.contains(&server));
    eventually(secs(10), "the agent reads the key", served).await;

    // Longer than the agent waits before it asks for a sign of life, and two renewals.
    // Once the agent has asked for its own keys, and does without.
    let refused = async || etcd.denials().await > asked_for_wishes + 1.0;
    never_for(secs(7), "etcd has refused something more", refused).await;
    agent.leaves().await;
}

#[tokio::test]
async fn a_socket_proxy_that_lets_through_five_gets_is_enough_for_a_containers_whole_life() {
    let (engine, etcd) = tokio::join!(Engine::shared(), Etcd::start());
    let proxy = SocketProxy::before(engine).await;
    live_and_die_behind(&proxy, engine, &etcd).await;

    let asked = only(&FOR_ONE, &proxy);
    let versions = asked.get("200 GET /version").copied();
    assert!(versions >= Some(2), "two proxies were asked: {asked:?}");

    let kill = format!("POST /containers/{}/kill", Engine::HOSTNAME);
    for refused in [kill.as_str(), "GET /images/json", "HEAD /version"] {
        assert_eq!(proxy.status(refused).await, Some(403), "{refused}");
    }
}

#[tokio::test]
async fn a_socket_proxy_that_refuses_info_is_done_without() {
    let (engine, etcd) = tokio::join!(Engine::shared(), Etcd::start());
    let proxy = SocketProxy::without_info(engine).await;
    live_and_die_behind(&proxy, engine, &etcd).await;

    let asked = proxy.requests();
    let refused: Vec<_> = asked.keys().filter(|r| r.starts_with("403")).collect();
    assert_eq!(refused, ["403 GET /info"], "{asked:?}");
}

#[tokio::test]
async fn a_socket_proxy_that_ends_silent_streams_costs_neither_a_write_nor_a_log() {
    // An engine of its own: on the shared one the other tests' events keep the stream from falling silent.
    let (engine, etcd) = tokio::join!(Engine::start(), Etcd::start());
    let proxy = SocketProxy::impatient(&engine).await;
    let redis = engine.redis().run().await;
    let announce = redis.announce(&etcd).option("--docker-host", &proxy.host());
    let sidekick = announce.spawn();
    let value = redis.value().await;
    etcd.shows(KEY, &value).await;
    let revision = etcd.revision().await;

    let ended = async || proxy.requests().get("200 GET /events").copied() >= Some(4);
    etcd.stays_at(revision, secs(11)).await;
    eventually(secs(10), "streams have ended four times", ended).await;
    let lines = sidekick.times_logged("Docker");
    println!("{:#?}", sidekick.log());
    measured::counted(8, "log lines about 4 lost event streams", lines, 6);
    sidekick.logged_times("INFO announcing", 1);
}

#[tokio::test]
async fn all_labelled_containers_are_announced_through_the_same_socket_proxy() {
    let (engine, etcd) = tokio::join!(Engine::shared(), Etcd::start());
    let proxy = SocketProxy::before(engine).await;
    let announce = engine.announce_all(&etcd);
    let mut sidekick = announce.option("--docker-host", &proxy.host()).spawn();
    let service = engine.name("proxied");
    let redis = engine.redis().label(&format!("sidekick.service={service}"));
    let redis = redis.run().await;
    let key = format!("/services/{service}/{}@{HOST}", redis.name());
    etcd.shows(&key, &redis.value().await).await;

    proxy.kill9().await;
    redis.kill().await;
    proxy.start_again().await;
    etcd.loses(&key).await;
    sidekick.leaves().await;

    let [one, of_all] = [Sidekick::explain(redis.name()), Sidekick::explain_all()];
    let [one, of_all] = [one, of_all].map(|explain| explain.etcd(&etcd).host(HOST));
    let behind = |explain: Announce| explain.option("--docker-host", &proxy.host());
    assert_eq!(behind(one).run().await.code, Some(1), "it is dead");
    let explained = behind(of_all).run().await;
    assert!(explained.text.contains(redis.name()), "{}", explained.text);

    let allowed = [&FOR_ONE[..], &["200 GET /containers/json"]].concat();
    let asked = only(&allowed, &proxy);
    assert!(asked.contains_key("200 GET /containers/json"), "{asked:?}");
}

/// Section 25 of the pitfalls, but for the list.
const FOR_ONE: [&str; 6] = [
    "200 GET /_ping",
    "200 GET /version",
    "200 GET /info",
    "200 GET /events",
    "200 GET /containers/{id}/json",
    "404 GET /containers/{id}/json",
];

/// What was asked for through the proxy; fails the test where anything but these was.
fn only(allowed: &[&str], proxy: &SocketProxy) -> BTreeMap<String, usize> {
    let asked = proxy.requests();
    println!("asked for of the engine: {asked:?}");
    // What was under way when the proxy was killed or sidekick left has no status.
    let under_way = allowed.iter().filter_map(|it| it.split_once(' '));
    let under_way: Vec<_> = under_way.map(|(_, get)| format!("-1 {get}")).collect();
    let others = asked
        .keys()
        .filter(|request| !allowed.contains(&request.as_str()) && !under_way.contains(request));
    let others: Vec<_> = others.collect();
    assert!(others.is_empty(), "{others:?} of {asked:?}");
    asked
}

#[tokio::test]
async fn sidekick_needs_no_right_but_the_group_of_the_engines_socket() {
    let (engine, etcd) = tokio::join!(Engine::shared(), Etcd::start());
    engine.opens_to(GROUP);
    let redis = engine.redis().run().await;
    let mut sidekick = redis.announce(&etcd).unprivileged_in(GROUP).spawn();

    etcd.shows(KEY, &redis.value().await).await;
    let status = String::from_utf8(sidekick.proc("status")).expect("the kernel writes ASCII");
    for line in [
        "Uid:\t65534\t65534",
        "CapEff:\t0000000000000000",
        "NoNewPrivs:\t1",
    ] {
        assert!(status.contains(line), "{line:?} is not in {status}");
    }
    redis.kill().await;
    etcd.loses(KEY).await;
    sidekick.leaves().await;
}

/// Start, death, start again, a new proxy in between, and a death while there was none.
async fn live_and_die_behind(proxy: &SocketProxy, engine: &'static Engine, etcd: &Etcd) {
    let redis = engine.redis().run().await;
    let announce = redis.announce(etcd).option("--docker-host", &proxy.host());
    let mut sidekick = announce.spawn();
    let announced = async || etcd.shows(KEY, &redis.value().await).await;
    announced().await;
    redis.kill().await;
    etcd.loses(KEY).await;
    redis.start().await;
    announced().await;

    proxy.kill9().await;
    etcd.keeps(KEY, secs(1)).await;
    redis.kill().await;
    proxy.start_again().await;
    etcd.loses(KEY).await;
    redis.start().await;
    announced().await;
    redis.remove().await;
    etcd.loses(KEY).await;
    sidekick.leaves().await;
}

/// An agent that is attached to that HAProxy, with a listener for redis.
pub fn agent_of(balancer: &Warden, etcd: &Etcd) -> Announce {
    let directory = balancer.directory();
    let agent = Sidekick::agent().etcd(etcd).option("--stats", "off");
    agent
        .file("--haproxy-config", &directory.join("haproxy.cfg"))
        .file("--haproxy-master", &directory.join(SOCKET))
        .option("--bind", &format!("redis=127.0.0.1:{}", free_port()))
}

/// A HAProxy for an agent to attach to.
pub fn balancer() -> Warden {
    let directory = Warden::directory_for("balancer", &["haproxy", "setpriv"]);
    let (file, socket) = (directory.join("haproxy.cfg"), directory.join(SOCKET));
    let text = "defaults\n    timeout connect 1s\n    timeout client 1s\n    timeout server 1s\n\
                listen other\n    bind unix@";
    let text = format!("{text}{}\n", directory.join("other").display());
    fs::write(&file, text).expect("HAProxy's configuration cannot be written");
    let [file, socket] = [file, socket].map(|path| path.display().to_string());
    let server = ["haproxy", "-W", "-db", "-f", &file, "-S", &socket];
    let warden = Warden::of(Charge {
        directory,
        surroundings: Vec::new(),
        server: server.map(str::to_owned).to_vec(),
    });
    warden.start();
    warden
}

const SOCKET: &str = "master.sock";
