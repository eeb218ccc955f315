//! Who leaves in a crowd isn't believed at once.

use sidekick_harness::agent::*;

const HELD: &str = "disappeared from etcd at once";

/// `redis` and `cache`, bound, with these many instances of `backend` each.
async fn two_services(arguments: &[&str], redis: usize, backend: &Backend) -> (Scene, Servers) {
    let cache = format!("--bind=cache=:{}", free_port());
    let arguments = [&[cache.as_str()], arguments].concat();
    let scene = Scene::start(Way::Supervised, &arguments).await;
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
    throughout(A_WHILE, "a answers", async || {
        Connection::dial(scene.port)
            .await
            .is_some_and(|c| c.1 == "a")
    })
    .await;
    assert_eq!(scene.log().matches(HELD).count(), 2, "{}", scene.log());
    scene
        .systemd
        .status("one that tells of both", |status| status.contains("2 held"))
        .await;
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
    eventually(PATIENCE, "HAProxy's checks have it down", async || {
        let stat = scene.master("@1 show stat").await;
        let mut rows = stat.lines().map(|row| row.split(',').collect::<Vec<_>>());
        rows.any(|row| row.starts_with(&["redis", "dead"]) && row[17] == "DOWN")
    })
    .await;
    // Still in the table, and no client meets it.
    scene.serves_all(&held).await;
    for _ in 0..6 {
        assert_eq!(Connection::dial(scene.port).await.unwrap().1, "a");
    }
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

/// Half of one service's clients reached the other: what was held is another's address by now.
#[tokio::test]
async fn who_is_held_goes_as_soon_as_a_live_key_announces_its_address() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let cache = format!("--bind=cache=:{}", free_port());
    let scene = Scene::start(Way::Supervised, &["--hold=1h", &cache]).await;
    scene.put("redis", "r1", &a.value()).await;
    scene.put("cache", "c1", &b.value()).await;
    let at = |backend: &Backend| backend.port.to_string();
    scene
        .serves(&[("cache/c1", at(&b)), ("redis/r1", at(&a))])
        .await;
    scene.etcd.delete_all("/services/").await;
    scene.says(HELD).await;
    // Containers that were made anew got each other's address.
    scene.put("redis", "r2", &b.value()).await;
    scene.put("cache", "c2", &a.value()).await;
    scene
        .serves(&[("cache/c2", at(&a)), ("redis/r2", at(&b))])
        .await;
    for _ in 0..6 {
        assert_eq!(Connection::dial(scene.port).await.unwrap().1, "b");
    }
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
        eventually(PATIENCE, "it is served", async || {
            scene.servers().await.contains_key(&target)
        })
        .await;
        scene.delete("redis", &name).await;
    }
    scene.serves_all(&servers).await;
    assert!(!scene.log().contains(HELD), "{}", scene.log());
}
