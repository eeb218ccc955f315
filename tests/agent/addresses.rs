//! The addresses that HAProxy listens on, and the addresses of its servers.

use sidekick_harness::agent::*;

/// Addresses of this machine in the test's own network (see [`apart`]).
const EVERYWHERE: [&str; 4] = ["127.0.0.1", "::1", "10.5.0.7", "fd00:5::7"];

#[test]
fn a_listener_is_on_all_addresses_or_where_it_is_told_and_instances_have_ipv6_too() {
    let test =
        "addresses::a_listener_is_on_all_addresses_or_where_it_is_told_and_instances_have_ipv6_too";
    apart(test, async {
        let (local, own) = (free_port(), free_port());
        let scene = AgentScene::start(Supervised, &[&format!("--bind=local=[::1]:{local}")]).await;
        let six = Backend::at("[fd00:5::7]:0", "six").await;
        let value = value_of("fd00:5::7", six.port);
        scene.put("redis", "six", &value).await;
        scene.put("local", "six", &value).await;
        scene.put("own", "i", &elsewhere(own)).await;
        let served = [
            ("local/six", six.port),
            ("own/i", own),
            ("redis/six", six.port),
        ];
        scene.serves(&served).await;
        let running = scene.running().await;
        assert_eq!(running["redis/six"], format!("fd00:5::7 {}", six.port));
        for ip in EVERYWHERE {
            let (_, name) = Connection::to((ip, scene.port)).await.unwrap();
            assert_eq!(name, "six", "dialled at {ip}");
            // Without --bind the service is on its instance's port.
            assert!(listens(ip, own).await, "{ip}");
            assert_eq!(listens(ip, local).await, ip == "::1", "{ip}");
        }
        assert_eq!(Connection::to(("::1", local)).await.unwrap().1, "six");
    });
}

/// The agent looks every name up again after 30 s: the one test that takes so long.
#[test]
fn a_host_name_is_looked_up_again_and_followed_without_a_reload() {
    let test = "addresses::a_host_name_is_looked_up_again_and_followed_without_a_reload";
    apart(test, async {
        let known = std::fs::read_to_string("/etc/hosts").unwrap();
        let lives_at = |ip: &str| std::fs::write("/etc/hosts", format!("{known}{ip} db.test\n"));
        lives_at("10.5.0.7").unwrap();
        let old = Backend::at("10.5.0.7:0", "old").await;
        let _new = Backend::at(&format!("10.5.0.8:{}", old.port), "new").await;
        let scene = AgentScene::start(Supervised, &[]).await;
        scene
            .put("redis", "db", &value_of("db.test", old.port))
            .await;
        scene.serves(&[("redis/db", old.port)]).await;
        let reloads = scene.reloads().await;
        let mut kept = Connection::to_backend(scene.port, "old").await;
        lives_at("10.5.0.8").unwrap();
        let there = format!("10.5.0.8 {}", old.port);
        scene.leads(secs(45), "redis/db", &there).await;
        assert_eq!(Connection::dial(scene.port).await.unwrap().1, "new");
        assert!(kept.lives().await);
        assert_eq!(scene.reloads().await, reloads);
        scene.serves(&[("redis/db", old.port)]).await;
    });
}
