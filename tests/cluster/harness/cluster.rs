//! The six machines, and what is on them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::engine::{Engine, finish};
use super::etcd::Etcd;
use super::history::{Change, History};
use super::machine::{Machine, Role};
use super::patience::{SOON, deadline, secs};
use super::reader::Reader;
use super::worker::Worker;

/// The key of redis@1.
pub const KEY: &str = "/services/redis/redis@1";

/// Short, so that waiting for it takes no minute. etcd's least is 1.5 election timeouts, 2 s.
pub const TTL: Duration = secs(10);
const INTERVAL: &str = "7s";

/// How often the worker program dials. The article's 3 s would tell less. In milliseconds.
const BEAT: &str = "100";

/// So little that a scenario can fill it: the third member's disk.
const SMALL_DISK: u64 = 16 << 20;

const NETWORK: &str = "10.77.0.0/24";

/// role=services, role=worker, and the third kind. etcd1 has a Docker Engine to be Swarm's manager with.
const MACHINES: [(&str, &str, Role); 6] = [
    (
        "etcd1",
        "10.77.0.11",
        Role {
            units: &[
                "etcd.service",
                "docker.service",
                "docker.socket",
                "containerd.service",
            ],
        },
    ),
    (
        "etcd2",
        "10.77.0.12",
        Role {
            units: &["etcd.service"],
        },
    ),
    (
        "etcd3",
        "10.77.0.13",
        Role {
            units: &["etcd.service"],
        },
    ),
    (
        "worker1",
        "10.77.0.21",
        Role {
            units: &["docker.service", "docker.socket", "containerd.service"],
        },
    ),
    (
        "worker2",
        "10.77.0.22",
        Role {
            units: &["docker.service", "docker.socket", "containerd.service"],
        },
    ),
    (
        "haproxy",
        "10.77.0.31",
        Role {
            units: &["haproxy.service"],
        },
    ),
];

const PACKAGES: &[&str] = &[
    "systemd",
    "systemd-sysv",
    "dbus",
    "docker.io",
    "etcd-server",
    "etcd-client",
    "haproxy",
    "iproute2",
    "iptables",
    "procps",
];

/// What is under test, and what stands by.
pub struct Parts {
    /// The binary.
    pub sidekick: PathBuf,
    /// examples/worker.rs, built static: the machines' libc may be another.
    pub worker: PathBuf,
}

/// All of it, running.
pub struct Cluster {
    // First what speaks to the machines, last the engine that they are on: dropped in this order.
    worker: Worker,
    reader: Reader,
    history: History,
    /// The three members, asked from outside.
    pub etcd: Etcd,
    /// etcd1, etcd2, etcd3.
    pub members: Vec<Machine>,
    /// Where redis@1 runs before and after each scenario.
    pub worker1: Machine,
    /// Where it may be started instead.
    pub worker2: Machine,
    /// Debian's haproxy.service with `sidekick agent` attached to it; the worker program dials from here.
    pub haproxy: Machine,
    engine: Arc<Engine>,
}

impl Cluster {
    /// Boots all machines; `DEBIAN` in the environment is 12 (as if not set) or 13.
    pub fn boot(parts: Parts) -> Cluster {
        let engine = Arc::new(Engine::start());
        make_images(&engine);
        engine.docker(&["network", "create", "--subnet", NETWORK, "cluster"]);
        write_files(engine.directory());
        let hosts = MACHINES.map(|(name, address, _)| (name, address));
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
        let etcd = Etcd::at(&endpoints(&members), runtime.expect("a runtime"));
        deadline(SOON, "etcd answers", || etcd.answers());
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
        deadline(SOON, "all members of etcd are there", || {
            (0..self.members.len()).all(|member| {
                self.etcd
                    .status(member)
                    .is_some_and(|status| status.leader() != 0)
            })
        });
        deadline(SOON, "worker1 announces its redis1", || {
            self.announced_by(&self.worker1)
        });
        assert!(
            !self.worker2.is_active("redis@1"),
            "redis@1 still runs on worker2"
        );
        assert!(
            self.haproxy.is_active("sidekick-agent"),
            "no sidekick-agent on haproxy"
        );
        deadline(SOON, "the worker prints bar", || {
            self.worker.bar_since(began)
        });
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
        self.history.of_key(&self.etcd, KEY, after)
    }

