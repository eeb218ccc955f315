//! `announce --listen`: metrics, health and readiness, asked for as bytes.

use sidekick_harness::http::{answers, are_described, ask_http, get, open_metrics, promtool_takes};
use sidekick_harness::*;
use std::net::{Ipv4Addr, SocketAddr};

fn somewhere() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()))
}

/// Waits until that sample has that value.
async fn counts(address: SocketAddr, name: &str, value: f64) {
    becomes(PATIENCE, name, Some(value), async || {
        let text = get(address, "/metrics").await?.body;
        open_metrics(&text).get(name).copied()
    })
    .await;
}

#[tokio::test]
async fn what_becomes_of_a_container_can_be_scraped() {
    let address = somewhere();
    let listen = |announce: Announce| {
        let announce = announce.option("--listen", &address.to_string());
        announce.times(3, 2)
    };
    let scene = AnnouncerScene::announced_with(listen).await;
    for (name, value) in [
        ("sidekick_announce_instances_announced", 1.0),
        ("sidekick_announce_instances_withheld{reason=\"down\"}", 0.0),
        ("sidekick_announce_put_duration_seconds_count", 1.0),
        ("sidekick_engine_up", 1.0),
        ("sidekick_etcd_up", 1.0),
        ("sidekick_ready", 1.0),
    ] {
        counts(address, name, value).await;
    }
    let ready = answers(address, "/readyz", 200).await;
    assert!(ready.body.starts_with("announcing redis@1 = "), "{ready:?}");
    answers(address, "/healthz", 200).await;
    assert_eq!(get(address, "/").await.unwrap().status, 404);

    // Another client deletes the key: it heals.
    scene.etcd.delete(KEY).await;
    counts(address, "sidekick_announce_heals_total", 1.0).await;

    scene.redis.kill().await;
    let down = answers(address, "/readyz", 503).await;
    assert!(down.body.contains("has exited with status"), "{down:?}");
    let withheld = "sidekick_announce_instances_withheld{reason=\"down\"}";
    counts(address, withheld, 1.0).await;
    counts(
        address,
        "sidekick_announce_delete_duration_seconds_count",
        1.0,
    )
    .await;
    counts(address, "sidekick_announce_instances_announced", 0.0).await;

    let text = get(address, "/metrics").await.unwrap().body;
    let samples = open_metrics(&text);
    are_described(&samples, include_str!("../../docs/observing.md"));
    let took = |what: &str| samples[&format!("sidekick_announce_{what}_duration_seconds_sum")];
    // Milliseconds, and a loaded machine's bound. The heal was no put after an event.
    assert!(took("put") < 5.0 && took("delete") < 2.0, "{text}");
    let renewed = async || {
        let text = get(address, "/metrics").await?.body;
        let renewals = open_metrics(&text)["sidekick_announce_lease_renewals_total"];
        (renewals >= 1.0).then_some(())
    };
    eventually(PATIENCE, "the lease is renewed", renewed).await;
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    let answered = samples["sidekick_engine_last_answer_timestamp_seconds"];
    assert!((now - 60.0..=now).contains(&answered), "{answered}");
    // No container, no service and no instance is a label.
    assert!(!text.contains("redis"), "{text}");
    let plain = "GET /metrics HTTP/1.0\r\nAccept: text/plain\r\n\r\n";
    promtool_takes(&ask_http(address, plain).await.unwrap().body).await;

    scene.redis.start().await;
    answers(address, "/readyz", 200).await;
    counts(address, "sidekick_announce_put_duration_seconds_count", 2.0).await;
}

#[tokio::test]
async fn standing_by_is_ready_and_an_etcd_that_was_away_for_the_ttl_is_not() {
    let (engine, etcd) = tokio::join!(Engine::shared(), Etcd::start());
    let redis = engine.redis().run().await;
    // A holder that started in 2999 has precedence.
    let holder =
        r#"{"host":"10.0.0.9","port":1,"container":"593ee5d76755","since":"2999-01-01T00:00:00Z"}"#;
    let lease = etcd.put_leased(KEY, holder, secs(60)).await;
    let address = somewhere();
    let announce = redis.announce(&etcd).times(3, 2);
    let _sidekick = announce.option("--listen", &address.to_string()).spawn();
    let ready = answers(address, "/readyz", 200).await;
    assert!(ready.body.starts_with("standing by: "), "{ready:?}");
    counts(address, "sidekick_announce_instances_standing_by", 1.0).await;
    let _ = lease;

    etcd.kill9().await;
    let lost = answers(address, "/readyz", 503).await;
    assert!(lost.body.starts_with("etcd unreachable for "), "{lost:?}");
    counts(address, "sidekick_etcd_up", 0.0).await;
    let failures = "sidekick_announce_etcd_request_failures_total{reason=\"unreachable\"}";
    let text = get(address, "/metrics").await.unwrap().body;
    assert!(open_metrics(&text)[failures] >= 1.0, "{text}");
    etcd.restart().await;
    answers(address, "/readyz", 200).await;
}
