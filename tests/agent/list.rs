//! `sidekick list`.

use sidekick_harness::agent::*;
use std::collections::BTreeSet;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout};

const VALUE: &str = r#"{"host":"10.0.0.7","port":6379,"container":"593ee5d76755","since":"2026-11-23T05:06:06.5Z"}"#;

/// `sidekick list` with these arguments: its stdout, its stderr and its exit status.
async fn list(scene: &AgentScene, arguments: &[&str]) -> (String, String, Option<i32>) {
    output_of(scene.command("list").args(arguments)).await
}

/// The lines that `sidekick list --watch` prints; it ends with the child.
fn watch(scene: &AgentScene, arguments: &[&str]) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut list = scene.command("list");
    list.arg("--watch").args(arguments);
    let mut list = list
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(list.stdout.take().unwrap()).lines();
    (list, lines)
}

#[tokio::test]
async fn what_is_registered_is_listed() {
    let scene = AgentScene::new(Supervised, &[]).await;
    let (out, err, code) = list(&scene, &[]).await;
    assert_eq!((out.as_str(), code), ("", Some(0)));
    assert_eq!(err, "sidekick: nothing is registered below /services\n");
    let redis = "/services/redis/redis@1";
    scene.etcd.put_leased(redis, VALUE, secs(60)).await;
    scene
        .put("web", "w", &value_of("web1.example.com", 80))
        .await;
    scene.put("web", "bad", "{").await;
    let (out, err, code) = list(&scene, &[]).await;
    assert_eq!(code, Some(0));
    assert!(err.contains("quarantined: /services/web/bad"), "{err}");
    let rows: Vec<String> = out
        .lines()
        .map(|l| l.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    let redis = "redis redis@1 10.0.0.7:6379 593ee5d76755 2026-11-23T05:06:06Z serving ";
    let ttl = rows[1].strip_prefix(redis).expect(&out);
    assert!(["60s", "59s", "58s"].contains(&ttl), "{out}");
    assert_eq!(rows[2], "web w web1.example.com:80 - - serving -");
    let (out, _, _) = list(&scene, &["redis", "-o", "json"]).await;
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json.as_array().unwrap().len(), 1);
    assert_eq!(json[0]["host"], "10.0.0.7");
}

#[tokio::test]
async fn columns_line_up_however_long_the_names_are_and_json_has_these_fields() {
    let scene = AgentScene::new(Supervised, &[]).await;
    let long = "x".repeat(100);
    scene.put("redis", &long, VALUE).await;
    let name = format!("{}.example.com", "y".repeat(60));
    let web = format!(r#"{{"host":"{name}","port":80,"status":"draining"}}"#);
    scene.put(&long, "w", &web).await;
    let six = r#"{"host":"fd00:1234:5678:9abc:def0:1234:5678:9abc","port":65535}"#;
    scene.put("a", "b", six).await;
    let (out, err, code) = list(&scene, &[]).await;
    assert_eq!((err.as_str(), code), ("", Some(0)));
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(lines.len(), 4, "{out}");
    // Where a column begins, a word begins in every line, with a space before it.
    for title in "SERVICE,INSTANCE,ADDRESS,CONTAINER,UP SINCE,STATUS,TTL".split(',') {
        let column = lines[0].find(title).unwrap();
        for line in &lines {
            let (before, after) = line.split_at(column);
            let ends = before.is_empty() || before.ends_with("  ");
            assert!(ends && !after.starts_with(' '), "{title}: {out}");
        }
    }
    let (out, _, _) = list(&scene, &["-o", "json"]).await;
    let json: Vec<serde_json::Map<_, _>> = serde_json::from_str(&out).unwrap();
    assert_eq!(json.len(), 3);
    let fields = "service instance host port container since status ttl wish protocol haproxy";
    let fields: BTreeSet<_> = fields.split(' ').map(str::to_owned).collect();
    for row in json {
        assert_eq!(row.keys().cloned().collect::<BTreeSet<_>>(), fields);
    }
    let (out, err, code) = list(&scene, &["absent", "-o", "json"]).await;
    assert_eq!((out.as_str(), code), ("[]\n", Some(0)));
    let said = "sidekick: no instance of absent is registered below /services\n";
    assert_eq!(err, said);
}

#[tokio::test]
async fn a_list_of_one_service_says_nothing_of_the_junk_of_others() {
    let scene = AgentScene::new(Supervised, &[]).await;
    scene.put("redis", "redis@1", VALUE).await;
    scene.put("redis", "bad", "{").await;
    scene.put("web", "bad", "{").await;
    scene.put("redis2", "bad", "{").await;
    let (_, err, code) = list(&scene, &["redis"]).await;
    let said = "sidekick: quarantined: /services/redis/bad: the value is no JSON object\n";
    assert_eq!((err.as_str(), code), (said, Some(0)));
    let (_, err, _) = list(&scene, &[]).await;
    assert_eq!(err.lines().count(), 3, "{err}");
}

#[tokio::test]
async fn without_etcd_it_fails_and_says_why() {
    let scene = AgentScene::around(Etcd::not_yet().await, Supervised, &[]);
    let (out, err, code) = list(&scene, &[]).await;
    assert_eq!((out.as_str(), code), ("", Some(1)));
    assert!(err.contains("Connection refused"), "{err}");
}

#[tokio::test]
async fn watch_follows() {
    let scene = AgentScene::new(Supervised, &[]).await;
    let (_list, mut lines) = watch(&scene, &["-o", "json"]);
    let mut next = async || lines.next_line().await.unwrap().unwrap();
    assert_eq!(next().await, "[]");
    scene.put("redis", "redis@1", VALUE).await;
    assert!(next().await.contains("redis@1"));
    scene.delete("redis", "redis@1").await;
    assert_eq!(next().await, "[]");
}

/// The changes while etcd was away are printed too.
#[tokio::test]
async fn watch_prints_a_table_for_each_change() {
    let scene = AgentScene::new(Supervised, &[]).await;
    let (_list, mut lines) = watch(&scene, &["redis"]);
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
