//! An instance that HAProxy's checks have taken out shows in the log, in STATUS and in `sidekick list`.

use serde_json::Value;
use sidekick_harness::agent::*;

/// A server of the harness's own that can go away and come back at the same port.
async fn restarted(port: u16, name: &'static str) -> Backend {
    Backend::at(&format!("0.0.0.0:{port}"), name).await
}

async fn listed(scene: &AgentScene, arguments: &[&str]) -> String {
    let mut list = scene.command("list");
    let output = list.args(arguments).output().await.unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!((stderr.as_ref(), output.status.code()), ("", Some(0)));
    String::from_utf8(output.stdout).unwrap()
}

both_ways! { what_haproxys_checks_take_out_is_seen_in_the_log_in_status_and_in_list }

async fn what_haproxys_checks_take_out_is_seen_in_the_log_in_status_and_in_list(mode: HaproxyMode) {
    let scene = AgentScene::start(mode, &[]).await;
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    scene.put("redis", "redis@1", &a.value()).await;
    scene.put("redis", "redis@2", &b.value()).await;
    let both = [
        ("redis/redis::1", a.port.to_string()),
        ("redis/redis::2", b.port.to_string()),
    ];
    scene.serves(&both).await;
    let port = b.port;
    drop(b);
    let down = "HAProxy's health check marked this instance down";
    scene.says(down).await;
    let log = scene.log();
    let line = log.lines().find(|line| line.contains(down)).unwrap();
    assert!(
        line.contains("redis@2") && line.contains(&port.to_string()),
        "{line}"
    );
    let status = scene.systemd.status("one instance is down", |status| {
        status.contains("1 down by HAProxy's checks")
    });
    status.await;

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

    let _b = restarted(port, "b").await;
    scene
        .says("HAProxy's health check marked this instance up")
        .await;
    let status = scene.systemd.status("no instance is down", |status| {
        status.starts_with("serving") && !status.contains("down")
    });
    status.await;
    let table = listed(&scene, &asked).await;
    assert!(!table.contains("  down "), "{table}");
}

/// Elsewhere than on the agent's machine, or without the right to ask: a list without that column.
#[tokio::test]
async fn where_haproxy_cannot_be_asked_list_says_nothing_of_it() {
    let scene = AgentScene::new(Supervised, &[]).await;
    scene
        .put("redis", "redis@1", r#"{"host":"10.0.0.7","port":6379}"#)
        .await;
    for socket in ["/nowhere/haproxy-master.sock", "/dev/null"] {
        let table = listed(&scene, &["--haproxy-master", socket]).await;
        assert!(!table.contains("HAPROXY"), "{table}");
        let json = listed(&scene, &["--haproxy-master", socket, "-o", "json"]).await;
        let rows: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(rows[0]["haproxy"], Value::Null);
    }
}
