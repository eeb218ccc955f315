//! The stage of nearly every test: etcd, HAProxy, the agent.

use super::haproxy::{Servers, ask, boots, haproxy, running_at, servers_in};
use super::{
    Backend, Connection, Etcd, Notifications, PATIENCE, becomes, eventually, free_port, throughout,
};
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tempfile::{NamedTempFile, TempDir};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// How the agent comes by its HAProxy.
#[derive(Clone, Copy, PartialEq)]
pub enum HaproxyMode {
    /// The agent starts it.
    Supervised,
    /// It runs already, and the agent is told its master socket.
    Attached,
}

/// An agent with its etcd and its HAProxy.
pub struct AgentScene {
    /// The etcd that the agent reads.
    pub etcd: Etcd,
    /// What the agent is told of etcd; changed before it starts.
    pub endpoints: String,
    /// What systemd is told by the agent.
    pub systemd: Notifications,
    /// Where HAProxy's file and sockets are.
    pub dir: TempDir,
    /// Apart, so that it is written where the directory is on a full disk.
    log: NamedTempFile,
    /// The sidekick that is run; a bench may name another build.
    pub program: PathBuf,
    /// Where the service `redis` is bound.
    pub port: u16,
    mode: HaproxyMode,
    arguments: Vec<String>,
    agent: Option<Child>,
    haproxy: Option<Child>,
}

impl AgentScene {
    /// `redis` is bound to `port`; nothing runs yet but etcd.
    pub async fn new(mode: HaproxyMode, arguments: &[&str]) -> AgentScene {
        AgentScene::around(Etcd::start().await, mode, arguments)
    }

    /// With that etcd, in whatever state it is; nothing else runs.
    pub fn around(etcd: Etcd, mode: HaproxyMode, arguments: &[&str]) -> AgentScene {
        AgentScene {
            endpoints: etcd.url().to_owned(),
            etcd,
            systemd: Notifications::listen(),
            dir: tempfile::tempdir().unwrap(),
            log: NamedTempFile::new().unwrap(),
            program: crate::binary(),
            port: free_port(),
            mode,
            arguments: arguments.iter().map(|&a| a.to_owned()).collect(),
            agent: None,
            haproxy: None,
        }
    }

    /// With the agent, and HAProxy in the way asked for.
    pub async fn start(mode: HaproxyMode, arguments: &[&str]) -> AgentScene {
        let mut scene = AgentScene::new(mode, arguments).await;
        scene.begin().await;
        scene
    }

    /// The same with backend `a` as the instance `redis@1`, which HAProxy serves.
    pub async fn serving(mode: HaproxyMode, arguments: &[&str]) -> (AgentScene, Backend) {
        let scene = AgentScene::start(mode, arguments).await;
        let a = Backend::start("a").await;
        scene.put("redis", "redis@1", &a.value()).await;
        scene.serves_redis(&[&a]).await;
        (scene, a)
    }

    /// A further argument of the agent's.
    pub fn argument(&mut self, argument: &str) {
        self.arguments.push(argument.to_owned());
    }

    /// Starts what a scene from `new` or `around` has not.
    pub async fn begin(&mut self) {
        if self.mode == HaproxyMode::Attached {
            let times = "    timeout connect 1s\n    timeout client 1s\n    timeout server 1s\n";
            let text = format!(
                "defaults\n    mode tcp\n{times}listen other\n    bind unix@{}/other\n",
                self.dir.path().display()
            );
            std::fs::write(self.file(), text).unwrap();
            self.start_haproxy().await;
        }
        self.start_agent();
    }

    /// HAProxy's configuration file.
    pub fn file(&self) -> PathBuf {
        self.dir.path().join("haproxy.cfg")
    }

    /// What is in the configuration file; empty where there is none.
    pub fn config(&self) -> String {
        std::fs::read_to_string(self.file()).unwrap_or_default()
    }

