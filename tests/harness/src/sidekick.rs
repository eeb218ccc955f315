//! The program under test.

use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::container::Container;
use super::engine::Engine;
use super::etcd::{Etcd, Login};
use super::init::children;
use super::notify::Notifications;
use super::unread::full_pipe;
use super::wait::{SOON, blocking, eventually, never_for, secs};

/// A running `sidekick announce`; killed when dropped, and with its test in any case.
pub struct Sidekick {
    child: Child,
    /// The child is nsenter, which goes on running, and whose child is sidekick.
    is_entered: bool,
    log: Arc<Mutex<Vec<String>>>,
    /// A full pipe that nothing reads yet.
    unread: Option<PipeReader>,
    /// The other end of its log, to fill it up; and whether the log is read.
    writer: Option<PipeWriter>,
    reads: Arc<AtomicBool>,
    notifications: Option<Notifications>,
    /// Whose directory is to be there as long as the process.
    _user: Option<Unprivileged>,
}

const NO_SYSTEMD: &str = "this sidekick was not started with a NOTIFY_SOCKET";

/// A command line in the making.
pub struct Announce {
    words: Vec<String>,
    surroundings: Vec<String>,
    environment: Vec<(String, String)>,
    notify: Option<fn() -> Notifications>,
    log_unread: bool,
    user: Option<Unprivileged>,
}

/// A user without any right but those of one group.
struct Unprivileged {
    group: u32,
    /// With a copy of the program, for the build's directory may be closed to others.
    directory: tempfile::TempDir,
}

/// What `sidekick explain` had to say.
pub struct Explained {
    /// Its exit status.
    pub code: Option<i32>,
    /// What it printed on stdout.
    pub text: String,
    /// What it printed on stderr.
    pub log: String,
}

impl Sidekick {
    /// `sidekick announce CONTAINER --key KEY …`
    pub fn announce(container: &str, key: &str) -> Announce {
        Announce::of(&["announce", container, "--key", key])
    }

    /// `sidekick announce --all …`
    pub fn announce_all() -> Announce {
        Announce::of(&["announce", "--all"])
    }

    /// `sidekick explain --all …`
    pub fn explain_all() -> Announce {
        Announce::of(&["explain", "--all"])
    }

    /// `sidekick explain CONTAINER …`
    pub fn explain(container: &str) -> Announce {
        Announce::of(&["explain", container])
    }

    /// `sidekick drain SERVICE/INSTANCE …`
    pub fn drain(instance: &str) -> Announce {
        Announce::of(&["drain", instance])
    }

    /// `sidekick undrain SERVICE/INSTANCE …`
    pub fn undrain(instance: &str) -> Announce {
        Announce::of(&["undrain", instance])
    }

    /// `sidekick wait SERVICE[/INSTANCE] …`
    pub fn wait(target: &str) -> Announce {
        Announce::of(&["wait", target])
    }

    /// `sidekick list …`
    pub fn list() -> Announce {
        Announce::of(&["list"])
    }

    /// `sidekick export --format FORMAT …`
    pub fn export(format: &str) -> Announce {
        Announce::of(&["export", "--format", format])
    }

    /// `sidekick doctor JOB -o json …`
    pub fn doctor(job: &str) -> Announce {
        Announce::of(&["doctor", job, "-o", "json"])
    }

    /// `sidekick agent …`
    pub fn agent() -> Announce {
        Announce::of(&["agent"])
    }

