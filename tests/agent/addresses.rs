//! Where clients dial, and whom HAProxy dials for them.

use sidekick_harness::agent::*;
use std::time::Duration;

/// This machine, by addresses of its own (see [`apart`]).
const EVERYWHERE: [&str; 4] = ["127.0.0.1", "::1", "10.5.0.7", "fd00:5::7"];

#[test]
fn a_front_is_on_all_addresses_or_where_it_is_told_and_instances_have_ipv6_too() {
    let test =
        "addresses::a_front_is_on_all_addresses_or_where_it_is_told_and_instances_have_ipv6_too";
    apart(test, async {
        let (local, own) = (free_port(), free_port());
        let scene = Scene::start(Way::Supervised, &[&format!("--bind=local=[::1]:{local}")]).await;
        let six = Backend::at("[fd00:5::7]:0", "six").await;
        let value = format!(r#"{{"host":"fd00:5::7","port":{}}}"#, six.port);
        scene.put("redis", "six", &value).await;
        scene.put("local", "six", &value).await;
        let nobody = format!(r#"{{"host":"10.255.255.1","port":{own}}}"#);
        scene.put("own", "i", &nobody).await;
        scene
            .serves(&[
                ("local/six", six.port.to_string()),
                ("own/i", own.to_string()),
                ("redis/six", six.port.to_string()),
            ])
            .await;
        assert_eq!(
            scene.running().await["redis/six"],
            format!("fd00:5::7 {}", six.port)
        );
        for ip in EVERYWHERE {
            let (_, name) = Connection::to((ip, scene.port)).await.unwrap();
            assert_eq!(name, "six", "dialled at {ip}");
            // Its own port, for it was told no other.
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
        let scene = Scene::start(Way::Supervised, &[]).await;
        let value = format!(r#"{{"host":"db.test","port":{}}}"#, old.port);
        scene.put("redis", "db", &value).await;
        scene.serves(&[("redis/db", old.port.to_string())]).await;
        let reloads = scene.reloads().await;
        let (mut kept, name) = Connection::dial(scene.port).await.unwrap();
        assert_eq!(name, "old");
        lives_at("10.5.0.8").unwrap();
        let there = format!("10.5.0.8 {}", old.port);
        becomes(
            Duration::from_secs(45),
            "where the name leads",
            Some(there),
            async || scene.running().await.get("redis/db").cloned(),
        )
        .await;
        assert_eq!(Connection::dial(scene.port).await.unwrap().1, "new");
        assert!(kept.lives().await);
        assert_eq!(scene.reloads().await, reloads);
        scene.serves(&[("redis/db", old.port.to_string())]).await;
    });
}
