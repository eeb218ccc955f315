//! Everything that takes part: three etcd members, an engine, four containers, six sidekicks, an
//! agent with its HAProxy, clients, a wire between each and each, and those who look.

use crate::agent::Agent;
use crate::excuses::{INTERVAL, TTL};
use crate::harness::{Cluster, Container, Engine, Proxy, Sidekick, free_port};
use crate::record::{Claim, Life, Record, Turn, What};
use crate::schedule::{AGENT, CONTAINERS, SIDEKICKS};
use crate::spans::{Ms, Span};
use crate::watchers::{Seen, client, haproxy, history, stalls};
use std::path::Path;
use tempfile::TempDir;
use tokio::task::JoinSet;

/// Which container each sidekick announces, and where. 0 and 1 are rivals for one key with two
/// containers, 2 and 3 with one; 4 and 5 are alone.
pub const CLAIMS: [(usize, &str); SIDEKICKS] = [
    (0, "/services/redis/redis@1"),
    (1, "/services/redis/redis@1"),
    (2, "/services/redis/redis@2"),
    (2, "/services/redis/redis@2"),
    (1, "/services/redis/redis@3"),
    (3, "/services/alone/alone@1"),
];

/// See the module's text.
pub struct Stage<'e> {
    pub engine: &'e Engine,
    pub cluster: Cluster,
    pub containers: Vec<Container<'e>>,
    /// Nothing where one was killed.
    pub sidekicks: Vec<Option<Sidekick>>,
    /// By client, and then by member.
    pub etcd_wires: Vec<Vec<Proxy>>,
    pub docker_wires: Vec<Proxy>,
    pub agent: Agent,
    pub seen: Seen,
    pub record: Record,
    /// etcd's own ids of the members.
    pub member_ids: Vec<u64>,
    /// The logs of sidekicks that are gone.
    pub logs: Vec<Vec<String>>,
    _published: Vec<Proxy>,
    _watchers: JoinSet<()>,
    directory: TempDir,
}

impl<'e> Stage<'e> {
    /// Sets everything up; all of it goes when the stage goes.
    pub async fn set(engine: &'e Engine) -> Stage<'e> {
        let cluster = Cluster::start(3).await;
        let mut member_ids = Vec::new();
        for member in &cluster.members {
            let status = member.client().maintenance_client().status().await;
            let status = status.expect("a member tells its status");
            member_ids.push(status.header().expect("a header").member_id());
        }
        let directory = tempfile::tempdir().expect("no temporary directory can be made");
        let ports: Vec<u16> = (0..CONTAINERS).map(|_| free_port()).collect();
        let mut published = Vec::new();
        for (number, port) in ports.iter().enumerate() {
            let socket = directory.path().join(number.to_string()).join("redis.sock");
            published.push(Proxy::published(*port, socket));
        }
        let (mut etcd_wires, mut docker_wires) = (Vec::new(), Vec::new());
        for number in 0..=AGENT {
            let mut wires = Vec::new();
            for member in &cluster.members {
                wires.push(Proxy::before(member.url()).await);
            }
            etcd_wires.push(wires);
            if number < SIDEKICKS {
                docker_wires.push(Proxy::before_engine(&engine.host()).await);
            }
        }
        let fronts = [("redis", free_port()), ("alone", free_port())];
        let agent = Agent::start(&fronts, &urls(&etcd_wires[AGENT]));

        let seen = Seen::new();
        let mut watchers = JoinSet::new();
        for member in &cluster.members {
            watchers.spawn(history(seen.clone(), member.client().clone()));
        }
        watchers.spawn(stalls(seen.clone()));
        watchers.spawn(haproxy(seen.clone(), agent.socket(), agent.file()));
        for (service, port) in fronts.into_iter().chain(fronts) {
            watchers.spawn(client(seen.clone(), service, port));
        }
        let claims = CLAIMS.map(|(container, key)| Claim {
            container,
            key: key.to_owned(),
        });
        let mut stage = Stage {
            engine,
            cluster,
            containers: Vec::new(),
            sidekicks: Vec::new(),
            etcd_wires,
            docker_wires,
            agent,
            seen,
            record: Record {
                claims: claims.into(),
                ports,
                ..Record::default()
            },
            member_ids,
            logs: vec![Vec::new(); SIDEKICKS],
            _published: published,
            _watchers: watchers,
            directory,
        };
        for number in 0..CONTAINERS {
            let container = stage.run_container(number).await;
            stage.containers.push(container);
            stage.turned(number, 0).await;
        }
        for number in 0..SIDEKICKS {
            let unborn = stage.seen.trouble(What::Client(number), 0);
            let sidekick = stage.sidekick(number);
            stage.sidekicks.push(Some(sidekick));
            stage.seen.over(unborn);
        }
        let haproxy_starts = stage.seen.trouble(What::Haproxy, 0);
        stage.seen.over(haproxy_starts);
        stage
    }

    /// Makes and starts a container anew. Redis listens on a socket as well, for clients are in
    /// another network than the engine.
    pub async fn run_container(&self, number: usize) -> Container<'e> {
        let directory = self.directory.path().join(number.to_string());
        std::fs::create_dir_all(&directory).expect("no directory can be made");
        let run = self.engine.container(&name(number));
        run.publish(&format!("{}:6379", self.record.ports[number]))
            .option(&format!("--volume={}:/run/redis", directory.display()))
            .redis_arguments(&[
                "--save",
                "",
                "--protected-mode",
                "no",
                "--unixsocket",
                "/run/redis/redis.sock",
                "--pidfile",
                &format!("/c{number}.pid"),
            ])
            .run()
            .await
    }

