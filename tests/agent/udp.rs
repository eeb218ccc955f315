//! A service over UDP: HAProxy can't carry it.

use sidekick_harness::agent::*;

const DNS: &str = r#"{"host":"10.0.0.7","port":53,"protocol":"udp"}"#;

#[tokio::test]
async fn a_udp_service_is_refused_loudly_and_never_becomes_a_tcp_listener() {
    let (scene, _a) = AgentScene::serving(Supervised, &[]).await;
    scene.put("dns", "dns@1", DNS).await;
    let refused = "quarantined: the instance speaks UDP, which HAProxy in TCP mode can't carry";
    scene.says(refused).await;
    never_for(A_WHILE, "dns is served", async || {
        scene.config().contains("dns") || scene.servers().await.len() > 1
    })
    .await;
}

#[tokio::test]
async fn a_udp_service_is_listed_with_its_protocol() {
    let scene = AgentScene::new(Supervised, &[]).await;
    scene.put("dns", "dns@1", DNS).await;
    let (table, err, _) = output_of(&mut scene.command("list")).await;
    assert!(table.contains("10.0.0.7:53/udp"), "{table}");
    assert_eq!(err, "");
    let (json, ..) = output_of(scene.command("list").args(["-o", "json"])).await;
    let rows: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(rows[0]["protocol"], "udp");
}
