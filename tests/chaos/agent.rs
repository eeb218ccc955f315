//! The agent and its HAProxy.

use crate::watchers::ask;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// A running `sidekick agent` that runs a HAProxy; both end with this.
pub struct Agent {
    directory: TempDir,
    arguments: Vec<String>,
    child: Child,
}

impl Agent {
    /// Starts it, with these fronts and members. Nobody is held: what leaves etcd leaves HAProxy.
    pub fn start(fronts: &[(&str, u16)], members: &str) -> Agent {
        let directory = tempfile::tempdir().expect("no temporary directory can be made");
        let mut arguments: Vec<String> = ["agent", "--stats=off", "--hold=0"]
            .map(str::to_owned)
            .into();
        arguments.push(format!("--etcd-endpoints={members}"));
        arguments.extend(
            fronts
                .iter()
                .map(|(name, port)| format!("--bind={name}=:{port}")),
        );
        let file = directory.path().join("haproxy.cfg");
        arguments.push(format!("--haproxy-config={}", file.display()));
        let child = launch(&arguments, &directory);
        Agent {
            directory,
            arguments,
            child,
        }
    }

    /// Starts it again after a kill.
    pub fn start_again(&mut self) {
        self.child = launch(&self.arguments, &self.directory);
    }

    /// SIGKILL, STOP or CONT to the agent.
    pub fn signal(&mut self, signal: Signal) {
        let _ = kill(pid(self.child.id()), signal);
        if signal == Signal::SIGKILL {
            let _ = self.child.wait();
        }
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

fn launch(arguments: &[String], directory: &TempDir) -> Child {
    let log = File::options()
        .create(true)
        .append(true)
        .open(directory.path().join("log"))
        .expect("no log can be made");
    // The kernel kills it with the thread that started it, which is the run's own.
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--", env!("CARGO_BIN_EXE_sidekick")])
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("sidekick cannot be started")
}