    /// Starts a sidekick.
    pub fn sidekick(&self, number: usize) -> Sidekick {
        let (container, key) = CLAIMS[number];
        Sidekick::announce(&name(container), key)
            .option("--etcd-endpoints", &urls(&self.etcd_wires[number]))
            .option("--docker-host", &self.docker_wires[number].url())
            .host(
                &hostname::get()
                    .expect("this machine has a name")
                    .to_string_lossy(),
            )
            .times((TTL / 1000) as u32, (INTERVAL / 1000) as u32)
            .spawn()
    }

    /// Notes what a container is now, after a command that began at `from`.
    pub async fn turned(&mut self, container: usize, from: Ms) {
        let up = self.life(container).await;
        self.turn(container, from, up);
    }

    /// Notes that.
    pub fn turn(&mut self, container: usize, from: Ms, up: Option<Life>) {
        let span = Span::new(from, self.seen.now());
        self.record.turns.push(Turn {
            container,
            span,
            up,
        });
    }

    /// What a container is, as it is to be announced.
    pub async fn life(&self, container: usize) -> Option<Life> {
        let inspected = self.containers[container].inspect().await;
        let state = &inspected["State"];
        let up = state["Running"] == true && state["Paused"] == false;
        let named = inspected["Name"] == format!("/{}", name(container));
        let id = self.containers[container].short_id();
        (up && named).then(|| Life::new(id, state["StartedAt"].as_str().unwrap_or_default()))
    }

    /// Everything that was seen and done.
    pub fn record(&self) -> Record {
        self.seen.with(|seen| Record {
            events: seen.events.values().cloned().collect(),
            troubles: seen.troubles.clone(),
            samples: seen.samples.clone(),
            cuts: seen.cuts.clone(),
            refused: seen.refused.clone(),
            end: self.seen.now(),
            ..self.record.clone()
        })
    }

    /// The logs of everybody, where the run went wrong.
    pub fn write_logs(&self, directory: &Path) {
        for (number, sidekick) in self.sidekicks.iter().enumerate() {
            let mut lines = self.logs[number].clone();
            lines.extend(sidekick.iter().flat_map(Sidekick::log));
            let _ = std::fs::write(
                directory.join(format!("sidekick{number}.log")),
                lines.join("\n"),
            );
        }
        let _ = std::fs::write(directory.join("agent.log"), self.agent.log());
        let _ = std::fs::write(directory.join("record"), format!("{:#?}", self.record()));
    }
}

/// A container's name.
pub fn name(container: usize) -> String {
    format!("c{container}")
}

fn urls(wires: &[Proxy]) -> String {
    let urls: Vec<String> = wires.iter().map(Proxy::url).collect();
    urls.join(",")
}
