//! An instance that HAProxy's checks have taken out shows in the log, in STATUS and in `sidekick list`.

use serde_json::Value;
use sidekick_harness::agent::*;

async fn listed(scene: &AgentScene, arguments: &[&str]) -> String {
    let (out, err, code) = output_of(scene.command("list").args(arguments)).await;
    assert_eq!((err.as_str(), code), ("", Some(0)));
    out
}

both_ways! { what_haproxys_checks_take_out_is_seen_in_the_log_in_status_and_in_list }

async fn what_haproxys_checks_take_out_is_seen_in_the_log_in_status_and_in_list(mode: HaproxyMode) {
    let (scene, a) = AgentScene::serving(mode, &[]).await;
    let b = Backend::start("b").await;
    scene.put("redis", "redis@2", &b.value()).await;
    scene.serves_redis(&[&a, &b]).await;
    let port = b.port;
    drop(b);
    let down = "HAProxy's health check marked this instance down";
    scene.says(down).await;
    let log = scene.log();
    let line = log.lines().find(|line| line.contains(down)).unwrap();
    let named = line.contains("redis@2") && line.contains(&port.to_string());
    assert!(named, "{line}");
    let counted = |status: &str| status.contains("1 down by HAProxy's checks");
    scene.systemd.status("one instance is down", counted).await;

    let socket = scene.socket();
    let asked = ["--haproxy-master", socket.to_str().unwrap()];
    let table = listed(&scene, &asked).await;
    let lines: Vec<_> = table.lines().collect();
    assert!(lines[0].trim_end().ends_with("HAPROXY"), "{table}");
    assert!(lines[1].contains("  up "), "{table}");
    assert!(lines[2].contains("  down "), "{table}");
    let json = listed(&scene, &[&asked[..], &["-o", "json"]].concat()).await;
    let rows: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(rows[0]["haproxy"]["state"], "up", "{json}");
    assert_eq!(rows[1]["haproxy"]["state"], "down", "{json}");
    assert!(rows[1]["haproxy"]["seconds"].as_u64() < Some(20), "{json}");

    let _b = Backend::at(&format!("0.0.0.0:{port}"), "b").await;
    let up = "HAProxy's health check marked this instance up";
    scene.says(up).await;
    let none = |status: &str| status.starts_with("serving") && !status.contains("down");
    scene.systemd.status("no instance is down", none).await;
    let table = listed(&scene, &asked).await;
    assert!(!table.contains("  down "), "{table}");
}

/// Elsewhere than on the agent's machine, or without the right to ask: a list without that column.
#[tokio::test]
async fn where_haproxy_cannot_be_asked_list_says_nothing_of_it() {
    let scene = AgentScene::new(Supervised, &[]).await;
    scene.put("redis", "redis@1", &elsewhere(6379)).await;
    for socket in ["/nowhere/haproxy-master.sock", "/dev/null"] {
        let table = listed(&scene, &["--haproxy-master", socket]).await;
        assert!(!table.contains("HAPROXY"), "{table}");
        let json = listed(&scene, &["--haproxy-master", socket, "-o", "json"]).await;
        let rows: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(rows[0]["haproxy"], Value::Null);
    }
}
