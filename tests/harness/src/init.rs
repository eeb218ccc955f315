//! Processes that stand for containers on an engine that isn't one.

use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::wait::{PATIENCE, blocking};

/// A process without a purpose; killed when dropped, and with its test in any case.
pub struct Idle {
    child: Child,
    pid: u32,
}

impl Idle {
    /// The init of a pid namespace of its own, as a container's first process is.
    pub fn init() -> Idle {
        let unshare = ["unshare", "--pid", "--fork", "--kill-child"];
        let child = idle(&unshare);
        let pid = blocking::eventually(PATIENCE, "unshare has forked", || {
            children(child.id()).first().copied()
        });
        Idle { child, pid }
    }

    /// A process of our own pid namespace.
    pub fn plain() -> Idle {
        let child = idle(&[]);
        let pid = child.id();
        Idle { child, pid }
    }

    /// Its number in our pid namespace.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether its parent has taken note of its end.
    pub fn is_gone(&self) -> bool {
        !std::path::Path::new(&format!("/proc/{}", self.pid)).exists()
    }

    /// Whether it has ended, also where its parent hasn't taken note of that.
    pub fn is_dead(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid));
        // proc_pid_stat(5): the state follows the name, which may hold anything and is in parentheses.
        let state = stat.ok().and_then(|stat| {
            let (_, fields) = stat.rsplit_once(") ")?;
            fields.chars().next()
        });
        state.is_none_or(|state| state == 'Z' || state == 'X')
    }

    /// SIGKILL.
    pub fn kill(&self) {
        let pid = i32::try_from(self.pid).expect("a pid is small");
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it is ours");
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The children of a process that has one thread.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let text = text.unwrap_or_default();
    text.split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

fn idle(surroundings: &[&str]) -> Child {
    // The kernel kills it with the thread that started it, which is the test's own.
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--"])
        .args(surroundings)
        .args(["sleep", "infinity"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        // unshare has a word about a child that is killed.
        .stderr(Stdio::null())
        .spawn()
        .expect("no process can be started")
}
