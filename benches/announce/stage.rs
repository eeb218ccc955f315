//! An engine whose ports are published on this machine, so that HAProxy and a client reach its containers (it is the one
//! that `make demo` uses); the agent with its HAProxy; a client that asks all the time.

use crate::wall_clock;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use sidekick_harness::{Etcd, eventually, free_port, millis, secs};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// A request that takes longer has met a dead server: one over loopback takes well under a millisecond.
pub const LATE: Duration = Duration::from_millis(50);

/// Between two requests of the client.
const PAUSE: Duration = Duration::from_millis(1);

const IMAGE: &str = "sidekick-bench/redis";
/// What the agent serves is the service `bench`.
pub const PREFIX: &str = "/services/bench";

/// This machine's name, by which HAProxy reaches what is published on all of its addresses.
pub fn machine() -> String {
    let name = hostname::get().expect("a host name");
    name.into_string().expect("a host name is ASCII")
}

/// `scripts/private-engine`, with its ports on this machine.
pub struct PublishingEngine {
    directory: TempDir,
    /// Ends when its standard input does.
    _script: Child,
}

impl PublishingEngine {
    pub async fn start() -> Self {
        let directory = tempfile::Builder::new()
            .prefix("sidekick-bench")
            .tempdir_in("/var/tmp")
            .expect("a directory");
        let child = Command::new(script("private-engine"))
            .arg(directory.path())
            .arg("shared")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("scripts/private-engine can be started");
        let engine = Self {
            directory,
            _script: child,
        };
        eventually(secs(60), "the engine answers", async || {
            engine.try_docker(&["version"]).await.is_some()
        })
        .await;
        let imported = Command::new(script("import-image"))
            .args([
                IMAGE,
                r#"CMD ["redis-server", "--protected-mode", "no", "--save", ""]"#,
            ])
            .args(["redis-server", "redis-cli"])
            .env("DOCKER_HOST", engine.host())
            .status()
            .await;
        assert!(imported.expect("a shell").success(), "no image");
        engine
    }

    pub fn host(&self) -> String {
        format!("unix://{}/docker.sock", self.directory.path().display())
    }

    pub async fn docker(&self, words: &[&str]) -> String {
        let answer = self.try_docker(words).await;
        answer.unwrap_or_else(|| panic!("docker {} failed", words.join(" ")))
    }

    async fn try_docker(&self, words: &[&str]) -> Option<String> {
        let output = Command::new("docker")
            .args(words)
            .env("DOCKER_HOST", self.host())
            .env("DOCKER_CONFIG", self.directory.path())
            .output()
            .await
            .expect("docker can be started");
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        output.status.success().then_some(text)
    }

    /// A Redis whose key `who` holds its own name.
    pub async fn redis(&self, name: &str) -> Redis {
        self.redis_with(name, &[]).await
    }

    /// The same, with options for `docker run`.
    pub async fn redis_with(&self, name: &str, options: &[&str]) -> Redis {
        let port = free_port();
        let publish = format!("{port}:6379");
        let run = [
            &["run", "-d", "--name", name, "-p", &publish],
            options,
            &[IMAGE],
        ];
        let id = self.docker(&run.concat()).await;
        let redis = Redis {
            id,
            name: name.to_owned(),
            port,
        };
        redis.says_its_name().await;
        redis
    }
}

fn script(name: &str) -> String {
    format!("{}/scripts/{name}", env!("CARGO_MANIFEST_DIR"))
}

pub struct Redis {
    pub id: String,
    pub name: String,
    port: u16,
}