    /// A file of its own in /proc.
    pub fn proc(&self, file: &str) -> Vec<u8> {
        let path = format!("/proc/{}/{file}", self.pid());
        std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// SIGTERM.
    pub fn term(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// SIGINT.
    pub fn int(&self) {
        self.signal(Signal::SIGINT);
    }

    /// SIGHUP.
    pub fn hang_up(&self) {
        self.signal(Signal::SIGHUP);
    }

    /// SIGUSR1.
    pub fn hand_over(&self) {
        self.signal(Signal::SIGUSR1);
    }

    /// SIGKILL, and waits until it is gone.
    pub async fn kill9(&mut self) {
        self.signal(Signal::SIGKILL);
        let status = self.wait_exit(SOON).await;
        assert_eq!(
            status.signal(),
            Some(9),
            "sidekick has ended before it was killed"
        );
    }

    /// SIGSTOP: it neither looks nor renews.
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
        // It takes effect a moment later; this waits for that, and reaps nothing.
        let stopped = waitpid(nix_pid(self.child.id()), Some(WaitPidFlag::WUNTRACED));
        assert!(
            matches!(stopped, Ok(WaitStatus::Stopped(..))),
            "sidekick does not stop: {stopped:?}"
        );
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        // nsenter has its child go on.
        kill(nix_pid(self.child.id()), Signal::SIGCONT).expect("sidekick cannot be signalled");
    }

    /// Waits until it has exited.
    pub async fn wait_exit(&mut self, deadline: Duration) -> ExitStatus {
        let child = &mut self.child;
        eventually(deadline, "sidekick exits", async || {
            child.try_wait().expect("sidekick cannot be waited for")
        })
        .await
    }

    /// SIGTERM, then waits for exit status 0; returns how long that took.
    pub async fn leaves(&mut self) -> Duration {
        let start = Instant::now();
        self.term();
        let status = self.wait_exit(SOON).await;
        assert_eq!(status.code(), Some(0), "sidekick was asked to stop");
        start.elapsed()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        let child = self.child.id();
        if !self.is_entered {
            return child;
        }
        blocking::eventually(SOON, "nsenter has forked", || {
            children(child).first().copied()
        })
    }

    /// Whether it runs.
    pub fn is_up(&mut self) -> bool {
        self.child
            .try_wait()
            .expect("sidekick cannot be waited for")
            .is_none()
    }

    /// Makes sure that it neither exits nor writes to this etcd throughout `duration`.
    #[track_caller]
    pub fn waits(&mut self, etcd: &Etcd, duration: Duration) -> impl Future<Output = ()> {
        never_for(duration, "sidekick exits or writes", async move || {
            !self.is_up() || !etcd.keys().await.is_empty()
        })
    }

    /// From now on its log is full, and nothing reads it.
    pub fn stop_reading_log(&self) {
        self.reads.store(false, Ordering::Relaxed);
        let writer = self
            .writer
            .as_ref()
            .expect("this log has been read until now");
        let mut writer = writer.try_clone().expect("a pipe can be shared");
        // Blocks as soon as the pipe is full, until it is read again.
        std::thread::spawn(move || writer.write_all(&[b'\n'; 2 << 20]));
    }

    /// From now on its log is read again.
    pub fn go_on_reading_log(&self) {
        self.reads.store(true, Ordering::Relaxed);
    }

    /// From now on its log is read.
    pub fn read_log(&mut self) {
        let stderr = self.unread.take().expect("this log is read already");
        collect(stderr, &self.log, &self.reads);
    }

    /// Closes a log that is not read.
    pub fn close_log(&mut self) {
        drop(self.unread.take().expect("this log is read already"));
    }

    /// Its log lines so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().expect("the log's reader panicked").clone()
    }

    /// How many of its log lines hold these words.
    pub fn times_logged(&self, words: &str) -> usize {
        self.log()
            .iter()
            .filter(|line| line.contains(words))
            .count()
    }

    /// Fails the test where a log line so far holds these words.
    #[track_caller]
    pub fn never_logs(&self, words: &str) {
        self.logged_times(words, 0);
    }

    /// Fails the test unless so many log lines so far hold these words.
    #[track_caller]
    pub fn logged_times(&self, words: &str, times: usize) {
        let found = self.times_logged(words);
        assert_eq!(found, times, "lines with {words:?}: {:#?}", self.log());
    }

    /// Waits until a log line holds these words. More than [`SOON`]: before its first line sidekick asks for
    /// `/version` and `/info`, each of which Podman takes up to two seconds to answer where the machine is busy.
    #[track_caller]
    pub fn logs(&self, words: &str) -> impl Future<Output = ()> {
        let what = format!("sidekick logs {words:?}");
        eventually(secs(15), what, async move || {
            match self.times_logged(words) {
                0 => Err(self.log().join("\n")),
                _ => Ok(()),
            }
        })
    }

    /// From now on systemd reads what it is told.
    pub fn systemd_listens(&mut self) {
        let notifications = self.notifications.as_mut();
        notifications.expect(NO_SYSTEMD).read();
    }

