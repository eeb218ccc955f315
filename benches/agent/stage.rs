//! An agent with its etcd and its HAProxy, and as many services as are asked for.

use crate::log::Log;
use crate::view::View;
use etcd_client::Client;
use sidekick::agent::haproxy::render::DEFAULT_BASE;
use sidekick_harness::agent::{AgentScene, Etcd, Supervised, free_port, haproxy, host};
use std::fmt;
use std::io;
use std::net::{IpAddr, TcpListener, ToSocketAddrs};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::sleep;

/// Ports for a thousand listeners: above those that the tests' servers take, below the kernel's own.
const LISTENER_PORTS: RangeInclusive<u16> = 30_000..=32_767;

/// For a start with ten thousand instances, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at all servers, which cost HAProxy some 10 ms where there are ten thousand.
const LOOK: Duration = Duration::from_millis(20);

/// How many services with how many instances each stand in etcd beside what is measured.
#[derive(Clone, Copy)]
pub struct Table {
    pub services: usize,
    pub each: usize,
}

impl Table {
    pub fn instances(self) -> usize {
        self.services * self.each
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} instances of {} services",
            self.instances(),
            self.services
        )
    }
}

/// Such as 2.6.12.
pub async fn haproxy_version() -> String {
    let output = Command::new(haproxy()).arg("-v").output().await;
    let output = output.expect("haproxy can't be started; is it installed?");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.split_whitespace().nth(2).unwrap_or_default();
    version.split('-').next().unwrap_or_default().to_owned()
}

/// Everything that is measured happens to the service `redis`, or to HAProxy's own `byhand`.
pub struct Stage {
    pub scene: AgentScene,
    pub table: Table,
    pub etcd: Client,
    /// The port of `byhand`: a listener that the agent leaves alone.
    pub byhand: u16,
    pub log: Log,
    dir: TempDir,
}

impl Stage {
    /// etcd runs and is filled; the agent doesn't run yet.
    pub async fn set(table: Table) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let byhand = free_port();
        let base = base(dir.path())
            + &format!("\nlisten byhand\n    bind :::{byhand} v4v6\n    balance roundrobin\n");
        let base_file = dir.path().join("base.cfg");
        std::fs::write(&base_file, base).expect("a file");
        let mut ports = LISTENER_PORTS.filter(|port| TcpListener::bind(("::", *port)).is_ok());
        let binds: Vec<_> = (0..table.services)
            .map(|i| format!("{}=:{}", service(i), ports.next().expect("a free port")))
            .collect();
        let base_option = format!("--haproxy-base={}", base_file.display());
        let binds_option = format!("--bind={}", binds.join(","));
        let scene = AgentScene::new(Supervised, &[&base_option, &binds_option]).await;
        fill(&scene.etcd, table).await;
        Self {
            etcd: scene.etcd.client().clone(),
            scene,
            table,
            byhand,
            log: Log::listen(&log_socket(dir.path())),
            dir,
        }
    }

    /// With the agent, and HAProxy up to date.
    pub async fn start(table: Table) -> Self {
        let mut stage = Self::set(table).await;
        stage.scene.start_agent();
        stage.has(table.instances()).await;
        stage
    }

    /// Waits until HAProxy has so many servers.
    pub async fn has(&self, servers: usize) {
        let patience = Instant::now() + PATIENCE;
        while self.servers() != servers {
            let log = || self.scene.log();
            assert!(
                Instant::now() < patience,
                "HAProxy has not {servers} servers:\n{}",
                log()
            );
            sleep(LOOK).await;
        }
    }

    /// The agent ends, and its HAProxy with it.
    pub async fn stop_agent(&mut self) {
        let status = self.scene.stop_agent().await;
        assert_eq!(status, Some(0), "the agent's end:\n{}", self.scene.log());
    }

    /// How many servers HAProxy has; 0 while it doesn't answer.
    pub fn servers(&self) -> usize {
        let view = self.try_view();
        let servers = view.and_then(|mut view| view.servers(""));
        servers.map_or(0, |servers| servers.len())
    }

    /// The process ids of HAProxy's master and of all its workers.
    pub async fn haproxies(&self) -> Vec<u32> {
        let text = self.scene.master("show proc").await;
        let processes = text.lines().filter(|line| !line.starts_with('#'));
        let pids = processes.filter_map(|line| line.split_whitespace().next()?.parse().ok());
        pids.collect()
    }

    /// A view of HAProxy's worker.
    pub fn view(&self) -> View {
        self.try_view().expect("HAProxy's worker listens")
    }

    fn try_view(&self) -> io::Result<View> {
        View::open(&worker_socket(self.dir.path()))
    }
}

/// The built-in settings, a socket at the worker for the bench to look through, and a log.
pub fn base(dir: &Path) -> String {
    let global = format!(
        "global\n    stats socket {} level admin\n    stats timeout 1h\n    log {} local0\n",
        worker_socket(dir).display(),
        log_socket(dir).display()
    );
    let defaults = "defaults\n    log global\n    option tcplog\n    option dontlog-normal\n";
    DEFAULT_BASE
        .replacen("global\n", &global, 1)
        .replacen("defaults\n", defaults, 1)
}

pub fn worker_socket(dir: &Path) -> PathBuf {
    dir.join("worker.sock")
}

pub fn log_socket(dir: &Path) -> PathBuf {
    dir.join("log.sock")
}

fn service(i: usize) -> String {
    format!("service{i:04}")
}

/// All instances are one listener that takes connections and hangs up: HAProxy's checks need no more.
async fn fill(etcd: &Etcd, table: Table) {
    let listener = TcpListener::bind("0.0.0.0:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    // Ends with the bench.
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let value = format!(r#"{{"host":"{}","port":{port}}}"#, host());
    let keys = (0..table.instances())
        .map(|i| format!("/services/{}/instance@{i}", service(i / table.each)));
    let pairs: Vec<_> = keys.map(|key| (key, value.clone())).collect();
    etcd.put_all(&pairs).await;
}

/// This machine's IPv4 address, for commands by hand.
pub fn address() -> IpAddr {
    let mut found = (host().as_str(), 0)
        .to_socket_addrs()
        .expect("a name that resolves");
    let v4 = found.find(|address| address.is_ipv4());
    v4.expect("an IPv4 address").ip()
}
