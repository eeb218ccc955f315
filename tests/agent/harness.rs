//! An etcd, a HAProxy, an agent and backends of a test's own. Everything ends with the test.

use etcd_client::Client;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

/// More than enough for anything that takes milliseconds.
pub const SOON: Duration = Duration::from_secs(15);

/// A moment in which nothing is to happen.
pub const A_WHILE: Duration = Duration::from_millis(700);

pub const HAPROXY: &str = "/usr/sbin/haproxy";

/// Waits for a condition.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !holds().await {
        assert!(Instant::now() < end, "not within {SOON:?}: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// Makes sure that a condition holds, and goes on holding for [`A_WHILE`].
pub async fn throughout(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + A_WHILE;
    while Instant::now() < end {
        assert!(holds().await, "no longer: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until both are equal.
pub async fn becomes<T: PartialEq + Debug>(
    what: &str,
    expected: T,
    mut get: impl AsyncFnMut() -> T,
) {
    let end = Instant::now() + SOON;
    loop {
        let got = get().await;
        if got == expected {
            return;
        }
        assert!(
            Instant::now() < end,
            "{what}: {got:?} is not {expected:?} within {SOON:?}"
        );
        sleep(Duration::from_millis(10)).await;
    }
}

/// A port that nobody listens on.
pub fn free_port() -> u16 {
    let socket = std::net::TcpListener::bind("[::]:0").unwrap();
    socket.local_addr().unwrap().port()
}

/// This machine as an announcer would name it: loopback isn't announced.
pub fn host() -> String {
    hostname::get().unwrap().into_string().unwrap()
}

pub struct Etcd {
    url: String,
    peer: String,
    data: TempDir,
    process: Child,
}

impl Etcd {
    pub async fn start() -> Etcd {
        let data = tempfile::tempdir().unwrap();
        let url = format!("http://127.0.0.1:{}", free_port());
        let peer = format!("http://127.0.0.1:{}", free_port());
        let process = Etcd::launch(&url, &peer, data.path());
        let etcd = Etcd {
            url,
            peer,
            data,
            process,
        };
        etcd.answers().await;
        etcd
    }

    fn launch(url: &str, peer: &str, data: &Path) -> Child {
        let mut etcd = Command::new("etcd");
        etcd.arg("--data-dir").arg(data);
        for (option, value) in [
            ("--listen-client-urls", url),
            ("--advertise-client-urls", url),
            ("--listen-peer-urls", peer),
            ("--initial-advertise-peer-urls", peer),
            ("--initial-cluster", &format!("default={peer}")),
            ("--log-level", "error"),
        ] {
            etcd.args([option, value]);
        }
        let etcd = etcd
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        etcd.expect("etcd can't be started; is it installed?")
    }

    async fn answers(&self) {
        eventually("etcd answers", async || {
            let ask = async {
                Client::connect([&self.url], None)
                    .await
                    .ok()?
                    .get("x", None)
                    .await
                    .ok()
            };
            timeout(Duration::from_secs(1), ask)
                .await
                .is_ok_and(|answer| answer.is_some())
        })
        .await;
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub async fn client(&self) -> Client {
        Client::connect([&self.url], None).await.unwrap()
    }

    pub async fn put(&self, key: &str, value: &str) {
        self.client().await.put(key, value, None).await.unwrap();
    }

    pub async fn delete(&self, key: &str) {
        self.client().await.delete(key, None).await.unwrap();
    }

    pub async fn kill(&mut self) {
        self.process.kill().await.unwrap();
    }

    pub async fn start_again(&mut self) {
        self.process = Etcd::launch(&self.url, &self.peer, self.data.path());
        self.answers().await;
    }

    /// Another cluster at the same address, as after a restore that went wrong.
    pub async fn start_empty(&mut self) {
        self.data = tempfile::tempdir().unwrap();
        self.start_again().await;
    }
}

/// Says its name to whoever connects, then echoes.
pub struct Backend {
    pub port: u16,
    task: tokio::task::JoinHandle<()>,
}

impl Backend {
    pub async fn start(name: &'static str) -> Backend {
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let _ = stream.write_all(format!("{name}\n").as_bytes()).await;
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        Backend { port, task }
    }

    pub fn value(&self) -> String {
        format!(r#"{{"host":"{}","port":{}}}"#, host(), self.port)
    }

    pub fn draining(&self) -> String {
        format!(
            r#"{{"host":"{}","port":{},"status":"draining"}}"#,
            host(),
            self.port
        )
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A client's connection through HAProxy.
pub struct Connection(BufReader<TcpStream>);

impl Connection {
    /// The connection, and who answered; `None` if it was refused.
    pub async fn dial(port: u16) -> Option<(Connection, String)> {
        let dial = async {
            let stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
            let mut stream = BufReader::new(stream);
            let mut name = String::new();
            stream.read_line(&mut name).await.ok().filter(|n| *n > 0)?;
            Some((Connection(stream), name.trim().to_owned()))
        };
        timeout(Duration::from_secs(8), dial)
            .await
            .expect("a front that neither serves nor refuses")
    }

    /// Whether it still carries.
    pub async fn lives(&mut self) -> bool {
        let echo = async {
            self.0.get_mut().write_all(b"ping\n").await.ok()?;
            let mut line = String::new();
            self.0.read_line(&mut line).await.ok()?;
            (line == "ping\n").then_some(())
        };
        timeout(Duration::from_secs(5), echo)
            .await
            .is_ok_and(|echo| echo.is_some())
    }
}

#[derive(Clone, Copy, PartialEq)]
pub enum Way {
    Supervised,
    Attached,
}

/// An agent with its etcd and its HAProxy.
pub struct Scene {
    pub etcd: Etcd,
    pub dir: TempDir,
    pub port: u16,
    way: Way,
    arguments: Vec<String>,
    agent: Option<Child>,
    haproxy: Option<Child>,
}

impl Scene {
    /// `redis` is bound to `port`; nothing runs yet but etcd.
    pub async fn new(way: Way, arguments: &[&str]) -> Scene {
        let etcd = Etcd::start().await;
        let dir = tempfile::tempdir().unwrap();
        let arguments = arguments.iter().map(|&a| a.to_owned()).collect();
        Scene {
            etcd,
            dir,
            port: free_port(),
            way,
            arguments,
            agent: None,
            haproxy: None,
        }
    }

    /// With the agent, and HAProxy in the way asked for.
    pub async fn start(way: Way, arguments: &[&str]) -> Scene {
        let mut scene = Scene::new(way, arguments).await;
        if way == Way::Attached {
            let times = "    timeout connect 1s\n    timeout client 1s\n    timeout server 1s\n";
            let text = format!(
                "defaults\n    mode tcp\n{times}listen somebodys\n    bind unix@{}/somebodys\n",
                scene.dir.path().display()
            );
            std::fs::write(scene.file(), text).unwrap();
            scene.start_haproxy().await;
        }
        scene.start_agent();
        scene
    }

    pub fn file(&self) -> PathBuf {
        self.dir.path().join("haproxy.cfg")
    }

    pub fn config(&self) -> String {
        std::fs::read_to_string(self.file()).unwrap_or_default()
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("haproxy-master.sock")
    }

    /// As Debian's haproxy.service does.
    pub async fn start_haproxy(&mut self) {
        let mut haproxy = Command::new(HAPROXY);
        haproxy
            .arg("-Ws")
            .arg("-f")
            .arg(self.file())
            .arg("-S")
            .arg(self.socket());
        let haproxy = haproxy.stderr(Stdio::null()).kill_on_drop(true).spawn();
        self.haproxy = Some(haproxy.expect("haproxy can't be started; is it installed?"));
        eventually("HAProxy answers", async || {
            self.master("show proc").await.contains("worker")
        })
        .await;
    }

    pub fn command(&self, job: &str) -> Command {
        let mut sidekick = Command::new(env!("CARGO_BIN_EXE_sidekick"));
        sidekick
            .arg(job)
            .args(["--etcd-endpoints", self.etcd.url()])
            .kill_on_drop(true);
        sidekick
    }

    pub fn start_agent(&mut self) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join("log"))
            .unwrap();
        let mut agent = self.command("agent");
        agent
            .arg("--haproxy-config")
            .arg(self.file())
            .arg(format!("--bind=redis=:{}", self.port));
        agent
            .args(["--stats=off", "--haproxy", HAPROXY])
            .args(&self.arguments);
        if self.way == Way::Attached {
            agent.arg("--haproxy-master").arg(self.socket());
        }
        self.agent = Some(agent.stderr(log).spawn().unwrap());
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// The agent's process id.
    pub fn agent_pid(&self) -> u32 {
        self.agent.as_ref().unwrap().id().unwrap()
    }

    /// SIGKILL, and nothing else.
    pub async fn kill_agent(&mut self) {
        self.agent.as_mut().unwrap().kill().await.unwrap();
    }

    /// SIGTERM; returns the exit status.
    pub async fn stop_agent(&mut self) -> Option<i32> {
        signal(self.agent_pid(), nix::sys::signal::Signal::SIGTERM);
        timeout(SOON, self.agent.as_mut().unwrap().wait())
            .await
            .expect("the agent doesn't stop")
            .unwrap()
            .code()
    }

    /// The exit status of an agent that ends by itself.
    pub async fn agent_ends(&mut self) -> Option<i32> {
        timeout(SOON, self.agent.as_mut().unwrap().wait())
            .await
            .expect("the agent goes on")
            .unwrap()
            .code()
    }

    pub async fn put(&self, service: &str, instance: &str, value: &str) {
        self.etcd
            .put(&format!("/services/{service}/{instance}"), value)
            .await;
    }

    pub async fn delete(&self, service: &str, instance: &str) {
        self.etcd
            .delete(&format!("/services/{service}/{instance}"))
            .await;
    }

    /// One line at the master's socket; empty if nobody answers.
    pub async fn master(&self, line: &str) -> String {
        let ask = async {
            let mut stream = UnixStream::connect(self.socket()).await.ok()?;
            stream
                .write_all(format!("{line}\n").as_bytes())
                .await
                .ok()?;
            stream.shutdown().await.ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.ok()?;
            Some(answer)
        };
        timeout(Duration::from_secs(2), ask)
            .await
            .ok()
            .flatten()
            .unwrap_or_default()
    }

    /// `backend/server` → port, and `drain` or `maint` if it is.
    pub async fn servers(&self) -> BTreeMap<String, String> {
        let text = self.master("@1 show servers state").await;
        let rows = text
            .lines()
            .skip(2)
            .map(|line| line.split(' ').collect::<Vec<_>>());
        let servers = rows.filter(|row| row.len() > 18).map(|row| {
            let admin = match row[6] {
                "0" => "",
                "8" => " drain",
                _ => " maint",
            };
            (
                format!("{}/{}", row[1], row[3]),
                format!("{}{admin}", row[18]),
            )
        });
        servers.collect()
    }

    pub async fn serves(&self, expected: &[(&str, String)]) {
        let expected: BTreeMap<_, _> = expected
            .iter()
            .map(|(k, v)| ((*k).to_owned(), v.clone()))
            .collect();
        becomes("HAProxy's servers", expected.clone(), async || {
            self.servers().await
        })
        .await;
        // And the file says the same, names and ports and who drains.
        becomes("the file's servers", expected, async || {
            let (mut backend, mut servers) = (String::new(), BTreeMap::new());
            for line in self.config().lines() {
                let words: Vec<_> = line.split_whitespace().collect();
                match words.as_slice() {
                    ["listen", name] => backend = (*name).to_owned(),
                    ["server", name, address, rest @ ..] => {
                        let port = address.rsplit(':').next().unwrap();
                        let drain = if rest.contains(&"weight") {
                            " drain"
                        } else {
                            ""
                        };
                        servers.insert(format!("{backend}/{name}"), format!("{port}{drain}"));
                    }
                    _ => {}
                }
            }
            servers
        })
        .await;
        self.file_boots().await;
    }

    pub async fn file_boots(&self) {
        let check = Command::new(HAPROXY)
            .arg("-c")
            .arg("-f")
            .arg(self.file())
            .output()
            .await
            .unwrap();
        assert!(
            check.status.success(),
            "{}",
            String::from_utf8_lossy(&check.stderr)
        );
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
        self.column("master", 2).await.expect("no master answers")
    }

    pub async fn master_pid(&self) -> u32 {
        self.column("master", 0).await.expect("no master answers")
    }

    /// SIGKILL to HAProxy's master.
    pub async fn kill_haproxy(&mut self) {
        match &mut self.haproxy {
            Some(haproxy) => haproxy.kill().await.unwrap(),
            None => signal(self.master_pid().await, nix::sys::signal::Signal::SIGKILL),
        }
    }
}

impl Drop for Scene {
    /// A supervised HAProxy outlives an agent that was killed; it must not outlive the test.
    fn drop(&mut self) {
        use std::io::{Read, Write};
        let agent = self.agent.take().and_then(|mut agent| {
            agent.start_kill().ok()?;
            Some(agent)
        });
        let ask = || -> std::io::Result<String> {
            let mut stream = std::os::unix::net::UnixStream::connect(self.socket())?;
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            stream.write_all(b"show proc\n")?;
            let mut answer = [0; 4096];
            let n = stream.read(&mut answer)?;
            Ok(String::from_utf8_lossy(&answer[..n]).into_owned())
        };
        // While it starts or reloads it doesn't answer; one that is gone has no socket that does.
        for _ in 0..40 {
            let text = ask().unwrap_or_default();
            let master = text.lines().find(|line| line.contains("master"));
            let pid = master.and_then(|line| line.split_whitespace().next()?.parse().ok());
            if let Some(pid) = pid {
                end(pid);
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
            if !self.socket().exists() || agent.is_none() {
                break;
            }
        }
        drop(agent);
        if std::thread::panicking() {
            eprintln!(
                "--- the agent's log\n{}\n--- the file\n{}",
                self.log(),
                self.config()
            );
        }
    }
}

/// A master that is just starting anew may not hear a SIGTERM. Its workers end with it.
fn end(pid: u32) {
    use nix::sys::signal::{Signal, kill};
    let target = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
    signal(pid, Signal::SIGTERM);
    for _ in 0..40 {
        std::thread::sleep(Duration::from_millis(25));
        // Gone, or a child of ours that waits to be reaped.
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if kill(target, None).is_err() || stat.contains(") Z") {
            return;
        }
    }
    signal(pid, Signal::SIGKILL);
}

pub fn signal(pid: u32, signal: nix::sys::signal::Signal) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
    let _ = nix::sys::signal::kill(pid, signal);
}
