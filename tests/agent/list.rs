//! `sidekick list`.

use crate::harness::*;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader};

const VALUE: &str = r#"{"host":"10.0.0.7","port":6379,"container":"593ee5d76755","since":"2026-11-23T05:06:06.5Z"}"#;

async fn run(scene: &Scene, job: &str, arguments: &[&str]) -> (String, String, Option<i32>) {
    let output = scene.command(job).args(arguments).output().await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        text(output.stdout),
        text(output.stderr),
        output.status.code(),
    )
}

#[tokio::test]
async fn what_is_registered_is_listed() {
    let scene = Scene::new(Way::Supervised, &[]).await;
    let (out, err, code) = run(&scene, "list", &[]).await;
    assert_eq!((out.as_str(), code), ("", Some(0)));
    assert_eq!(err, "sidekick: nothing is registered below /services\n");
    let mut client = scene.etcd.client().await;
    let lease = client.lease_grant(60, None).await.unwrap().id();
    client
        .put(
            "/services/redis/redis@1",
            VALUE,
            Some(etcd_client::PutOptions::new().with_lease(lease)),
        )
        .await
        .unwrap();
    scene
        .put("web", "w", r#"{"host":"web1.example.com","port":80}"#)
        .await;
    scene.put("web", "bad", "{").await;
    let (out, err, code) = run(&scene, "list", &[]).await;
    assert_eq!(code, Some(0));
    assert!(err.contains("quarantined: /services/web/bad"), "{err}");
    let lines: Vec<Vec<_>> = out
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        lines[1][..6],
        [
            "redis",
            "redis@1",
            "10.0.0.7:6379",
            "593ee5d76755",
            "2026-11-23T05:06:06Z",
            "serving"
        ]
    );
    assert!(["60s", "59s", "58s"].contains(&lines[1][6]), "{out}");
    assert_eq!(
        lines[2],
        ["web", "w", "web1.example.com:80", "-", "-", "serving", "-"]
    );
    let columns: Vec<_> = out
        .lines()
        .map(|line| {
            line.find("10.0")
                .or(line.find("ADDRESS"))
                .or(line.find("web1."))
        })
        .collect();
    assert!(columns.iter().all(|c| *c == columns[0]), "{out}");
    let (out, _, _) = run(&scene, "list", &["redis", "-o", "json"]).await;
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json.as_array().unwrap().len(), 1);
    assert_eq!(json[0]["host"], "10.0.0.7");
}

#[tokio::test]
async fn watch_follows() {
    let scene = Scene::new(Way::Supervised, &[]).await;
    let mut list = scene
        .command("list")
        .args(["--watch", "-o", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(list.stdout.take().unwrap()).lines();
    assert_eq!(lines.next_line().await.unwrap().unwrap(), "[]");
    scene.put("redis", "redis@1", VALUE).await;
    assert!(
        lines
            .next_line()
            .await
            .unwrap()
            .unwrap()
            .contains("redis@1")
    );
    scene.delete("redis", "redis@1").await;
    assert_eq!(lines.next_line().await.unwrap().unwrap(), "[]");
}
