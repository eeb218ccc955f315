//! A service over UDP: HAProxy can't carry it.

use sidekick_harness::agent::*;

const DNS: &str = r#"{"host":"10.0.0.7","port":53,"protocol":"udp"}"#;

#[tokio::test]
async fn a_udp_service_is_refused_loudly_and_never_becomes_a_tcp_listener() {
    let (scene, a) = AgentScene::serving(Supervised, &[]).await;
    scene.put("dns", "dns@1", DNS).await;
    scene
        .says("quarantined: the instance speaks UDP, which HAProxy in TCP mode can't carry")
        .await;
    let redis = [("redis/redis::1", a.port.to_string())];
    throughout(A_WHILE, "dns is not served", async || {
        !scene.config().contains("dns") && scene.servers().await.len() == redis.len()
    })
    .await;
}

#[tokio::test]
async fn a_udp_service_is_listed_with_its_protocol() {
    let scene = AgentScene::new(Supervised, &[]).await;
    scene.put("dns", "dns@1", DNS).await;
    let mut list = scene.command("list");
    let output = list.output().await.unwrap();
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(table.contains("10.0.0.7:53/udp"), "{table}");
    assert!(output.stderr.is_empty(), "{output:?}");
    let mut list = scene.command("list");
    let output = list.args(["-o", "json"]).output().await.unwrap();
    let rows: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(rows[0]["protocol"], "udp");
}
