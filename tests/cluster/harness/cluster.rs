//! The six machines, running, and what can be seen of the key on them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::SOON;
use super::etcd_members::EtcdMembers;
use super::furniture::{MACHINES, files, write_files};
use super::history::{Change, History, unix_seconds};
use super::host_engine::HostEngine;
use super::images::{Parts, make_images};
use super::machine::Machine;
use super::reader::Reader;
use super::worker::Worker;
use sidekick_harness::blocking::{eventually, never_for};

/// The key of redis@1.
pub const KEY: &str = "/services/redis/redis@1";

/// How often the worker program dials. The article's 3 s would tell less. In milliseconds.
const BEAT: &str = "100";

/// Swarm asks the registry for an image before it takes the one that is there. Refused at once, where DNS would be silent
/// for 20 s.
const NO_REGISTRY: [(&str, &str); 2] = [
    ("docker.io", "127.0.0.1"),
    ("registry-1.docker.io", "127.0.0.1"),
];

const NETWORK: &str = "10.77.0.0/24";

/// All of it, running.
pub struct Cluster {
    // First what speaks to the machines, last the engine that they are on: dropped in this order.
    worker: Worker,
    reader: Reader,
    history: History,
    /// The three members, asked from outside.
    pub etcd: EtcdMembers,
    /// etcd1, etcd2, etcd3.
    pub members: Vec<Machine>,
    /// Where redis@1 runs before and after each scenario.
    pub worker1: Machine,
    /// Where it may be started instead.
    pub worker2: Machine,
    /// Debian's haproxy.service with `sidekick agent` attached to it; the worker program dials from here.
    pub haproxy: Machine,
    engine: Arc<HostEngine>,
}

