//! Under a constant load no client notices the changes to other instances and services.

use sidekick_harness::agent::*;

both_ways! {
    two_hundred_instance_changes_cut_no_connection_fail_nothing_and_reload_nothing
    services_come_and_go_at_one_reload_each_and_cut_no_connection
}

const STEADY: [&str; 2] = ["steady-1", "steady-2"];
const FLEETING: [&str; 10] = ["f0", "f1", "f2", "f3", "f4", "f5", "f6", "f7", "f8", "f9"];

/// `redis` with two instances that stay, and clients.
async fn begin(mode: HaproxyMode, arguments: &[&str]) -> (AgentScene, [Backend; 2], Load) {
    let scene = AgentScene::start(mode, arguments).await;
    let [one, two] = STEADY.map(Backend::start);
    let steady = [one.await, two.await];
    for (name, backend) in STEADY.iter().zip(&steady) {
        scene.put("redis", name, &backend.value()).await;
    }
    let expected = STEADY.iter().zip(&steady);
    let expected = expected.map(|(name, b)| (format!("redis/{name}"), b.port.to_string()));
    scene.serves_all(&expected.collect()).await;
    let mut load = Load::on(scene.port, 3);
    load.hold(&STEADY).await;
    load.hold(&STEADY).await;
    (scene, steady, load)
}

/// Added, moved, drained, removed: five times ten instances of the very service that is under load.
async fn two_hundred_instance_changes_cut_no_connection_fail_nothing_and_reload_nothing(
    mode: HaproxyMode,
) {
    let (scene, steady, load) = begin(mode, &["--hold=0"]).await;
    let (mut here, mut there) = (Vec::new(), Vec::new());
    for name in FLEETING {
        here.push(Backend::start(name).await);
        there.push(Backend::start(name).await);
    }
    let reloads = scene.reloads().await;
    let servers = |state: &dyn Fn(usize) -> Option<String>| {
        let fleeting = FLEETING.iter().enumerate();
        let fleeting = fleeting.filter_map(|(n, name)| Some((format!("redis/{name}"), state(n)?)));
        let steady = STEADY.iter().zip(&steady);
        let steady = steady.map(|(name, b)| (format!("redis/{name}"), b.port.to_string()));
        fleeting.chain(steady).collect::<Servers>()
    };
    for _ in 0..5 {
        for (name, backend) in FLEETING.iter().zip(&here) {
            scene.put("redis", name, &backend.value()).await;
        }
        let added = servers(&|n| Some(here[n].port.to_string()));
        scene.serves_all(&added).await;
        for (name, backend) in FLEETING.iter().zip(&there) {
            scene.put("redis", name, &backend.value()).await;
        }
        let moved = servers(&|n| Some(there[n].port.to_string()));
        scene.serves_all(&moved).await;
        for (name, backend) in FLEETING.iter().zip(&there) {
            scene.put("redis", name, &backend.draining()).await;
        }
        let drained = servers(&|n| Some(format!("{} drain", there[n].port)));
        scene.serves_all(&drained).await;
        // Each request that began before the drain is answered before its instance is deleted.
        eventually(PATIENCE, "the last requests are over", async || {
            let sessions = scene.sessions().await;
            let fleeting = FLEETING.map(|name| sessions.get(&format!("redis/{name}")).copied());
            fleeting.iter().all(|sessions| *sessions == Some(0))
        })
        .await;
        for name in FLEETING {
            scene.delete("redis", name).await;
        }
        scene.serves_all(&servers(&|_| None)).await;
    }
    assert_eq!(scene.reloads().await, reloads);
    load.was_carried(200).await;
}

async fn services_come_and_go_at_one_reload_each_and_cut_no_connection(mode: HaproxyMode) {
    let (scene, _steady, load) = begin(mode, &["--hold=0", "--forget=1s"]).await;
    let reloads = scene.reloads().await;
    for n in 1..4 {
        let (port, service) = (free_port(), format!("new{n}"));
        scene.put(&service, "i", &elsewhere(port)).await;
        let its = format!("{service}/i");
        let at = format!("10.255.255.1 {port}");
        scene.leads(PATIENCE, &its, &at).await;
        assert_eq!(scene.reloads().await, reloads + 2 * n - 1);
        scene.delete(&service, "i").await;
        let now = async || scene.reloads().await;
        becomes(PATIENCE, "reloads", reloads + 2 * n, now).await;
        assert!(!scene.config().contains(&service));
    }
    load.was_carried(200).await;
}
