//! Whoever may write below the prefix may write anything: none of it may reach the file or the socket but as data.

use crate::base::listener_maxconn;
use sidekick_harness::agent::*;

#[tokio::test]
async fn hostile_keys_and_values_are_quarantined_and_neighbours_go_on() {
    let scene = AgentScene::start(Supervised, &[]).await;
    let a = Backend::start("a").await;
    let nested = "[".repeat(5000) + &"]".repeat(5000);
    let deep = format!(r#"{{"host":"10.0.0.7","port":1,"x":{nested}}}"#);
    let big = value_of(&"x".repeat(1 << 20), 1);
    let no_objects = ["", "{", "null", "[]", "\"x\"", "{}", "\n", "\0"];
    let values = [
        &deep,
        &big,
        r#"{"host":"10.0.0.7","port":0}"#,
        r#"{"host":"10.0.0.7","port":70000}"#,
        r#"{"host":"10.0.0.7","port":"6379"}"#,
        r#"{"host":"10.0.0.7","port":6379.5}"#,
        r#"{"host":{"host":"10.0.0.7"},"port":1}"#,
        r#"{"host":"10.0.0.7\n    server evil 6.6.6.6:6","port":1}"#,
        r#"{"host":"10.0.0.7;show version","port":1}"#,
        r#"{"host":"${HOME}","port":1}"#,
        r#"{"host":"\"","port":1}"#,
        r#"{"host":"a|b","port":1}"#,
        r#"{"host":"a b","port":1}"#,
        r#"{"host":"10.0.0.7 backup","port":1}"#,
        r#"{"host":"10.0.0.7","port":{"port":1}}"#,
        r#"{"host":["10.0.0.7"],"port":1}"#,
        r#"{"host":"a\u0000b","port":1}"#,
        r#"{"host":"fe80::1%eth0","port":1}"#,
        r#"{"host":"localhost","port":1}"#,
        r#"{"host":"0.0.0.0","port":1}"#,
        r#"{"host":"127.0.0.1","port":1}"#,
    ];
    let mut bad = Vec::new();
    for (n, value) in values.iter().chain(&no_objects).enumerate() {
        bad.push((format!("/services/redis/v{n}"), (*value).to_owned()));
    }
    let long = "x".repeat(300);
    let good = value_of("10.0.0.7", 6379);
    let names = ["a b", "a\nb", "a\"b", "a|b", "a\0b", "..", "é", "a/b"];
    let more = ["${HOME}", "a;show version", &long, "@1 reload\n"];
    for name in names.into_iter().chain(more) {
        bad.push((format!("/services/redis/{name}"), good.clone()));
        if !name.contains("a/b") {
            bad.push((format!("/services/{name}/x"), good.clone()));
        }
    }
    for (key, value) in &bad {
        scene.etcd.put(key, value).await;
    }
    scene.put("redis", "redis@1", &a.value()).await;
    scene.serves_redis(&[&a]).await;
    assert_eq!(Connection::dial(scene.port).await.unwrap().1, "a");
    let lines = || scene.log().matches("quarantined: ").count();
    becomes(PATIENCE, "lines about bad keys", bad.len(), async || {
        lines()
    })
    .await;
    // Each key is logged once, also when all keys are read again.
    scene.put("redis", "redis@2", &a.value()).await;
    scene.serves_redis(&[&a, &a]).await;
    assert_eq!(lines(), bad.len());
    let counted = format!(", {} quarantined", bad.len());
    let counts = |status: &str| status.ends_with(&counted);
    scene.systemd.status("one that counts them", counts).await;
    // Nothing of them is in the file.
    let config = scene.config();
    let (_, ours) = config.split_once("\nlisten ").unwrap();
    let expected = format!(
        "redis\n    bind :::{} v4v6\n    mode tcp\n    balance roundrobin\n    tcp-request connection reject if {{ nbsrv eq 0 }} !{{ stopping }}\n    maxconn {}\n{}{}",
        scene.port,
        listener_maxconn(),
        server("redis::1", &scene, &a).await,
        server("redis::2", &scene, &a).await
    );
    assert_eq!(ours, expected);
}

/// The line of an instance's server in the file.
async fn server(name: &str, scene: &AgentScene, backend: &Backend) -> String {
    let at = scene.running().await[&format!("redis/{name}")].replace(' ', ":");
    let host = host();
    assert!(at.ends_with(&format!(":{}", backend.port)), "{at}");
    format!(
        "    server {name} {at} check inter 1s fastinter 500ms downinter 1s rise 3 fall 2 # {host}\n"
    )
}

#[tokio::test]
async fn a_hundred_thousand_keys_push_no_instance_out() {
    let (scene, a) = AgentScene::serving(Supervised, &["--hold=0"]).await;
    let reloads = scene.reloads().await;
    let (mut kept, _) = Connection::dial(scene.port).await.unwrap();
    let flood = (0..100_000).map(|n| (format!("/services/redis/bad {n}"), "{}".to_owned()));
    scene.etcd.put_all(&flood.collect::<Vec<_>>()).await;
    scene.put("redis", "redis@2", &a.value()).await;
    scene.serves_redis(&[&a, &a]).await;
    assert!(kept.lives().await);
    assert_eq!(scene.reloads().await, reloads);
    // All of them are counted, and the first 500 are logged one by one.
    let counts = |status: &str| status.ends_with(", 100000 quarantined");
    scene.systemd.status("one that counts them", counts).await;
    assert_eq!(scene.log().matches("quarantined: ").count(), 500);
}
