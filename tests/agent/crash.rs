//! SIGKILL at any moment, while etcd changes all the time.

use sidekick_harness::agent::*;

both_ways! {
    after_every_change_file_and_running_state_agree
    killed_at_any_moment_it_leaves_a_file_that_boots_and_comes_back_to_what_etcd_says
}

/// Random changes to etcd, and what they come to.
struct Rain {
    rng: fastrand::Rng,
    /// Seen from outside: `backend/server` → port and state.
    expected: Servers,
    /// Services without any instance so far, each with its port.
    unused: Vec<(String, u16)>,
}

impl Rain {
    fn with_seed(seed: u64) -> Rain {
        eprintln!("seed {seed}");
        Rain {
            rng: fastrand::Rng::with_seed(seed),
            expected: Servers::new(),
            unused: (0..9).map(|n| (format!("s{n}"), free_port())).collect(),
        }
    }

    /// One change: mostly an instance of `redis`, now and then a service that wasn't there.
    async fn drop_on(&mut self, scene: &AgentScene) {
        if self.rng.u8(0..20) == 0
            && let Some((service, port)) = self.unused.pop()
        {
            scene.put(&service, "i", &at(port, "")).await;
            self.expected
                .insert(format!("{service}/i"), port.to_string());
            return;
        }
        let instance = format!("i{}", self.rng.u8(0..12));
        let its = format!("redis/{instance}");
        match (self.rng.u8(0..4), self.expected.get(&its).cloned()) {
            (0, Some(_)) => {
                scene.delete("redis", &instance).await;
                self.expected.remove(&its);
            }
            (1, Some(there)) => {
                let port = there.split(' ').next().unwrap().parse().unwrap();
                scene.put("redis", &instance, &at(port, "draining")).await;
                self.expected.insert(its, format!("{port} drain"));
            }
            _ => {
                let port = self.rng.u16(1024..);
                scene.put("redis", &instance, &at(port, "")).await;
                self.expected.insert(its, port.to_string());
            }
        }
    }
}

/// No server listens at that address: the tests look at HAProxy's servers, not at traffic.
fn at(port: u16, status: &str) -> String {
    format!(r#"{{"host":"10.255.255.1","port":{port},"status":"{status}"}}"#)
}

/// Printed when the test fails; `SIDEKICK_CRASH_SEED=N` runs that one again.
fn seed() -> u64 {
    let given = std::env::var("SIDEKICK_CRASH_SEED").ok();
    given.map_or_else(|| fastrand::u64(..), |seed| seed.parse().unwrap())
}

async fn after_every_change_file_and_running_state_agree(mode: HaproxyMode) {
    let scene = AgentScene::start(mode, &["--hold=0"]).await;
    let mut rain = Rain::with_seed(seed());
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
    let mut rain = Rain::with_seed(seed());
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
