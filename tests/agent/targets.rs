//! `/sd` under `--listen`: Prometheus' list of targets.

use crate::listen::{listening, started};
use sidekick_harness::Prometheus;
use sidekick_harness::agent::*;
use sidekick_harness::http::{answers, get};
use std::net::SocketAddr;

/// What Prometheus takes to find or lose a target: it asks each second here, and hands changes on at its own pace of 5 s, twice.
const PROMETHEUS: std::time::Duration = secs(20);

/// The names of the instances that `/sd` lists; `None` where it doesn't answer 200.
async fn names(address: SocketAddr) -> Option<Vec<String>> {
    let answer = get(address, "/sd").await.filter(|it| it.status == 200)?;
    let groups: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    let groups = groups.as_array().unwrap().iter();
    let name = |group: &serde_json::Value| {
        let name = group["labels"]["__meta_sidekick_instance"].as_str();
        name.unwrap().to_owned()
    };
    Some(groups.map(name).collect())
}

async fn lists(address: SocketAddr, expected: &[&str]) {
    let expected: Vec<_> = expected.iter().map(|&it| it.to_owned()).collect();
    becomes(PATIENCE, "/sd", Some(expected), async || {
        names(address).await
    })
    .await;
}

#[tokio::test]
async fn it_lists_what_export_prints() {
    let (scene, address) = started(Supervised).await;
    assert_eq!(names(address).await, Some(Vec::new()));
    let a = Backend::start("a").await;
    scene.put("redis", "redis@1", &a.value()).await;
    scene.put("redis", "redis@2", &a.draining()).await;
    scene.put("six", "it", &value_of("fd00::7", 80)).await;
    // HAProxy doesn't get it, and a Prometheus may well know that name.
    let unknown = value_of("nowhere.invalid", 80);
    scene.put("named", "it", &unknown).await;
    let udp = value_of("10.0.0.7", 53).replace('}', r#","protocol":"udp"}"#);
    scene.put("dns", "it", &udp).await;
    scene.put("redis", "bad", "{").await;
    lists(address, &["it", "redis@1", "redis@2", "it"]).await;
    let answer = get(address, "/sd").await.unwrap();
    let json = "content-type: application/json\r\n";
    assert!(answer.head.contains(json), "{}", answer.head);
    let mut export = scene.command("export");
    let (printed, _, code) = output_of(export.arg("--format=prometheus")).await;
    assert_eq!((answer.body, Some(0)), (printed, code));
}

#[tokio::test]
async fn before_etcd_has_told_there_is_no_list_and_then_a_whole_one() {
    let (mut scene, address) =
        listening(AgentScene::around(Etcd::not_yet().await, Supervised, &[]));
    scene.begin().await;
    let answer = answers(address, "/sd", 503).await;
    assert!(
        answer.body.starts_with("etcd has not told yet"),
        "{answer:?}"
    );
    answers(address, "/healthz", 200).await;
    assert_eq!(names(address).await, None);
    scene.etcd.launch();
    scene.etcd.until_it_answers().await;
    lists(address, &[]).await;
    let a = Backend::start("a").await;
    scene.put("redis", "redis@1", &a.value()).await;
    scene.serves_redis(&[&a]).await;
    lists(address, &["redis@1"]).await;

    // A new agent knows from its file what was served, and not whether that is all.
    scene.stop_agent().await;
    scene.etcd.kill9().await;
    scene.start_agent();
    answers(address, "/healthz", 200).await;
    scene.serves_redis(&[&a]).await;
    assert_eq!(names(address).await, None);
    scene.etcd.launch();
    // Its first list is whole.
    let first = eventually(PATIENCE, "a list", async || names(address).await).await;
    assert_eq!(first, ["redis@1"]);
    // And stays while etcd is away.
    scene.etcd.kill9().await;
    scene.says("etcd").await;
    assert_eq!(names(address).await, Some(first));
}

#[tokio::test]
async fn an_emptied_etcd_empties_no_list_before_the_hold_is_over() {
    let (mut scene, address) = listening(AgentScene::new(Supervised, &["--hold=3s"]).await);
    scene.begin().await;
    let a = Backend::start("a").await;
    scene.put("redis", "redis@1", &a.value()).await;
    scene.put("other", "it", &elsewhere(80)).await;
    lists(address, &["it", "redis@1"]).await;
    scene.etcd.delete_all("/services/").await;
    scene.says("disappeared from etcd at once").await;
    never_for(secs(2), "the list is emptied", async || {
        names(address).await.is_none_or(|names| names.len() != 2)
    })
    .await;
    lists(address, &[]).await;
}

#[tokio::test]
async fn a_real_prometheus_finds_and_loses_a_target_and_keeps_it_while_no_agent_answers() {
    let (mut scene, address) = started(Supervised).await;
    let prometheus = Prometheus::that_asks(&format!("http://{address}/sd")).await;
    let targets = async |expected: &[&str]| {
        let expected: Vec<_> = expected.iter().map(|&it| it.to_owned()).collect();
        becomes(PROMETHEUS, "the targets", Some(expected), async || {
            prometheus.targets().await
        })
        .await;
    };
    targets(&[]).await;
    scene.put("redis", "redis@1", &elsewhere(6379)).await;
    scene.put("web", "web@1", &elsewhere(80)).await;
    let (redis, web) = (
        "redis redis@1 http://10.255.255.1:6379/metrics",
        "web web@1 http://10.255.255.1:80/metrics",
    );
    targets(&[redis, web]).await;
    scene.delete("redis", "redis@1").await;
    targets(&[web]).await;
    scene.stop_agent().await;
    never_for(secs(7), "Prometheus has lost the target", async || {
        prometheus.targets().await != Some(vec![web.to_owned()])
    })
    .await;
}
