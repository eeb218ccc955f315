//! `sidekick list`.

use sidekick_harness::agent::*;
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
    let mut client = scene.etcd.client().clone();
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
async fn columns_line_up_however_long_the_names_are_and_json_has_these_fields() {
    let scene = Scene::new(Way::Supervised, &[]).await;
    let long = "x".repeat(100);
    scene.put("redis", &long, VALUE).await;
    let name = format!("{}.example.com", "y".repeat(60));
    let web = format!(r#"{{"host":"{name}","port":80,"status":"draining"}}"#);
    scene.put(&long, "w", &web).await;
    let six = r#"{"host":"fd00:1234:5678:9abc:def0:1234:5678:9abc","port":65535}"#;
    scene.put("a", "b", six).await;
    let (out, err, code) = run(&scene, "list", &[]).await;
    assert_eq!((err.as_str(), code), ("", Some(0)));
    let lines: Vec<_> = out.lines().collect();
    let head = [
        "SERVICE",
        "INSTANCE",
        "ADDRESS",
        "CONTAINER",
        "UP SINCE",
        "STATUS",
        "TTL",
    ];
    assert_eq!(lines.len(), 4, "{out}");
    // Where a column begins, a word begins in every line, with a space before it.
    for title in head {
        let column = lines[0].find(title).unwrap();
        for line in &lines {
            let (before, after) = line.split_at(column);
            let ends = before.is_empty() || before.ends_with("  ");
            assert!(ends && !after.starts_with(' '), "{title}: {out}");
        }
    }
    let (out, _, _) = run(&scene, "list", &["-o", "json"]).await;
    let json: Vec<serde_json::Map<_, _>> = serde_json::from_str(&out).unwrap();
    assert_eq!(json.len(), 3);
    let mut fields = [
        "service",
        "instance",
        "host",
        "port",
        "container",
        "since",
        "status",
        "ttl",
        "protocol",
        "haproxy",
    ];
    fields.sort_unstable();
    for row in json {
        let mut names: Vec<_> = row.keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, fields);
    }
    let (out, err, code) = run(&scene, "list", &["nobody", "-o", "json"]).await;
    assert_eq!((out.as_str(), code), ("[]\n", Some(0)));
    assert_eq!(
        err,
        "sidekick: no instance of nobody is registered below /services\n"
    );
}

#[tokio::test]
async fn a_list_of_one_service_says_nothing_of_the_junk_of_others() {
    let scene = Scene::new(Way::Supervised, &[]).await;
    scene.put("redis", "redis@1", VALUE).await;
    scene.put("redis", "bad", "{").await;
    scene.put("web", "bad", "{").await;
    scene.put("redis2", "bad", "{").await;
    let (_, err, code) = run(&scene, "list", &["redis"]).await;
    let said = "sidekick: quarantined: /services/redis/bad: the value is no JSON object\n";
    assert_eq!((err.as_str(), code), (said, Some(0)));
    let (_, err, _) = run(&scene, "list", &[]).await;
    assert_eq!(err.lines().count(), 3, "{err}");
}

#[tokio::test]
async fn without_etcd_it_fails_and_says_why() {
    let scene = Scene::around(Etcd::not_yet().await, Way::Supervised, &[]);
    let (out, err, code) = run(&scene, "list", &[]).await;
    assert_eq!((out.as_str(), code), ("", Some(1)));
    assert!(err.contains("Connection refused"), "{err}");
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

/// Also through an etcd that goes away.
#[tokio::test]
async fn watch_prints_a_table_anew_for_each_change() {
    let scene = Scene::new(Way::Supervised, &[]).await;
    let mut list = scene
        .command("list")
        .args(["redis", "--watch"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(list.stdout.take().unwrap()).lines();
    // An empty table is an empty line, and each ends with one.
    assert_eq!(lines.next_line().await.unwrap().unwrap(), "");
    scene.put("redis", "redis@1", VALUE).await;
    let mut table = Vec::new();
    while let Some(line) = lines.next_line().await.unwrap().filter(|l| !l.is_empty()) {
        table.push(line);
    }
    assert_eq!(table.len(), 2, "{table:?}");
    assert!(table[1].starts_with("redis    redis@1   10.0.0.7:6379"));
    scene.etcd.kill9().await;
    scene.etcd.restart().await;
    scene.delete("redis", "redis@1").await;
    eventually(PATIENCE, "it is seen to be gone", async || {
        lines.next_line().await.unwrap().unwrap().is_empty()
    })
    .await;
}