    /// Whether the key was deleted or expired after a revision.
    #[track_caller]
    pub fn was_gone(&self, after: i64) -> bool {
        self.history(after)
            .iter()
            .any(|change| change.put.is_none())
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
    pub fn engine(&self) -> &Engine {
        &self.engine
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
            Some(longest) => format!(
                "{} {what}, {:.2} s at most",
                stretches.len(),
                longest.as_secs_f32()
            ),
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
        println!(
            "--- the worker said, besides bar:\n{}",
            self.worker.complaints(since).join("\n")
        );
        println!(
            "--- the key: {:?}; leader: {:?}",
            self.key(),
            self.etcd.leader(&[0, 1, 2])
        );
        let since = SystemTime::now() - since.elapsed();
        let since = since
            .duration_since(UNIX_EPOCH)
            .expect("a time after 1970")
            .as_secs();
        for machine in self.machines() {
            let units = [
                "redis@1",
                "redis-discovery@1",
                "sidekick",
                "sidekick-agent",
                "haproxy",
                "etcd",
                "docker",
            ];
            println!(
                "--- {}\n{}",
                machine.name,
                machine.journal(&units, &format!("@{since}"))
            );
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

/// sidekick-machine, Debian; and redis, from this machine's own redis-server, as redis.tar.
fn make_images(engine: &Engine) {
    let codename = match std::env::var("DEBIAN").as_deref() {
        Err(_) | Ok("" | "12") => "bookworm",
        Ok("13") => "trixie",
        Ok(other) => panic!("DEBIAN={other}: 12 or 13"),
    };
    let mut debian = Command::new("scripts/debian-root");
    debian
        .arg(codename)
        .args(PACKAGES)
        .stderr(std::process::Stdio::inherit());
    if codename == "trixie" {
        debian.arg("docker-cli"); // a package of its own since Debian 13
    }
    let tar = finish("scripts/debian-root", &mut debian).unwrap_or_else(|error| panic!("{error}"));
    engine.docker(&["import", &tar, "sidekick-machine"]);
    let instruction = r#"CMD ["redis-server", "--protected-mode", "no", "--save", ""]"#;
    let mut redis = engine.command(&[
        "scripts/import-image",
        "redis",
        instruction,
        "redis-server",
        "redis-cli",
    ]);
    finish("scripts/import-image", &mut redis).unwrap_or_else(|error| panic!("{error}"));
    let tar = engine.directory().join("redis.tar");
    engine.docker(&[
        "save",
        "--output",
        tar.to_str().expect("a path in UTF-8"),
        "redis",
    ]);
}

fn endpoints(members: &[Machine]) -> Vec<String> {
    members
        .iter()
        .map(|member| format!("http://{}:2379", member.address))
        .collect()
}

/// The settings, written where [`files`] finds them.
fn write_files(directory: &Path) {
    let write = |name: &str, text: String| {
        std::fs::write(directory.join(name), text).expect("a file can be written")
    };
    let members = &MACHINES[..3];
    let urls = members
        .iter()
        .map(|(name, _, _)| format!("http://{name}:2379"));
    let ttl = TTL.as_secs();
    write(
        "sidekick",
        format!(
            "ETCDCTL_ENDPOINTS={}\nSIDEKICK_TTL={ttl}s\nSIDEKICK_INTERVAL={INTERVAL}\nSIDEKICK_BIND=redis=:80\n",
            urls.collect::<Vec<_>>().join(",")
        ),
    );
    let peers = members
        .iter()
        .map(|(name, address, _)| format!("{name}=http://{address}:2380"));
    let peers = peers.collect::<Vec<_>>().join(",");
    for (name, address, _) in members {
        let quota = if *name == "etcd3" { SMALL_DISK } else { 0 };
        write(
            &format!("etcd-{name}"),
            format!(
                "ETCD_NAME={name}\n\
                 ETCD_LISTEN_PEER_URLS=http://{address}:2380\n\
                 ETCD_INITIAL_ADVERTISE_PEER_URLS=http://{address}:2380\n\
                 ETCD_LISTEN_CLIENT_URLS=http://0.0.0.0:2379\n\
                 ETCD_ADVERTISE_CLIENT_URLS=http://{name}:2379\n\
                 ETCD_INITIAL_CLUSTER={peers}\n\
                 ETCD_QUOTA_BACKEND_BYTES={quota}\n"
            ),
        );
    }
    // Debian's restarts what was killed; here that stays dead until somebody starts it.
    write("etcd-stays-dead", "[Service]\nRestart=no\n".to_owned());
    write("attached", drop_in_of_the_agent());
}

/// The drop-in for Debian's haproxy.service, as the comment in the unit shows it.
fn drop_in_of_the_agent() -> String {
    let unit =
        std::fs::read_to_string("systemd/sidekick-agent.service").expect("the unit is there");
    let comment = unit.lines().take_while(|line| line.starts_with('#'));
    let indented = comment.filter_map(|line| line.strip_prefix("#   "));
    indented
        .skip_while(|line| !line.starts_with('['))
        .fold(String::new(), |text, line| text + line + "\n")
}

/// What lies on a machine besides Debian, by its path there.
fn files(parts: &Parts, directory: &Path, name: &str) -> Vec<(&'static str, PathBuf)> {
    let written = |name: &str| directory.join(name);
    let mut files = vec![
        ("machine-init", "scripts/machine-init".into()),
        ("usr/local/bin/sidekick", parts.sidekick.clone()),
        ("etc/default/sidekick", written("sidekick")),
        (
            "etc/systemd/system/redis@.service",
            "systemd/redis@.service".into(),
        ),
        (
            "etc/systemd/system/redis-discovery@.service",
            "systemd/redis-discovery@.service".into(),
        ),
        (
            "etc/systemd/system/sidekick-agent.service",
            "systemd/sidekick-agent.service".into(),
        ),
    ];
    if name.starts_with("etcd") {
        files.push(("etc/default/etcd", written(&format!("etcd-{name}"))));
        files.push((
            "etc/systemd/system/etcd.service.d/stays-dead.conf",
            written("etcd-stays-dead"),
        ));
    }
    if name == "haproxy" {
        files.push(("usr/local/bin/worker", parts.worker.clone()));
        files.push((
            "etc/systemd/system/sidekick-agent.service.d/override.conf",
            written("attached"),
        ));
    }
    files
}
