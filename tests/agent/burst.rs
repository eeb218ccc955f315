//! A thousand new services at the same moment.

use sidekick_harness::agent::*;
use std::time::{Duration, Instant};

/// Each is a listener, and listeners cost reloads.
#[test]
fn a_thousand_new_services_at_once_are_all_there_at_one_reload_a_second_at_most() {
    let test =
        "burst::a_thousand_new_services_at_once_are_all_there_at_one_reload_a_second_at_most";
    apart(test, async {
        let (scene, a) = AgentScene::serving(Supervised, &[]).await;
        let mut expected = Servers::from([("redis/redis::1".to_owned(), a.port.to_string())]);
        let (mut kept, _) = Connection::dial(scene.port).await.unwrap();
        let (reloads, begun) = (scene.reloads().await, Instant::now());
        let mut thousand = Vec::new();
        for n in 0..1000 {
            // All ports are free, but for the few that were just given away.
            let port = free_port();
            thousand.push((format!("/services/s{n}/i"), value_of("10.5.0.9", port)));
            expected.insert(format!("s{n}/i"), port.to_string());
        }
        scene.etcd.put_all(&thousand).await;
        scene.has_servers(Duration::from_secs(60), 1001).await;
        scene.serves_all(&expected).await;
        let (reloads, seconds) = (scene.reloads().await - reloads, begun.elapsed().as_secs());
        assert!(
            u64::from(reloads) <= seconds + 1,
            "{reloads} in {seconds} s"
        );
        assert!(kept.lives().await);
        scene.file_boots().await;
    });
}
