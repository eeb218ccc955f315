//! `--hold`: instances that disappear from etcd at the same moment are served for a while longer.

use sidekick_harness::agent::*;

const HELD: &str = "disappeared from etcd at once";

/// `redis` and `cache`, bound, with these many instances of `backend` each.
async fn two_services(
    arguments: &[&str],
    redis: usize,
    backend: &Backend,
) -> (AgentScene, Servers) {
    let cache = format!("--bind=cache=:{}", free_port());
    let arguments = [&[cache.as_str()], arguments].concat();
    let scene = AgentScene::start(Supervised, &arguments).await;
    let mut servers = Servers::new();
    for n in 0..redis {
        scene.put("redis", &format!("i{n}"), &backend.value()).await;
        servers.insert(format!("redis/i{n}"), backend.port.to_string());
    }
    scene.put("cache", "i", &backend.value()).await;
    servers.insert("cache/i".to_owned(), backend.port.to_string());
    scene.serves_all(&servers).await;
    (scene, servers)
}

#[tokio::test]
async fn all_of_two_services_gone_at_a_blow_are_held_but_not_who_was_draining() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let (scene, held) = two_services(&["--hold=1h"], 1, &a).await;
    scene.put("redis", "going", &b.draining()).await;
    let mut all = held.clone();
    all.insert("redis/going".to_owned(), format!("{} drain", b.port));
    scene.serves_all(&all).await;
    scene.etcd.delete_all("/services/").await;
    scene.says(HELD).await;
    scene.serves_all(&held).await;
    scene.keeps_answering(A_WHILE).await;
    assert_eq!(scene.log().matches(HELD).count(), 2, "{}", scene.log());
    let both = |status: &str| status.contains("2 held");
    scene.systemd.status("that both are held", both).await;
}

#[tokio::test]
async fn who_is_held_is_taken_out_by_haproxys_own_checks_if_he_is_dead() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let (scene, mut held) = two_services(&["--hold=1h"], 1, &a).await;
    scene.put("redis", "dead", &b.value()).await;
    held.insert("redis/dead".to_owned(), b.port.to_string());
    scene.serves_all(&held).await;
    scene.etcd.delete_all("/services/").await;
    scene.says(HELD).await;
    drop(b);
    let is_down = async || scene.stat("redis", "dead", "status").await == "DOWN";
    eventually(PATIENCE, "HAProxy's checks have it down", is_down).await;
    // It is still a server of HAProxy, which gives it no client.
    scene.serves_all(&held).await;
    Connection::only_to(scene.port, "a").await;
}

#[tokio::test]
async fn zero_lets_go_at_once() {
    let a = Backend::start("a").await;
    let (scene, _) = two_services(&["--hold=0"], 5, &a).await;
    scene.etcd.delete_all("/services/").await;
    scene.serves_all(&Servers::new()).await;
    assert!(!scene.log().contains(HELD), "{}", scene.log());
}

#[tokio::test]
async fn two_of_three_and_all_of_one_service_are_believed() {
    let a = Backend::start("a").await;
    let (scene, mut servers) = two_services(&["--hold=1h"], 3, &a).await;
    scene.etcd.delete_all("/services/redis/i1").await;
    scene.etcd.delete_all("/services/redis/i2").await;
    servers.retain(|name, _| name != "redis/i1" && name != "redis/i2");
    scene.serves_all(&servers).await;
    scene.delete("cache", "i").await;
    servers.remove("cache/i");
    scene.serves_all(&servers).await;
    assert!(!scene.log().contains(HELD), "{}", scene.log());
}

/// Half of one service's clients reached the other one, whose new instance had the held instance's address.
#[tokio::test]
async fn who_is_held_goes_as_soon_as_a_live_key_announces_its_address() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let cache = format!("--bind=cache=:{}", free_port());
    let scene = AgentScene::start(Supervised, &["--hold=1h", &cache]).await;
    scene.put("redis", "r1", &a.value()).await;
    scene.put("cache", "c1", &b.value()).await;
    let served = [("cache/c1", b.port), ("redis/r1", a.port)];
    scene.serves(&served).await;
    scene.etcd.delete_all("/services/").await;
    scene.says(HELD).await;
    // New containers got each other's address.
    scene.put("redis", "r2", &b.value()).await;
    scene.put("cache", "c2", &a.value()).await;
    let served = [("cache/c2", a.port), ("redis/r2", b.port)];
    scene.serves(&served).await;
    Connection::only_to(scene.port, "b").await;
}

/// "3 instances disappeared from etcd at once", and there had never been more than two.
#[tokio::test]
async fn short_lived_keys_in_turn_are_no_crowd() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let (scene, servers) = two_services(&["--hold=1h"], 1, &a).await;
    for n in 0..12 {
        let name = format!("short{n}");
        scene.put("redis", &name, &b.value()).await;
        let target = format!("redis/{name}");
        let served = async || scene.servers().await.contains_key(&target);
        eventually(PATIENCE, "it is served", served).await;
        scene.delete("redis", &name).await;
    }
    scene.serves_all(&servers).await;
    assert!(!scene.log().contains(HELD), "{}", scene.log());
}
