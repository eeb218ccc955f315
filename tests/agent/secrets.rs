//! HAProxy is its own process: what the agent knows of etcd is none of its business.

use sidekick_harness::agent::*;
use std::fs::{File, read};

#[tokio::test]
async fn haproxy_is_told_nothing_of_etcds_password() {
    const PASSWORD: &str = "correct:horse";
    let scene = AgentScene::new(Supervised, &["--log-level=trace"]).await;
    let log = scene.dir.path().join("log");
    let mut agent = scene.agent();
    agent
        .env("ETCDCTL_USER", "root")
        .env("ETCDCTL_PASSWORD", PASSWORD)
        .stderr(File::create(log).unwrap());
    let agent = agent.spawn().unwrap();
    eventually(PATIENCE, "HAProxy answers", async || {
        scene.master("show proc").await.contains("worker")
    })
    .await;
    let told = |pid: u32| {
        ["cmdline", "environ"].map(|file| {
            let text = read(format!("/proc/{pid}/{file}")).unwrap();
            String::from_utf8_lossy(&text).contains(PASSWORD)
        })
    };
    let agent = agent.id().unwrap();
    assert_eq!(told(agent), [false, true], "the agent's own, by the test");
    let master = scene.master_pid().await;
    let others = scene.processes().into_iter().filter(|pid| *pid != agent);
    let others: Vec<_> = others.collect();
    assert!(others.contains(&master), "{others:?}");
    for pid in others {
        assert_eq!(told(pid), [false, false], "of {pid}");
    }
    // From HAProxy 3.1 on the master lists a worker that doesn't answer yet.
    let mut environment = String::new();
    eventually(
        PATIENCE,
        "HAProxy's worker tells its environment",
        async || {
            environment = scene.master("@1 show env").await;
            environment.contains("PATH=")
        },
    )
    .await;
    for text in [environment, scene.config(), scene.log()] {
        assert!(!text.contains(PASSWORD), "{text}");
    }
}
