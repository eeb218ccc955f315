//! That the agent doesn't grow: hundreds of changes, of connections to etcd that break, of HAProxies
//! that die and are reloaded. The same for an hour is `make soak`.

use sidekick_harness::agent::*;

/// In each instances come and go, and the connection to etcd breaks.
const ROUNDS: usize = 150;
/// Every so many of them HAProxy is killed, and as often a service comes or goes, which is a reload.
const SELDOM: usize = 6;

#[tokio::test]
async fn the_agent_leaves_nothing_behind_of_what_came_and_went() {
    let arguments = ["--hold=0", "--forget=0s", "--log-level=debug"];
    let mut scene = Scene::new(Way::Supervised, &arguments).await;
    let wire = Proxy::before(scene.etcd.url()).await;
    scene.endpoints = wire.url();
    scene.begin().await;
    scene.says("alive tasks=").await;
    let (value, another) = (at(free_port()), at(free_port()));
    let mut footprints = Footprints::default();
    let mut expected = Servers::new();
    for round in 0..ROUNDS {
        let instances = (0..10).map(|n| format!("redis@{round}-{n}"));
        let keys: Vec<_> = instances
            .map(|it| format!("/services/redis/{it}"))
            .collect();
        let pairs: Vec<_> = keys
            .iter()
            .map(|key| (key.clone(), value.clone()))
            .collect();
        scene.etcd.put_all(&pairs).await;
        match round % SELDOM {
            0 => scene.kill_haproxy().await,
            2 => {
                let port = free_port();
                scene.put("fleeting", "i", &at(port)).await;
                expected.insert("fleeting/i".to_owned(), port.to_string());
            }
            4 => {
                scene.delete("fleeting", "i").await;
                expected.clear();
            }
            // Each is put into quarantine, and told.
            5 => scene.put("redis", "bad one", "{}").await,
            _ => {}
        }
        wire.cut().await;
        let there = keys.len() + expected.len();
        becomes(PATIENCE, "the servers' number", there, async || {
            scene.servers().await.len()
        })
        .await;
        scene
            .put("redis", &format!("redis@{round}-0"), &another)
            .await;
        scene.etcd.delete_all("/services/redis/").await;
        becomes(PATIENCE, "the servers", expected.clone(), async || {
            scene.servers().await
        })
        .await;
        footprints.add(Footprint::of(scene.agent_pid(), &scene.log()));
    }
    println!("{footprints}");
    assert_eq!(footprints.growth(), [""; 0]);
    assert_eq!(scene.stop_agent().await, Some(0));
}

/// Nobody is there.
fn at(port: u16) -> String {
    format!(r#"{{"host":"10.255.255.1","port":{port}}}"#)
}