    /// What it has told systemd.
    pub fn notifications(&self) -> &Notifications {
        self.notifications.as_ref().expect(NO_SYSTEMD)
    }

    /// Waits until the last status that systemd was told is one that `is` accepts; returns it.
    #[track_caller]
    pub fn status(&self, what: &str, is: impl Fn(&str) -> bool) -> impl Future<Output = String> {
        self.notifications().status(what, is)
    }

    fn signal(&self, signal: Signal) {
        // The child is not waited for before it is dropped, so the pid is its own to the end. (nsenter ends as its child
        // has ended, and stops when that is stopped.)
        kill(nix_pid(self.pid()), signal).expect("sidekick cannot be signalled");
    }
}

impl Drop for Sidekick {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.reads.store(true, Ordering::Relaxed);
        if std::thread::panicking() {
            println!("sidekick's log:\n{}\n", self.log().join("\n"));
        }
    }
}

impl Announce {
    /// Looks at this etcd.
    pub fn etcd(self, etcd: &Etcd) -> Announce {
        self.endpoints(&[etcd.url()])
    }

    /// Looks at these etcd members, the first of them first.
    pub fn endpoints(self, urls: &[&str]) -> Announce {
        self.option("--etcd-endpoints", &urls.join(","))
    }

    /// Looks at this engine.
    pub fn docker(self, engine: &Engine) -> Announce {
        self.option("--docker-host", &engine.host())
    }

    /// `--host`
    pub fn host(self, host: &str) -> Announce {
        self.option("--host", host)
    }

    /// `--port`
    pub fn port(self, port: &str) -> Announce {
        self.option("--port", port)
    }

    /// `--ttl` and `--interval`, in seconds; the defaults of 60 and 45 are too long for anything to be a timer's work.
    pub fn times(self, ttl: u32, interval: u32) -> Announce {
        self.option("--ttl", &format!("{ttl}s"))
            .option("--interval", &format!("{interval}s"))
    }

    /// Any option; of two by the same name the later one counts.
    pub fn option(mut self, name: &str, value: &str) -> Announce {
        match self.words.iter().position(|word| word == name) {
            Some(at) => self.words[at + 1] = value.to_owned(),
            None => self.words.extend([name.to_owned(), value.to_owned()]),
        }
        self
    }

    /// An option whose value is a path.
    pub fn file(self, name: &str, path: &Path) -> Announce {
        self.option(name, path.to_str().expect("the path is UTF-8"))
    }

    /// The name and the password of [`Login`], in etcdctl's variables.
    pub fn login(self) -> Announce {
        self.environment("ETCDCTL_USER", Login::NAME)
            .environment("ETCDCTL_PASSWORD", Login::PASSWORD)
    }

    /// Any option without a value.
    pub fn flag(mut self, name: &str) -> Announce {
        self.words.push(name.to_owned());
        self
    }