    /// HAProxy's master socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("haproxy-master.sock")
    }

    /// As Debian's haproxy.service does.
    pub async fn start_haproxy(&mut self) {
        let mut haproxy = Command::new(haproxy());
        haproxy.arg("-Ws").arg("-f").arg(self.file());
        haproxy.arg("-S").arg(self.socket());
        let haproxy = haproxy.stderr(Stdio::null()).kill_on_drop(true).spawn();
        self.haproxy = Some(haproxy.expect("haproxy can't be started; is it installed?"));
        eventually(PATIENCE, "HAProxy answers", async || {
            self.master("show proc").await.contains("worker")
        })
        .await;
    }

    /// A subcommand of sidekick that is told this etcd, not yet run.
    pub fn command(&self, job: &str) -> Command {
        let mut sidekick = Command::new(&self.program);
        sidekick
            .arg(job)
            .args(["--etcd-endpoints", &self.endpoints])
            .kill_on_drop(true);
        sidekick
    }

    /// The agent's command, not yet run.
    pub fn agent(&self) -> Command {
        let mut agent = self.command("agent");
        agent
            .arg("--haproxy-config")
            .arg(self.file())
            .arg(format!("--bind=redis=:{}", self.port));
        // Unless the test says otherwise. Whatever isn't about leaving expects a deleted instance to be gone.
        let defaults = ["--stats=off", "--drain-timeout=0"].map(str::to_owned);
        let haproxy = format!("--haproxy={}", haproxy());
        for default in defaults.into_iter().chain([haproxy]) {
            let (option, _) = default.split_once('=').unwrap();
            let given = format!("{option}=");
            if !self.arguments.iter().any(|it| it.starts_with(&given)) {
                agent.arg(default);
            }
        }
        agent.args(&self.arguments);
        if self.mode == HaproxyMode::Attached {
            agent.arg("--haproxy-master").arg(self.socket());
        }
        agent
    }

    /// Starts the agent, for the first time or again.
    pub fn start_agent(&mut self) {
        let log = std::fs::File::options()
            .append(true)
            .open(self.log.path())
            .unwrap();
        let mut agent = self.agent();
        agent.env("NOTIFY_SOCKET", self.systemd.path()).stderr(log);
        self.agent = Some(agent.spawn().unwrap());
    }

    /// What every agent of this scene has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log.path()).unwrap_or_default()
    }

    /// Waits until the agent has said so.
    pub async fn says(&self, words: &str) {
        eventually(PATIENCE, &format!("the agent says {words:?}"), async || {
            self.log().contains(words)
        })
        .await;
    }

    /// The agent's process id.
    pub fn agent_pid(&self) -> u32 {
        self.agent.as_ref().unwrap().id().unwrap()
    }

    /// The agent, and HAProxy's.
    pub fn processes(&self) -> Vec<u32> {
        processes_naming(self.dir.path().to_str().unwrap())
    }

    /// SIGKILL, and nothing else.
    pub async fn kill_agent(&mut self) {
        self.agent.as_mut().unwrap().kill().await.unwrap();
    }

    /// Stops its clock, or lets it go on: SIGSTOP, SIGCONT.
    pub fn freeze_agent(&self, frozen: bool) {
        signal(self.agent_pid(), stop_or_continue(frozen));
    }

    /// The same to HAProxy, master and worker.
    pub fn freeze_haproxy(&self, frozen: bool) {
        let all = self.processes();
        // Debian 13's runs under a loader of its own, and is called so: not by its name then.
        let haproxy = |pid: &u32| {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
            name.is_ok_and(|name| name.trim() != "sidekick")
        };
        let all = all.into_iter().filter(haproxy);
        all.for_each(|pid| signal(pid, stop_or_continue(frozen)));
    }

    /// SIGTERM; returns the exit status.
    pub async fn stop_agent(&mut self) -> Option<i32> {
        signal(self.agent_pid(), Signal::SIGTERM);
        self.agent_ends().await
    }

    /// Waits for the agent's exit; returns its status.
    pub async fn agent_ends(&mut self) -> Option<i32> {
        let end = timeout(PATIENCE, self.agent.as_mut().unwrap().wait()).await;
        end.expect("the agent goes on").unwrap().code()
    }

    /// Puts an instance's key.
    pub async fn put(&self, service: &str, instance: &str, value: &str) {
        let key = format!("/services/{service}/{instance}");
        self.etcd.put(&key, value).await;
    }

    /// Deletes an instance's key.
    pub async fn delete(&self, service: &str, instance: &str) {
        let key = format!("/services/{service}/{instance}");
        self.etcd.delete(&key).await;
    }

    /// HAProxy's answer to one line at its master socket; empty where it doesn't answer.
    pub async fn master(&self, line: &str) -> String {
        ask(&self.socket(), line).await.unwrap_or_default()
    }

    /// What runs, with addresses.
    pub async fn running(&self) -> Servers {
        running_at(&self.socket()).await
    }

    /// `backend/server` → port, and `drain` or `maint` if it is.
    pub async fn servers(&self) -> BTreeMap<String, String> {
        ports_of(self.running().await)
    }

    /// `backend/server` → how many sessions it has now.
    pub async fn sessions(&self) -> BTreeMap<String, u32> {
        let text = self.master("@1 show stat").await;
        let rows = text.lines().map(|line| line.split(',').collect::<Vec<_>>());
        let rows = rows.filter_map(|row| {
            let sessions = row.get(4)?.parse().ok()?;
            Some((format!("{}/{}", row[0], row[1]), sessions))
        });
        rows.collect()
    }

    /// That server's value in the worker's statistics, by the column's name; empty if there is none.
    pub async fn stat(&self, backend: &str, server: &str, column: &str) -> String {
        let text = self.master("@1 show stat").await;
        let mut rows = text.lines().map(|line| line.split(',').collect::<Vec<_>>());
        let header = rows.find(|row| row[0] == "# pxname").unwrap_or_default();
        let index = header.iter().position(|name| *name == column);
        let row = rows.find(|row| row[..2] == [backend, server]);
        let value = row
            .zip(index)
            .and_then(|(row, index)| row.get(index).copied());
        value.unwrap_or_default().to_owned()
    }

    /// File and running state: those servers, in both.
    pub async fn serves<T: Display>(&self, expected: &[(&str, T)]) {
        let expected = expected.iter();
        let expected = expected.map(|(name, at)| ((*name).to_owned(), at.to_string()));
        self.serves_all(&expected.collect()).await;
        self.file_boots().await;
    }

    /// The instances `redis@1`, `redis@2` and so on, each at its backend's port, and no other server.
    pub async fn serves_redis(&self, backends: &[&Backend]) {
        let ports = backends.iter().enumerate();
        let servers = ports.map(|(n, it)| (format!("redis/redis::{}", n + 1), it.port.to_string()));
        self.serves_all(&servers.collect()).await;
        self.file_boots().await;
    }

    /// No server, neither in HAProxy nor in the file.
    pub async fn serves_nothing(&self) {
        self.serves::<u16>(&[]).await;
    }

    /// Waits until HAProxy has so many servers.
    pub async fn has_servers(&self, deadline: Duration, count: usize) {
        let number = async || self.servers().await.len();
        becomes(deadline, "the servers' number", count, number).await;
    }

    /// Waits until HAProxy has a server, and where it leads: its address and port.
    pub async fn leads(&self, deadline: Duration, server: &str, to: &str) {
        let address = async || self.running().await.remove(server);
        let what = format!("where {server} leads");
        becomes(deadline, what, Some(to.to_owned()), address).await;
    }

    /// Whether backend `a` answers a new connection to `redis`.
    pub async fn a_answers(&self) -> bool {
        let dialled = Connection::dial(self.port).await;
        dialled.is_some_and(|(_, name)| name == "a")
    }

    /// Makes sure that backend `a` answers every new connection to `redis` throughout `duration`.
    pub async fn keeps_answering(&self, duration: Duration) {
        throughout(duration, "a answers", async || self.a_answers().await).await;
    }

    /// The same without trying the file.
    pub async fn serves_all(&self, expected: &Servers) {
        let servers = async || self.servers().await;
        becomes(PATIENCE, "HAProxy's servers", expected.clone(), servers).await;
        // And the file says the same: names, addresses and who drains.
        let running = self.running().await;
        let in_file = async || servers_in(&self.config());
        becomes(PATIENCE, "the file's servers", running.clone(), in_file).await;
        assert_eq!(ports_of(running), *expected);
    }

    /// Fails the test where `haproxy -c` refuses the configuration file.
    pub async fn file_boots(&self) {
        if let Err(said) = boots(&self.file()).await {
            panic!("{said}");
        }
    }

    async fn column(&self, kind: &str, column: usize) -> Option<u32> {
        let text = self.master("show proc").await;
        let current = text
            .split("# old workers")
            .next()?
            .lines()
            .find(|line| line.contains(kind))?;
        current.split_whitespace().nth(column)?.parse().ok()
    }

    /// How often the master was reloaded.
    pub async fn reloads(&self) -> u32 {
        self.of_master(2).await
    }

    /// How many workers of before the last reload live.
    pub async fn old_workers(&self) -> usize {
        let text = self.master("show proc").await;
        let old = text.split("# old workers").nth(1).unwrap_or_default();
        old.lines().filter(|line| line.contains("worker")).count()
    }

    /// The process id of HAProxy's master.
    pub async fn master_pid(&self) -> u32 {
        self.of_master(0).await
    }

    /// One that is just reloading doesn't answer for a moment.
    async fn of_master(&self, column: usize) -> u32 {
        let answer = async || self.column("master", column).await;
        eventually(PATIENCE, "HAProxy's master answers", answer).await
    }

    /// SIGKILL to HAProxy's master.
    pub async fn kill_haproxy(&mut self) {
        match &mut self.haproxy {
            Some(haproxy) => haproxy.kill().await.unwrap(),
            None => signal(self.master_pid().await, Signal::SIGKILL),
        }
    }

    /// SIGKILL to one of the three, this moment. [`AgentScene::buried`] says when it is gone.
    pub async fn kill(&self, victim: Victim) {
        let pid = match victim {
            Victim::Agent => Some(self.agent_pid()),
            Victim::Master => self.column("master", 0).await,
            Victim::Worker => self.column("worker", 0).await,
        };
        // None: HAProxy is just being started, which is as good as dead.
        if let Some(pid) = pid {
            signal(pid, Signal::SIGKILL);
        }
    }

    /// Waits for the end of one that was killed; returns whether the test has to start it again.
    pub async fn buried(&mut self, victim: Victim) -> bool {
        let child = match victim {
            Victim::Agent => &mut self.agent,
            Victim::Master | Victim::Worker => &mut self.haproxy,
        };
        let Some(child) = child else { return false };
        child.start_kill().unwrap();
        timeout(PATIENCE, child.wait()).await.unwrap().unwrap();
        true
    }
}

