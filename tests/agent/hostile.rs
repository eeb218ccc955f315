//! What stands in etcd is anybody's. None of it may reach the file or the socket as anything but data.

use crate::base::listener_maxconn;
use sidekick_harness::agent::*;

#[tokio::test]
async fn hostile_keys_and_values_are_quarantined_and_neighbours_go_on() {
    let scene = AgentScene::start(Supervised, &[]).await;
    let a = Backend::start("a").await;
    let deep = format!(
        r#"{{"host":"10.0.0.7","port":1,"x":{}{}}}"#,
        "[".repeat(5000),
        "]".repeat(5000)
    );
    let values = [
        &deep,
        "",
        "{",
        "null",
        "[]",
        "\"x\"",
        "{}",
        "\n",
        "\0",
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
    for (n, value) in values.iter().enumerate() {
        bad.push((format!("/services/redis/v{n}"), (*value).to_owned()));
    }
    bad.push((
        "/services/redis/big".to_owned(),
        format!("{{\"host\":\"{}\",\"port\":1}}", "x".repeat(1 << 20)),
    ));
    let long = "x".repeat(300);
    let good = r#"{"host":"10.0.0.7","port":6379}"#;
    for name in [
        "a b",
        "a\nb",
        "a\"b",
        "${HOME}",
        "a;show version",
        "a|b",
        "a\0b",
        "..",
        "é",
        &long,
        "a/b",
        "@1 reload\n",
    ] {
        bad.push((format!("/services/redis/{name}"), good.to_owned()));
        if !name.contains("a/b") {
            bad.push((format!("/services/{name}/x"), good.to_owned()));
        }
    }
    for (key, value) in &bad {
        scene.etcd.put(key, value).await;
    }
    scene.put("redis", "redis@1", &a.value()).await;
    scene.serves_redis(&[&a]).await;
    assert_eq!(Connection::dial(scene.port).await.unwrap().1, "a");
    let lines = |log: &str| {
        log.lines()
            .filter(|line| line.contains("quarantined: "))
            .count()
    };
    becomes(PATIENCE, "each is logged once", bad.len(), async || {
        lines(&scene.log())
    })
    .await;
    // Once: not again when everything is read again.
    scene.put("redis", "redis@2", &a.value()).await;
    scene.serves_redis(&[&a, &a]).await;
    assert_eq!(lines(&scene.log()), bad.len());
    let counted = format!(", {} quarantined", bad.len());
    scene
        .systemd
        .status("one that counts them", |status| status.ends_with(&counted))
        .await;
    // Nothing of it has reached the file, or else it would be in there.
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

/// A server's line.
async fn server(name: &str, scene: &AgentScene, backend: &Backend) -> String {
    let at = scene.running().await[&format!("redis/{name}")].replace(' ', ":");
    let host = host();
    assert!(at.ends_with(&format!(":{}", backend.port)), "{at}");
    format!(
        "    server {name} {at} check inter 1s fastinter 500ms downinter 1s rise 3 fall 2 # {host}\n"
    )
}

#[tokio::test]
async fn a_hundred_thousand_keys_push_nobody_out() {
    let (scene, a) = AgentScene::serving(Supervised, &["--hold=0"]).await;
    let reloads = scene.reloads().await;
    let (mut kept, _) = Connection::dial(scene.port).await.unwrap();
    let flood: Vec<_> = (0..100_000)
        .map(|n| (format!("/services/redis/bad {n}"), "{}".to_owned()))
        .collect();
    scene.etcd.put_all(&flood).await;
    scene.put("redis", "redis@2", &a.value()).await;
    scene.serves_redis(&[&a, &a]).await;
    assert!(kept.lives().await);
    assert_eq!(scene.reloads().await, reloads);
    // Counted to the last, told one by one to the 500th.
    scene
        .systemd
        .status("one that counts them", |status| {
            status.ends_with(", 100000 quarantined")
        })
        .await;
    assert_eq!(scene.log().matches("quarantined: ").count(), 500);
}
