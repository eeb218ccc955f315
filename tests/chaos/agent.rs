//! The agent and its HAProxy.

use crate::watchers::ask;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sidekick_harness::{Login, eventually, secs};
use std::fs::{File, Permissions as Mode};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// A running `sidekick agent` that runs a HAProxy; both end with this.
pub struct Agent {
    directory: TempDir,
    words: Vec<String>,
    child: Child,
}

impl Agent {
    /// Starts it, with these listeners and members. No instance is held: what leaves etcd drains, as is usual.
    pub fn start(
        listeners: &[(&str, u16)],
        members: &str,
        password: &Path,
        surroundings: Vec<String>,
    ) -> Agent {
        let directory = tempfile::tempdir().expect("no temporary directory can be made");
        let mut words = surroundings;
        words.extend([env!("CARGO_BIN_EXE_sidekick"), "agent"].map(str::to_owned));
        words.extend(["--stats=off", "--hold=0"].map(str::to_owned));
        words.push(format!("--etcd-endpoints={members}"));
        words.push(format!("--etcd-user={}", Login::NAME));
        words.push(format!("--etcd-password-file={}", password.display()));
        words.push(format!("--haproxy={}", unfaked(&directory).display()));
        let binds = listeners.iter();
        words.extend(binds.map(|(name, port)| format!("--bind={name}=:{port}")));
        let file = directory.path().join("haproxy.cfg");
        words.push(format!("--haproxy-config={}", file.display()));
        let child = launch(&words, &directory);
        Agent {
            directory,
            words,
            child,
        }
    }

    /// Starts it again after a kill.
    pub fn start_again(&mut self) {
        self.child = launch(&self.words, &self.directory);
    }

    /// SIGKILL, STOP or CONT to the agent.
    pub fn signal(&mut self, signal: Signal) {
        let _ = kill(pid(self.child.id()), signal);
        if signal == Signal::SIGKILL {
            let _ = self.child.wait();
        }
    }

    /// SIGTERM, and waits until it has exited, which it must do well.
    pub async fn leaves(&mut self) {
        self.signal(Signal::SIGTERM);
        let child = &mut self.child;
        let status = eventually(secs(10), "the agent exits", async || {
            child.try_wait().expect("the agent can be waited for")
        });
        assert_eq!(status.await.code(), Some(0), "the agent was asked to stop");
    }

    /// The configuration's file.
    pub fn file(&self) -> PathBuf {
        self.directory.path().join("haproxy.cfg")
    }

    /// The master's socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("haproxy-master.sock")
    }

    /// The agent's log so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// The pids of HAProxy's master and workers, the master first; none where it doesn't answer.
    pub async fn haproxy(&self) -> Vec<u32> {
        let text = ask(&self.socket(), "show proc").await.unwrap_or_default();
        let rows = text.lines().filter(|line| !line.starts_with('#'));
        rows.filter_map(|line| line.split_whitespace().next()?.parse().ok())
            .collect()
    }

    /// A signal to processes of HAProxy.
    pub fn signal_haproxy(pids: &[u32], signal: Signal) {
        for process in pids {
            let _ = kill(pid(*process), signal);
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        // The supervisor first, or it would start HAProxy again.
        self.signal(Signal::SIGCONT);
        self.signal(Signal::SIGTERM);
        for _ in 0..400 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(25));
        }
        let _ = self.child.kill();
    }
}

fn pid(process: u32) -> Pid {
    Pid::from_raw(i32::try_from(process).expect("a pid is small"))
}

/// A HAProxy without the agent's clock, which is the agent's alone.
fn unfaked(directory: &TempDir) -> PathBuf {
    let path = directory.path().join("haproxy");
    let script = "#!/bin/sh\nunset LD_PRELOAD\nexec /usr/sbin/haproxy \"$@\"\n";
    let written = std::fs::write(&path, script);
    let runs = written.and_then(|()| std::fs::set_permissions(&path, Mode::from_mode(0o755)));
    runs.expect("no script can be written");
    path
}

fn launch(words: &[String], directory: &TempDir) -> Child {
    let log = File::options()
        .create(true)
        .append(true)
        .open(directory.path().join("log"))
        .expect("no log can be made");
    // The kernel kills it with the thread that started it, which is the run's own.
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--"])
        .args(words)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("sidekick cannot be started")
}