    /// An environment variable.
    pub fn environment(mut self, name: &str, value: &str) -> Announce {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// By way of a command that prepares surroundings and then executes the command appended to it.
    pub fn within(mut self, surroundings: &[String]) -> Announce {
        self.surroundings = surroundings.to_vec();
        self
    }

    /// As the user nobody (65534), without any capability, and in no group but this.
    pub fn unprivileged_in(mut self, group: u32) -> Announce {
        let directory = tempfile::tempdir().expect("no temporary directory can be made");
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(directory.path(), open).expect("it is ours");
        install_program(&binary(), &directory.path().join("sidekick"));
        self.user = Some(Unprivileged { group, directory });
        self
    }

    /// With a NOTIFY_SOCKET.
    pub fn under_systemd(mut self) -> Announce {
        self.notify = Some(Notifications::listen);
        self
    }

    /// With a NOTIFY_SOCKET that is full, and that nothing reads yet.
    pub fn under_deaf_systemd(mut self) -> Announce {
        self.notify = Some(Notifications::unread);
        self
    }

    /// With a stderr that is a full pipe, and that nothing reads yet.
    pub fn log_unread(mut self) -> Announce {
        self.log_unread = true;
        self
    }

    /// Starts it; it goes on until it is told to stop.
    pub fn spawn(self) -> Sidekick {
        let notifications = self.notify.map(|begin| begin());
        let mut command = self.command();
        if let Some(notifications) = &notifications {
            command.env("NOTIFY_SOCKET", notifications.path());
        }
        let (log, reads) = (Arc::default(), Arc::new(AtomicBool::new(true)));
        let pipe = || std::io::pipe().expect("no pipe can be made");
        let (reader, stderr) = if self.log_unread { full_pipe() } else { pipe() };
        let (unread, writer) = if self.log_unread {
            (Some(reader), None)
        } else {
            collect(reader, &log, &reads);
            (
                None,
                Some(stderr.try_clone().expect("a pipe can be shared")),
            )
        };
        let child = command
            .stderr(stderr)
            .spawn()
            .expect("sidekick cannot be started");
        let first = self.surroundings.first().map(Path::new);
        let is_entered = first.is_some_and(|program| program.ends_with("nsenter"));
        Sidekick {
            child,
            is_entered,
            log,
            unread,
            writer,
            reads,
            notifications,
            _user: self.user,
        }
    }

    /// Runs it to its end, which must come soon.
    pub async fn run(self) -> Explained {
        let mut command = tokio::process::Command::from(self.command());
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let done = tokio::time::timeout(2 * SOON, command.output()).await;
        let Output {
            status,
            stdout,
            stderr,
        } = done
            .expect("explain comes to no end")
            .expect("sidekick cannot be started");
        let [text, log] = [stdout, stderr].map(|it| String::from_utf8_lossy(&it).into_owned());
        println!("explain: {status}\n{text}\n{log}");
        Explained {
            code: status.code(),
            text,
            log,
        }
    }

    fn of(words: &[&str]) -> Announce {
        let words = words.iter().map(|&word| word.to_owned()).collect();
        Announce {
            words,
            surroundings: Vec::new(),
            environment: Vec::new(),
            notify: None,
            log_unread: false,
            user: None,
        }
    }

    /// Whether this environment variable is given.
    pub(super) fn sets(&self, name: &str) -> bool {
        self.environment.iter().any(|(given, _)| given == name)
    }

    pub(super) fn command(&self) -> Command {
        // The kernel kills it with the thread that started it, which is the test's own.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        match &self.user {
            None => command.arg("--").args(&self.surroundings).arg(binary()),
            Some(user) => command
                .args(["--reuid=65534", "--regid=65534", "--no-new-privs"])
                .args(["--inh-caps=-all", "--bounding-set=-all"])
                .args([format!("--groups={}", user.group), "--".to_owned()])
                .arg(user.directory.path().join("sidekick")),
        };
        command
            .args(&self.words)
            // Nothing of etcd's, Docker's, systemd's or sidekick's variables gets in from outside.
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("RUST_BACKTRACE", "1")
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    }
}

/// The program under test, of the same build as the test or bench that runs: cargo (1.94 and later) says where it is;
/// before that it lies in `target/debug` or `target/release`, with the test in `deps` beside it.
pub fn binary() -> PathBuf {
    let said = std::env::var_os("CARGO_BIN_EXE_sidekick").map(PathBuf::from);
    said.unwrap_or_else(|| {
        let test = std::env::current_exe().expect("this program has a path");
        let build = test.ancestors().nth(2).expect("it is in target/debug/deps");
        build.join("sidekick")
    })
}

/// Copies a program to where it is executed. By another process: one that another test starts inherits the file while this
/// one has it open for writing, and for that long the kernel executes it for none (ETXTBSY, execve(2)).
pub fn install_program(source: &Path, target: &Path) {
    let mut install = Command::new("install");
    let installed = install.args(["--mode=755", "--"]).args([source, target]);
    let status = installed.status().expect("install can be started");
    assert!(status.success(), "{} is not installed", target.display());
}

fn nix_pid(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).expect("a pid is small"))
}

/// So that a container can stand where its name is wanted.
impl AsRef<str> for Container<'_> {
    fn as_ref(&self) -> &str {
        self.name()
    }
}

fn collect(stderr: PipeReader, log: &Arc<Mutex<Vec<String>>>, reads: &Arc<AtomicBool>) {
    let (lines, reads) = (Arc::clone(log), Arc::clone(reads));
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            while !reads.load(Ordering::Relaxed) {
                std::thread::sleep(super::wait::millis(10));
            }
            if line.is_empty() {
                continue;
            }
            lines
                .lock()
                .expect("a reader of the log panicked")
                .push(line);
        }
    });
}
