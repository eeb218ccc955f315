//! What the agent listens on, and whom it refuses to dial: tests on a machine with addresses of its own
//! (see [`apart`]: 10.5.0.7, 10.5.0.8 and fd00:5::7).

use rustix::process::{Resource, Rlimit, setrlimit};
use sidekick_harness::agent::*;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// Drops every packet to that address and port, or lets them pass again.
fn silences(ip: &str, port: u16, silent: bool) {
    let what = if silent { "--insert" } else { "--delete" };
    let port = port.to_string();
    let status = std::process::Command::new("iptables")
        .args([what, "OUTPUT", "--destination", ip, "--protocol", "tcp"])
        .args(["--dport", &port, "--jump", "DROP"])
        .status();
    assert!(
        status.expect("iptables can be run").success(),
        "no rule for {ip}"
    );
}

fn at(host: &str, port: u16) -> String {
    format!(r#"{{"host":"{host}","port":{port}}}"#)
}

/// Redis on the agent's own machine died, HAProxy took its port, and Redis couldn't start again.
#[test]
fn the_port_of_an_instance_on_this_machine_is_never_bound_unasked() {
    let test = "listeners::the_port_of_an_instance_on_this_machine_is_never_bound_unasked";
    apart(test, async {
        let port = free_port();
        let scene = AgentScene::start(Supervised, &[&format!("--bind=asked=:{port}")]).await;
        let a = Backend::at("10.5.0.7:0", "a").await;
        let b = Backend::at("10.5.0.7:0", "b").await;
        // One service has an instance elsewhere too, the other was told where to listen.
        scene.put("cache", "here", &at("10.5.0.7", a.port)).await;
        scene
            .put("cache", "there", &at("10.255.255.1", a.port))
            .await;
        scene.put("asked", "here", &at("10.5.0.7", b.port)).await;
        scene.serves(&[("asked/here", b.port)]).await;
        scene
            .says(&format!(
                ":{} is the port of an instance on this machine",
                a.port
            ))
            .await;
        let its_port = a.port;
        drop(a);
        scene.delete("cache", "here").await;
        throughout(
            Duration::from_secs(3),
            "HAProxy leaves the port alone",
            async || !listens("127.0.0.1", its_port).await && !listens("10.5.0.7", its_port).await,
        )
        .await;
        let _again = Backend::at(&format!("10.5.0.7:{its_port}"), "a").await;
        assert_eq!(Connection::dial(port).await.unwrap().1, "b");
    });
}

/// One connection took all of HAProxy: it dialled itself until no file was left.
#[test]
fn an_instance_that_is_one_of_the_agents_own_listeners_is_refused() {
    let test = "listeners::an_instance_that_is_one_of_the_agents_own_listeners_is_refused";
    apart(test, async {
        let own = free_port();
        let scene = AgentScene::start(Supervised, &[]).await;
        let a = Backend::at("10.5.0.7:0", "a").await;
        scene.put("redis", "good", &at("10.5.0.7", a.port)).await;
        scene.put("own", "far", &at("10.255.255.1", own)).await;
        let good = [
            ("own/far", own.to_string()),
            ("redis/good", a.port.to_string()),
        ];
        scene.serves(&good).await;
        scene
            .put("redis", "loop", &at("10.5.0.8", scene.port))
            .await;
        scene
            .put("redis", "loop6", &at("fd00:5::7", scene.port))
            .await;
        scene.put("redis", "other", &at("10.5.0.7", own)).await;
        for name in ["loop", "loop6", "other"] {
            let key = format!("/services/redis/{name}");
            eventually(PATIENCE, "each is told of", async || {
                let log = scene.log();
                let mut lines = log.lines();
                lines.any(|line| line.contains(&key) && line.contains("listener of this agent"))
            })
            .await;
        }
        scene.serves(&good).await;
        assert_eq!(Connection::dial(scene.port).await.unwrap().1, "a");
        // The listener that was there first stays.
        assert!(listens("10.5.0.7", own).await);
    });
}

/// One service's clients took all connections that HAProxy can have.
#[test]
fn one_service_cannot_take_all_of_haproxys_connections() {
    let test = "listeners::one_service_cannot_take_all_of_haproxys_connections";
    apart(test, async {
        let limit = Rlimit {
            current: Some(600),
            maximum: Some(600),
        };
        setrlimit(Resource::Nofile, limit).unwrap();
        let other = free_port();
        let scene = AgentScene::start(Supervised, &[&format!("--bind=other=:{other}")]).await;
        let (a, b) = (
            Backend::at("10.5.0.7:0", "a").await,
            Backend::at("10.5.0.7:0", "b").await,
        );
        scene.put("redis", "a", &at("10.5.0.7", a.port)).await;
        scene.put("other", "b", &at("10.5.0.7", b.port)).await;
        let served = [
            ("other/b", b.port.to_string()),
            ("redis/a", a.port.to_string()),
        ];
        scene.serves(&served).await;
        let mut greedy = Vec::new();
        for _ in 0..290 {
            greedy.push(TcpStream::connect(("127.0.0.1", scene.port)).await.unwrap());
        }
        eventually(PATIENCE, "as many as there may be are served", async || {
            scene.sessions().await["redis/a"] >= 100
        })
        .await;
        Connection::only_to(other, "b").await;
    });
}

/// The metadata service, this machine's loopback and names that lead there were in a tenant's reach.
#[test]
fn loopback_and_link_local_are_refused_through_names_too() {
    let test = "listeners::loopback_and_link_local_are_refused_through_names_too";
    apart(test, async {
        let mut hosts = std::fs::read_to_string("/etc/hosts").unwrap();
        hosts +=
            "127.0.0.1 evil.test\n169.254.169.254 meta.test\nfe80::1 ll.test\n10.5.0.8 good.test\n";
        hosts += &format!("127.0.1.1 {}\n", host());
        std::fs::write("/etc/hosts", hosts).unwrap();
        let scene = AgentScene::start(Supervised, &[]).await;
        let a = Backend::start("a").await;
        for (name, host) in [
            ("evil", "evil.test"),
            ("meta", "meta.test"),
            ("ll", "ll.test"),
            ("literal", "169.254.169.254"),
            ("good", "good.test"),
            // Debian's /etc/hosts has 127.0.1.1 for it: meant is the machine, not its loopback.
            ("own", &host()),
        ] {
            scene.put("redis", name, &at(host, a.port)).await;
        }
        let served = [
            ("redis/good", a.port.to_string()),
            ("redis/own", a.port.to_string()),
        ];
        scene.serves(&served).await;
        assert_eq!(
            scene.running().await["redis/own"],
            format!("10.5.0.7 {}", a.port)
        );
        scene.says("/services/redis/literal").await;
        for name in ["evil.test", "meta.test", "ll.test"] {
            scene.says(name).await;
        }
        scene.serves(&served).await;
    });
}

#[test]
fn with_allow_only_those_networks_are_served() {
    let test = "listeners::with_allow_only_those_networks_are_served";
    apart(test, async {
        let mut hosts = std::fs::read_to_string("/etc/hosts").unwrap();
        hosts += "10.5.0.8 inside.test\n10.5.0.7 outside.test\n";
        std::fs::write("/etc/hosts", hosts).unwrap();
        let allow = ["--allow=10.5.0.8/32", "--allow=fd00:5::/64"];
        let scene = AgentScene::start(Supervised, &allow).await;
        let a = Backend::start("a").await;
        for (name, host) in [
            ("v4", "10.5.0.8"),
            ("v6", "fd00:5::7"),
            ("name", "inside.test"),
            ("other", "10.5.0.7"),
            ("othername", "outside.test"),
        ] {
            scene.put("redis", name, &at(host, a.port)).await;
        }
        let served = ["redis/name", "redis/v4", "redis/v6"].map(|name| (name, a.port.to_string()));
        scene.serves(&served).await;
        eventually(PATIENCE, "it is said why", async || {
            let log = scene.log();
            let mut lines = log.lines();
            lines.any(|l| l.contains("/services/redis/other") && l.contains("--allow"))
        })
        .await;
        scene.serves(&served).await;
    });
}

/// It took 6.2 to 7.7 s, and the documentation said 4.
#[test]
fn a_host_that_falls_silent_is_out_within_four_seconds() {
    let test = "listeners::a_host_that_falls_silent_is_out_within_four_seconds";
    apart(test, async {
        let mut scene = AgentScene::start(Supervised, &[]).await;
        let (a, b) = (
            Backend::at("10.5.0.7:0", "a").await,
            Backend::at("10.5.0.8:0", "b").await,
        );
        scene.put("redis", "a", &at("10.5.0.7", a.port)).await;
        scene.put("redis", "b", &at("10.5.0.8", b.port)).await;
        let served = [
            ("redis/a", a.port.to_string()),
            ("redis/b", b.port.to_string()),
        ];
        scene.serves(&served).await;
        // Right after a check, which is the worst moment: the next one is far. At last one of the file's.
        for round in 0..4 {
            eventually(PATIENCE, "HAProxy's check says that it is up", async || {
                scene.stat("redis", "b", "status").await == "UP"
            })
            .await;
            if round == 3 {
                scene.kill_haproxy().await;
                eventually(PATIENCE, "HAProxy is there again", async || {
                    scene.stat("redis", "b", "check_status").await == "L4OK"
                })
                .await;
            }
            silences("10.5.0.8", b.port, true);
            let since = Instant::now();
            let limit = Duration::from_secs(4);
            becomes(
                limit,
                "what HAProxy's check says of the silent host",
                "DOWN".to_owned(),
                async || scene.stat("redis", "b", "status").await,
            )
            .await;
            measured::took(
                7,
                "a host falls silent → HAProxy's check has it down",
                since.elapsed(),
                limit,
            );
            // Nobody but the other is asked now.
            Connection::only_to(scene.port, "a").await;
            silences("10.5.0.8", b.port, false);
        }
    });
}