impl Cluster {
    /// Boots all machines.
    pub fn boot(parts: Parts) -> Cluster {
        let engine = Arc::new(HostEngine::start());
        make_images(&engine, &parts);
        engine.docker(&["network", "create", "--subnet", NETWORK, "cluster"]);
        write_files(engine.directory());
        let mut hosts = Vec::from(NO_REGISTRY);
        hosts.extend(MACHINES.map(|(name, address, _)| (name, address)));
        let machines = MACHINES.map(|(name, address, role)| {
            let files = files(&parts, engine.directory(), name);
            Machine::make(&engine, (name, address), role, &hosts, &files)
        });
        std::thread::scope(|scope| {
            for machine in &machines {
                scope.spawn(|| machine.power_on());
            }
        });
        let [etcd1, etcd2, etcd3, worker1, worker2, haproxy] = machines;
        let members = vec![etcd1, etcd2, etcd3];
        for machine in [&worker1, &worker2] {
            machine.load_image(&engine.directory().join("redis.tar"));
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build();
        let etcd = EtcdMembers::at(&endpoints(&members), runtime.expect("a runtime"));
        eventually(SOON, "etcd answers", || etcd.answers());
        haproxy.systemctl("enable", "sidekick-agent");
        haproxy.start("sidekick-agent");
        Cluster {
            worker: Worker::start(&engine, haproxy.name, BEAT),
            reader: Reader::of(&etcd, KEY),
            history: History::of(&etcd),
            etcd,
            members,
            worker1,
            worker2,
            haproxy,
            engine,
        }
    }

    /// redis@1 on worker1: what each scenario expects and leaves behind.
    pub fn set_the_scene(&self) {
        self.worker1.start("redis@1");
        self.is_as_it_was();
    }

    /// Waits until everything is as every scenario expects it, and as it has to leave it.
    #[track_caller]
    pub fn is_as_it_was(&self) {
        let began = Instant::now();
        eventually(SOON, "all members of etcd are there", || {
            (0..self.members.len()).all(|member| {
                let status = self.etcd.status(member);
                status.is_some_and(|status| status.leader() != 0)
            })
        });
        eventually(SOON, "worker1 announces its redis1", || {
            self.announced_by(&self.worker1)
        });
        let still = self.worker2.is_active("redis@1");
        assert!(!still, "redis@1 still runs on worker2");
        let agent = self.haproxy.is_active("sidekick-agent");
        assert!(agent, "no sidekick-agent on haproxy");
        self.prints_bar(began);
    }

    /// Waits until the worker has printed `bar` since then.
    #[track_caller]
    pub fn prints_bar(&self, since: Instant) {
        eventually(SOON, "the worker prints bar", || {
            self.worker.bar_since(since)
        });
    }

    /// Waits until the key names this machine and the container on it.
    #[track_caller]
    pub fn is_announced_by(&self, machine: &Machine) {
        eventually(SOON, "the key is there", || self.announced_by(machine));
    }

    /// Makes sure that the key is there at every moment of `duration`.
    #[track_caller]
    pub fn keeps_the_key(&self, duration: Duration) {
        never_for(duration, "the key is gone", || self.key().is_none());
    }

    /// The key, if it is there.
    #[track_caller]
    pub fn key(&self) -> Option<String> {
        self.etcd.get(KEY)
    }

    /// Whether the key names this machine, and the container that runs on it now.
    pub fn announced_by(&self, machine: &Machine) -> bool {
        let (Some(value), Some(container)) = (self.key(), machine.container("redis1")) else {
            return false;
        };
        let (host, port) = (format!(r#""host":"{}""#, machine.name), r#""port":6379"#);
        value.contains(&host)
            && value.contains(port)
            && value.contains(&format!(r#""container":"{container}""#))
    }

    /// What happened to the key after a revision, the earliest first.
    #[track_caller]
    pub fn history(&self, after: i64) -> Vec<Change> {
        self.history_of(KEY, after)
    }

    /// What happened to any key below /services.
    #[track_caller]
    pub fn history_of(&self, key: &str, after: i64) -> Vec<Change> {
        self.history.of_key(&self.etcd, key, after)
    }

    /// Whether the key was deleted or expired after a revision.
    #[track_caller]
    pub fn was_gone(&self, after: i64) -> bool {
        let history = self.history(after);
        history.iter().any(|change| change.put.is_none())
    }

    /// Fails the scenario where the polling reader got an answer without the key after this time.
    #[track_caller]
    pub fn no_reader_missed_it_since(&self, since: Instant) {
        let gaps = self.reader.gaps(since);
        assert!(gaps.is_empty(), "gaps that a reader saw: {gaps:?}");
    }

    /// The reader that polls the key all the time.
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// The worker program.
    pub fn worker(&self) -> &Worker {
        &self.worker
    }

    /// The engine that the machines are containers of.
    pub fn engine(&self) -> &HostEngine {
        &self.engine
    }

    /// The members, by their addresses.
    pub fn endpoints(&self) -> Vec<String> {
        endpoints(&self.members)
    }

    /// An image `sidekick` with the binary under test, as `docker save` wrote it.
    pub fn sidekick_image(&self) -> PathBuf {
        self.engine.directory().join("sidekick.tar")
    }

    /// What a test sets besides deploy/swarm.yml.
    pub fn swarm_settings(&self) -> PathBuf {
        self.engine.directory().join("settings.yml")
    }

    /// All machines.
    pub fn machines(&self) -> impl Iterator<Item = &Machine> {
        self.members
            .iter()
            .chain([&self.worker1, &self.worker2, &self.haproxy])
    }

    /// How long the worker went without `bar`, and the reader without the key, since then.
    pub fn seen_since(&self, since: Instant) -> String {
        let list = |what: &str, stretches: Vec<Duration>| match stretches.iter().max() {
            None => format!("no {what}"),
            Some(longest) => {
                let (times, longest) = (stretches.len(), longest.as_secs_f32());
                format!("{times} {what}, {longest:.2} s at most")
            }
        };
        format!(
            "worker without bar for {:.1} s at most; reader: {}; {}",
            self.worker.longest_without_bar(since).as_secs_f32(),
            list("gap", self.reader.gaps(since)),
            list("silence of etcd", self.reader.silences(since)),
        )
    }

    /// What the units said since then, for whoever has to find out what went wrong.
    pub fn journals(&self, since: Instant) {
        println!("--- {}", self.seen_since(since));
        let others = self.worker.complaints(since).join("\n");
        println!("--- the worker said, besides bar:\n{others}");
        let members = (0..self.members.len()).map(|member| self.etcd.status(member));
        let leaders = members.map(|status| status.map(|status| status.leader()));
        let leaders: Vec<_> = leaders.collect();
        println!("--- who leads, by each member of etcd: {leaders:x?}");
        let since = format!("@{:.6}", unix_seconds() - since.elapsed().as_secs_f64());
        let units = "redis@1 redis-discovery@1 sidekick sidekick-agent haproxy etcd docker";
        let units: Vec<&str> = units.split(' ').collect();
        for machine in self.machines() {
            println!("--- {}\n{}", machine.name, machine.journal(&units, &since));
        }
    }

    /// What it is made of, in a line.
    pub fn describe(&self) -> String {
        let first = |machine: &Machine, command: &[&str]| {
            let said = machine.run(command);
            said.lines().next().unwrap_or_default().to_owned()
        };
        format!(
            "6 machines: Debian {}, {}, {}, Docker {}, {}",
            first(&self.worker1, &["cat", "/etc/debian_version"]),
            first(&self.worker1, &["systemctl", "--version"]),
            first(&self.members[0], &["etcd", "--version"]),
            first(
                &self.worker1,
                &["docker", "version", "--format", "{{.Server.Version}}"]
            ),
            first(&self.haproxy, &["haproxy", "-v"]),
        )
    }
}

fn endpoints(members: &[Machine]) -> Vec<String> {
    let url = |member: &Machine| format!("http://{}:2379", member.address);
    members.iter().map(url).collect()
}
