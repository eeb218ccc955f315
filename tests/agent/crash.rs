//! SIGKILL at any moment, while etcd changes all the time.

use sidekick_harness::agent::*;

both_ways! {
    after_every_change_file_and_running_state_agree
    killed_at_any_moment_it_leaves_a_file_that_boots_and_comes_back_to_what_etcd_says
}

/// Instances of `redis` that may be there at once.
const INSTANCES: u8 = 12;

/// Random changes to etcd, and what they come to.
struct Rain {
    rng: fastrand::Rng,
    /// Where those of `redis` are: HAProxy's checks find each of them up, so that those that drain are no service's last.
    backends: Vec<Backend>,
    /// Seen from outside: `backend/server` → port and state.
    expected: Servers,
    /// Services without any instance so far, each with its port. Theirs are on another machine, for HAProxy binds the
    /// port of no instance of its own.
    unused: Vec<(String, u16)>,
}

impl Rain {
    async fn with_seed(seed: u64) -> Rain {
        eprintln!("seed {seed}");
        // One more than there are instances: who moves finds another address.
        let mut backends = Vec::new();
        for _ in 0..=INSTANCES {
            backends.push(Backend::start("any").await);
        }
        Rain {
            rng: fastrand::Rng::with_seed(seed),
            backends,
            expected: Servers::new(),
            unused: (0..9).map(|n| (format!("s{n}"), free_port())).collect(),
        }
    }

    /// The port of a backend that is no instance now.
    fn idle_port(&mut self) -> u16 {
        let ports = self.backends.iter().map(|backend| backend.port);
        let taken: Vec<_> = self.expected.values().map(|it| port_of(it)).collect();
        let idle: Vec<_> = ports.filter(|port| !taken.contains(port)).collect();
        idle[self.rng.usize(..idle.len())]
    }

    /// Whether another instance of `redis` takes new connections. The last one that does never drains.
    fn is_served_without(&self, instance: &str) -> bool {
        let mut others = self.expected.iter().filter(|(name, _)| *name != instance);
        others.any(|(name, it)| name.starts_with("redis/") && !it.ends_with("drain"))
    }

    /// One change: mostly an instance of `redis`, now and then a service that wasn't there.
    async fn drop_on(&mut self, scene: &AgentScene) {
        if self.rng.u8(0..20) == 0
            && let Some((service, port)) = self.unused.pop()
        {
            scene.put(&service, "i", &elsewhere(port)).await;
            self.expected
                .insert(format!("{service}/i"), port.to_string());
            return;
        }
        let instance = format!("i{}", self.rng.u8(0..INSTANCES));
        let its = format!("redis/{instance}");
        let there = self.expected.get(&its).cloned();
        match (self.rng.u8(0..4), there) {
            (0, Some(_)) if self.is_served_without(&its) => {
                scene.delete("redis", &instance).await;
                self.expected.remove(&its);
            }
            (1, Some(there)) if self.is_served_without(&its) => {
                let port = port_of(&there);
                scene.put("redis", &instance, &at(port, "draining")).await;
                self.expected.insert(its, format!("{port} drain"));
            }
            _ => {
                let port = self.idle_port();
                scene.put("redis", &instance, &at(port, "")).await;
                self.expected.insert(its, port.to_string());
            }
        }
    }
}

/// The port of a server as it is seen from outside: `6379`, `6379 drain`.
fn port_of(server: &str) -> u16 {
    server.split(' ').next().unwrap().parse().unwrap()
}

/// The value of the instance that listens at that port of this machine.
fn at(port: u16, status: &str) -> String {
    let host = host();
    format!(r#"{{"host":"{host}","port":{port},"status":"{status}"}}"#)
}

/// Printed when the test fails; `SIDEKICK_CRASH_SEED=N` runs that one again.
fn seed() -> u64 {
    let given = std::env::var("SIDEKICK_CRASH_SEED").ok();
    given.map_or_else(|| fastrand::u64(..), |seed| seed.parse().unwrap())
}

async fn after_every_change_file_and_running_state_agree(mode: HaproxyMode) {
    let scene = AgentScene::start(mode, &["--hold=0"]).await;
    let mut rain = Rain::with_seed(seed()).await;
    for _ in 0..40 {
        rain.drop_on(&scene).await;
        scene.serves_all(&rain.expected).await;
    }
}

async fn killed_at_any_moment_it_leaves_a_file_that_boots_and_comes_back_to_what_etcd_says(
    mode: HaproxyMode,
) {
    let mut scene = AgentScene::start(mode, &["--hold=0"]).await;
    eventually(PATIENCE, "its file is there", async || {
        scene.config().contains("listen redis")
    })
    .await;
    let mut rain = Rain::with_seed(seed()).await;
    for _ in 0..8 {
        let (drops, moment) = (rain.rng.u32(5..50), millis(rain.rng.u64(0..120)));
        let victim = [Victim::Agent, Victim::Master, Victim::Worker][rain.rng.usize(0..3)];
        let fall = async {
            for _ in 0..drops {
                rain.drop_on(&scene).await;
            }
        };
        let blow = async {
            tokio::time::sleep(moment).await;
            scene.kill(victim).await;
        };
        tokio::join!(fall, blow);
        let ours_to_start = scene.buried(victim).await;
        scene.file_boots().await;
        let text = scene.config();
        assert_eq!(fresh_haproxy_on(&text).await, servers_in(&text));
        match victim {
            Victim::Agent => scene.start_agent(),
            _ if ours_to_start => scene.start_haproxy().await,
            _ => {}
        }
        scene.serves_all(&rain.expected).await;
    }
}
