//! `announce --also`: the same instance in the layouts of other readers, on the same lease.

use std::time::{Duration, Instant};

use sidekick_harness::{
    A_WHILE, Announce, AnnouncerScene, Etcd, HOST, KEY, SOON, becomes, eventually, never_for, secs,
};

const TRAEFIK: &str = "traefik/tcp/services/redis/loadBalancer/servers/redis@1/address";
const SKYDNS: &str = "/skydns/local/example/redis/redis-1";

fn also(announce: Announce, layouts: &[&str]) -> Announce {
    let layouts = layouts.iter();
    layouts.fold(announce, |announce, layout| {
        announce.flag(&format!("--also={layout}"))
    })
}

async fn announced(layouts: &[&str]) -> AnnouncerScene<'static> {
    AnnouncerScene::announced_with(|announce| also(announce, layouts)).await
}

#[tokio::test]
async fn each_layout_stands_beside_the_key_and_goes_with_it() {
    let mut scene = announced(&[
        "skydns:example.local",
        "grpc:/grpc",
        "traefik-tcp",
        "traefik-http",
        "/custom/{service}/{instance}={hostport}|{container}",
    ])
    .await;
    let port = scene.value.port;
    let container = scene.value.container.clone();
    let primary = scene.etcd.get(KEY).await.expect("it is announced");
    let expected = [
        (
            SKYDNS,
            format!(r#"{{"host":"{HOST}","port":{port},"ttl":5}}"#),
        ),
        (
            "/grpc/redis/redis@1",
            format!(r#"{{"Op":0,"Addr":"{HOST}:{port}","Metadata":null}}"#),
        ),
        (TRAEFIK, format!("{HOST}:{port}")),
        (
            "traefik/http/services/redis/loadBalancer/servers/redis@1/url",
            format!("http://{HOST}:{port}"),
        ),
        (
            "/custom/redis/redis@1",
            format!("{HOST}:{port}|{container}"),
        ),
    ];
    for (key, value) in &expected {
        let entry = scene.etcd.get(key).await;
        let entry = entry.unwrap_or_else(|| panic!("{key} is missing"));
        assert_eq!(entry.value, *value, "{key}");
        // The same transaction, and the same lease.
        let same = (primary.lease, primary.mod_revision);
        assert_eq!((entry.lease, entry.mod_revision), same, "{key}");
    }
    scene.redis.kill().await;
    scene.is_withdrawn().await;
    scene.etcd.has_keys(0).await;
    scene.redis.start().await;
    scene.is_announced().await;
    assert_eq!(scene.etcd.keys().await.len(), expected.len() + 1);
    scene.sidekick.leaves().await;
    assert_eq!(scene.etcd.keys().await, [""; 0]);
}

#[tokio::test]
async fn none_stands_while_the_instance_drains_and_its_readers_have_a_second_to_let_go() {
    let mut scene = AnnouncerScene::announced_with(|announce| {
        also(announce, &["traefik-tcp"]).option("--drain", "60s")
    })
    .await;
    let agent = "/sidekick/services/agents/worker-9";
    let record = r#"{"services":["redis"]}"#;
    scene.etcd.put_leased(agent, record, secs(60)).await;
    let (host, port, since) = (&scene.value.host, scene.value.port, &scene.value.since);
    let word = format!(r#"{{"host":"{host}","port":{port},"since":"{since}"}}"#);
    // The agent's word is there already: nothing but the second is waited for.
    scene
        .etcd
        .put_leased(&format!("{agent}/redis/redis@1"), &word, secs(60))
        .await;
    let began = Instant::now();
    scene.sidekick.term();
    eventually(SOON, "the key says draining", async || {
        let entry = scene.etcd.get(KEY).await;
        entry.is_some_and(|entry| entry.value.contains("draining"))
    })
    .await;
    assert_eq!(scene.etcd.get(TRAEFIK).await, None);
    let status = scene.sidekick.wait_exit(SOON).await;
    assert_eq!(status.code(), Some(0));
    let took = began.elapsed();
    assert!(took >= secs(1), "it left after {took:?}");
}

#[tokio::test]
async fn a_restart_with_other_layouts_leaves_nothing_behind() {
    const TTL: Duration = secs(4);
    let times = |announce: Announce| announce.times(4, 1);
    let mut scene = AnnouncerScene::announced_with(|announce| {
        times(also(announce, &["skydns:example.local", "traefik-tcp"]))
    })
    .await;
    let before = scene.etcd.get(KEY).await.expect("it is announced").lease;
    scene.sidekick.kill9().await;
    let engine = scene.engine;
    let _next = scene.announce_again(|announce| {
        times(also(
            announce.docker(engine).host(HOST),
            &["grpc:/grpc", "traefik-tcp"],
        ))
    });
    // The one that both have moves with the key, and is there all the time.
    eventually(SOON, "the key is the next process'", async || {
        let lease = async |key| scene.etcd.get(key).await.map(|entry| entry.lease);
        let lease = (lease(KEY).await, lease(TRAEFIK).await);
        lease.0.is_some_and(|now| now != before) && lease.0 == lease.1
    })
    .await;
    assert!(scene.etcd.get("/grpc/redis/redis@1").await.is_some());
    scene.etcd.keeps(TRAEFIK, TTL + secs(2)).await;
    // What the dead process had alone went with its lease.
    assert_eq!(scene.etcd.get(SKYDNS).await, None);
    assert_eq!(scene.etcd.keys().await.len(), 3);
}

#[tokio::test]
async fn a_key_that_we_have_no_right_to_costs_itself_alone() {
    let etcd = Etcd::start_with_login(300).await;
    let scene = AnnouncerScene::announced_in(etcd, |announce, etcd| {
        let announce = announce.etcd(etcd).login().times(6, 1);
        also(announce, &["traefik-tcp", "/elsewhere/{instance}={host}"])
    })
    .await;
    scene.sidekick.logs("not put for another reader").await;
    // Several intervals later it is said once for each key, and the key itself stands.
    scene.etcd.keeps(KEY, secs(4)).await;
    scene.sidekick.logged_times("not put for another reader", 2);
    assert_eq!(scene.etcd.keys().await, [KEY]);
}

#[tokio::test]
async fn what_another_writer_has_is_left_alone_until_it_goes() {
    let etcd = Etcd::start().await;
    etcd.put(TRAEFIK, "10.9.9.9:1").await;
    let scene = AnnouncerScene::announced_in(etcd, |announce, etcd| {
        also(announce.etcd(etcd).times(6, 1), &["traefik-tcp"])
    })
    .await;
    scene
        .sidekick
        .logs("another writer holds this further key")
        .await;
    never_for(A_WHILE, "the other's value changes", async || {
        let entry = scene.etcd.get(TRAEFIK).await;
        entry.is_none_or(|entry| entry.value != "10.9.9.9:1")
    })
    .await;
    scene.sidekick.logged_times("another writer holds", 1);
    scene.etcd.delete(TRAEFIK).await;
    let ours = format!("{HOST}:{}", scene.value.port);
    becomes(SOON, "the further key", Some(ours), async || {
        scene.etcd.get(TRAEFIK).await.map(|entry| entry.value)
    })
    .await;
}