impl Redis {
    pub fn value(&self) -> String {
        format!(r#"{{"host":"{}","port":{}}}"#, machine(), self.port)
    }

    /// Where Redis is up, it is taught its name; it keeps nothing over a restart.
    pub async fn says_its_name(&self) {
        let set = format!("SET who {}\r\n", self.name);
        eventually(secs(20), format!("{} answers", self.name), async || {
            ask(self.port, &set).as_deref() == Some("+OK")
        })
        .await;
    }

    /// Kills its first process; returns the moment at which the kernel says that it is dead.
    pub fn dies(&self) -> Duration {
        let pid = self.first_process();
        let process = pidfd_open(pid, PidfdFlags::empty()).expect("a process that lives");
        kill_process(pid, Signal::KILL).expect("it can be killed");
        // Blocks for the millisecond that a death takes; what the bench listens to comes later.
        let mut dead = [PollFd::new(&process, PollFlags::IN)];
        poll(&mut dead, None).expect("a pidfd tells of a death");
        wall_clock()
    }

    /// Whatever comes for it is dropped, or no longer, in its own network.
    pub fn falls_silent(&self, does: bool) {
        let rule = ["INPUT", "-p", "tcp", "--dport", "6379", "-j", "DROP"];
        let status = std::process::Command::new("nsenter")
            .arg(format!(
                "--net=/proc/{}/ns/net",
                self.first_process().as_raw_nonzero()
            ))
            .args(["iptables", if does { "-A" } else { "-D" }])
            .args(rule)
            .status();
        assert!(status.expect("nsenter").success(), "no rule");
    }

    fn first_process(&self) -> Pid {
        first_process_of(&self.id)
    }
}

/// A container's first process, by this machine's numbers; the engine's are those of its own namespace.
pub fn first_process_of(id: &str) -> Pid {
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let read = |pid: i32, file: &str| {
        std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default()
    };
    let mut firsts = pids.filter(|pid| {
        let is_first = |line: &str| line.starts_with("NSpid:") && line.ends_with("\t1");
        read(*pid, "cgroup").contains(id) && read(*pid, "status").lines().any(is_first)
    });
    firsts
        .next()
        .and_then(Pid::from_raw)
        .expect("the container runs")
}

/// `sidekick agent` with a HAProxy of its own, bound to a port on loopback.
pub struct Agent {
    port: u16,
    directory: TempDir,
    process: std::process::Child,
}

/// A killed agent leaves its HAProxy running, as it promises.
impl Drop for Agent {
    fn drop(&mut self) {
        let pid = i32::try_from(self.process.id())
            .ok()
            .and_then(Pid::from_raw);
        let _ = pid.map(|pid| kill_process(pid, Signal::TERM));
        let _ = self.process.wait();
    }
}

impl Agent {
    pub async fn start(etcd: &Etcd) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let port = free_port();
        let log = std::fs::File::create(directory.path().join("log")).expect("a file");
        let process = std::process::Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "--"])
            // All instances of a row die at once, and none is to be held.
            .args([
                env!("CARGO_BIN_EXE_sidekick"),
                "agent",
                "--stats=off",
                "--hold=0",
            ])
            .args(["--etcd-endpoints", etcd.url()])
            .arg(format!("--bind=bench=127.0.0.1:{port}"))
            .arg("--haproxy-config")
            .arg(directory.path().join("haproxy.cfg"))
            .stderr(log)
            .spawn()
            .expect("sidekick can be started");
        Self {
            port,
            directory,
            process,
        }
    }

    /// The master's socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("haproxy-master.sock")
    }

    /// Waits until requests reach each of these, and no request fails.
    pub async fn serves(&self, names: &[&str]) {
        eventually(secs(30), format!("HAProxy serves {names:?}"), async || {
            let asked: Vec<_> = (0..4 * names.len()).map(|_| who(self.port)).collect();
            let reached = |name: &&str| asked.iter().flatten().any(|who| who == *name);
            asked.iter().all(Option::is_some) && names.iter().all(reached)
        })
        .await;
    }

    /// A client that dials, asks and hangs up, over and over, from now on.
    pub fn client(&self) -> Client {
        let (port, (stop, stopped)) = (self.port, channel::<()>());
        let thread = std::thread::spawn(move || requests(port, &stopped));
        Client { thread, stop }
    }
}

pub struct Client {
    thread: std::thread::JoinHandle<Vec<Request>>,
    stop: std::sync::mpsc::Sender<()>,
}

struct Request {
    begun: Duration,
    who: Option<String>,
    is_lost: bool,
}

/// What clients felt of a death.
pub struct Suffered {
    /// How long after the death the last request began that failed or was late.
    pub last: Duration,
    /// How many failed or were late.
    pub requests: usize,
    /// How many of these failed.
    pub failed: usize,
    /// Requests of all.
    pub of: usize,
    /// Who answered the requests since then, and how long after it each began.
    pub answers: Vec<(Duration, String)>,
}

impl Client {
    /// Ends it at that moment.
    pub async fn ends(self, at: Duration, dead: Duration) -> Suffered {
        eventually(secs(30), "the aftermath is over", async || {
            wall_clock() >= at
        })
        .await;
        drop(self.stop);
        let requests = self.thread.join().expect("the client goes on");
        let since = || requests.iter().filter(|it| it.begun >= dead);
        let lost = since().filter(|it| it.is_lost);
        let answers = since().filter_map(|it| Some((it.begun - dead, it.who.clone()?)));
        Suffered {
            of: requests.len(),
            answers: answers.collect(),
            last: lost
                .clone()
                .map(|it| it.begun - dead)
                .max()
                .unwrap_or_default(),
            failed: lost.clone().filter(|it| it.who.is_none()).count(),
            requests: lost.count(),
        }
    }
}

fn requests(port: u16, stopped: &Receiver<()>) -> Vec<Request> {
    use std::sync::mpsc::RecvTimeoutError::Timeout;
    let mut all = Vec::new();
    while stopped.recv_timeout(PAUSE) == Err(Timeout) {
        let (begun, clock) = (wall_clock(), Instant::now());
        let who = who(port);
        let is_lost = who.is_none() || clock.elapsed() > LATE;
        all.push(Request {
            begun,
            who,
            is_lost,
        });
    }
    all
}

/// Which Redis answers.
fn who(port: u16) -> Option<String> {
    let answer = ask(port, "GET who\r\n")?;
    (!answer.is_empty() && !answer.starts_with('-')).then_some(answer)
}

/// One request on a connection of its own: the answer's first line, or what a bulk string holds.
fn ask(port: u16, request: &str) -> Option<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    stream.set_read_timeout(Some(millis(2_000))).ok()?;
    stream.write_all(request.as_bytes()).ok()?;
    let (mut answer, mut piece) = (String::new(), [0; 256]);
    while !answer.ends_with("\r\n")
        || (answer.starts_with('$') && answer.matches("\r\n").count() < 2)
    {
        let n = stream.read(&mut piece).ok().filter(|n| *n > 0)?;
        answer.push_str(std::str::from_utf8(&piece[..n]).ok()?);
    }
    let line = if answer.starts_with('$') {
        answer.lines().nth(1)
    } else {
        answer.lines().next()
    };
    line.map(str::to_owned)
}