/// Who can be killed.
#[derive(Clone, Copy, Debug)]
pub enum Victim {
    /// `sidekick agent`.
    Agent,
    /// HAProxy's.
    Master,
    /// HAProxy's, on which its master ends too.
    Worker,
}

fn ports_of(servers: Servers) -> Servers {
    let ports = servers.into_iter().map(|(name, at)| {
        let (_, port) = at.split_once(' ').unwrap();
        (name, port.to_owned())
    });
    ports.collect()
}

impl Drop for AgentScene {
    /// Ends whatever names the scene's directory on its command line: the agent, HAProxy (which
    /// outlives an agent that was killed), and what either was just about to start.
    fn drop(&mut self) {
        for _ in 0..200 {
            let ours = self.processes();
            if ours.is_empty() {
                break;
            }
            ours.into_iter()
                .for_each(|pid| signal(pid, Signal::SIGKILL));
            std::thread::sleep(Duration::from_millis(5));
        }
        if std::thread::panicking() {
            eprintln!(
                "--- the agent's log\n{}\n--- the file\n{}",
                self.log(),
                self.config()
            );
        }
    }
}

/// Those that have ended have no command line any more.
fn processes_naming(word: &str) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let names_it = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(word)
    };
    pids.filter(names_it).collect()
}

fn stop_or_continue(stop: bool) -> Signal {
    if stop {
        Signal::SIGSTOP
    } else {
        Signal::SIGCONT
    }
}

fn signal(pid: u32, signal: Signal) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
    let _ = nix::sys::signal::kill(pid, signal);
}
