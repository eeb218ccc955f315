//! The agent doesn't grow through hundreds of changes, broken connections to etcd, and HAProxies that die
//! and are reloaded. `make soak` does the same for an hour.

use sidekick_harness::agent::*;

/// In each instances come and go, and the connection to etcd breaks.
const ROUNDS: usize = 150;
/// Every so many of them HAProxy is killed, and as often a service comes or goes, which is a reload.
const SELDOM: usize = 6;

#[tokio::test]
async fn the_agent_leaves_nothing_behind_of_what_came_and_went() {
    let arguments = ["--hold=0", "--forget=0s", "--log-level=debug"];
    let mut scene = AgentScene::new(Supervised, &arguments).await;
    let wire = Proxy::before(scene.etcd.url()).await;
    scene.endpoints = wire.url();
    scene.begin().await;
    scene.says("alive tasks=").await;
    let (value, another) = (elsewhere(free_port()), elsewhere(free_port()));
    let mut footprints = Footprints::default();
    let mut expected = Servers::new();
    for round in 0..ROUNDS {
        let keys = (0..10).map(|n| format!("/services/redis/redis@{round}-{n}"));
        let pairs: Vec<_> = keys.map(|key| (key, value.clone())).collect();
        scene.etcd.put_all(&pairs).await;
        match round % SELDOM {
            0 => scene.kill_haproxy().await,
            2 => {
                let port = free_port();
                scene.put("fleeting", "i", &elsewhere(port)).await;
                expected.insert("fleeting/i".to_owned(), port.to_string());
            }
            4 => {
                scene.delete("fleeting", "i").await;
                expected.clear();
            }
            // Each is quarantined and logged.
            5 => scene.put("redis", "bad one", "{}").await,
            _ => {}
        }
        wire.cut().await;
        let there = pairs.len() + expected.len();
        scene.has_servers(PATIENCE, there).await;
        let first = format!("redis@{round}-0");
        scene.put("redis", &first, &another).await;
        scene.etcd.delete_all("/services/redis/").await;
        let servers = async || scene.servers().await;
        becomes(PATIENCE, "the servers", expected.clone(), servers).await;
        footprints.add(Footprint::of(scene.agent_pid(), &scene.log()));
    }
    println!("{footprints}");
    assert_eq!(footprints.growth(), [""; 0]);
    assert_eq!(scene.stop_agent().await, Some(0));
}
