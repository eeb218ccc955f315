//! The agent gives HAProxy, a process of its own, nothing that it knows of etcd.

use sidekick_harness::agent::*;
use std::fs::{File, read};

#[tokio::test]
async fn haproxy_is_told_nothing_of_etcds_password() {
    const PASSWORD: &str = "correct:horse";
    let scene = AgentScene::new(Supervised, &["--log-level=trace"]).await;
    let log = scene.dir.path().join("log");
    let mut agent = scene.agent();
    agent.envs([("ETCDCTL_USER", "root"), ("ETCDCTL_PASSWORD", PASSWORD)]);
    let agent = agent.stderr(File::create(log).unwrap()).spawn().unwrap();
    let answers = async || scene.master("show proc").await.contains("worker");
    eventually(PATIENCE, "HAProxy answers", answers).await;
    let told = |pid: u32| {
        ["cmdline", "environ"].map(|file| {
            let text = read(format!("/proc/{pid}/{file}")).unwrap();
            String::from_utf8_lossy(&text).contains(PASSWORD)
        })
    };
    let agent = agent.id().unwrap();
    assert_eq!(told(agent), [false, true], "the agent's own, by the test");
    let master = scene.master_pid().await;
    let mut others = scene.processes();
    others.retain(|pid| *pid != agent);
    assert!(others.contains(&master), "{others:?}");
    for pid in others {
        assert_eq!(told(pid), [false, false], "of {pid}");
    }
    // From HAProxy 3.1 on the master lists a worker that doesn't answer yet.
    let what = "HAProxy's worker tells its environment";
    let environment = eventually(PATIENCE, what, async || {
        Some(scene.master("@1 show env").await).filter(|text| text.contains("PATH="))
    })
    .await;
    for text in [environment, scene.config(), scene.log()] {
        assert!(!text.contains(PASSWORD), "{text}");
    }
}
