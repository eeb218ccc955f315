//! The HAProxy process that the agent supervises.

use crate::agent::haproxy::api::ProxyError;
use crate::agent::haproxy::master_socket::alerts;
use crate::clock::now;
use crate::log_throttle::Repeats;
use crate::shutdown::is_in_mask;
use rustix::process::Signal;
use std::collections::VecDeque;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{ChildStderr, Command};
use tokio::time::timeout;
use tracing::{debug, warn};

/// How long HAProxy may take to exit after SIGTERM: the master ends its workers with their connections
/// first.
pub(crate) const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// How many lines of its output are kept, to find out why a start failed.
const KEPT_LINES: usize = 200;

/// A HAProxy master in the foreground.
#[derive(Debug)]
pub(crate) struct HaproxyProcess {
    process: tokio::process::Child,
    output: Arc<Mutex<VecDeque<String>>>,
}

impl HaproxyProcess {
    /// Starts HAProxy with `file`, with its master socket at `socket`. Its alerts are logged, throttled by
    /// `alerts`.
    pub(crate) fn start(
        binary: &Path,
        file: &Path,
        socket: &Path,
        alerts: Arc<Mutex<Repeats>>,
    ) -> Result<Self, ProxyError> {
        let mut process = command(binary)
            .arg("-W")
            // Whatever the base file says of `daemon`: HAProxy must stay in the foreground.
            .arg("-db")
            .arg("-S")
            .arg(format!("{},mode,600", socket.display()))
            .arg("-f")
            .arg(file)
            .stdin(Stdio::null())
            // For `log stdout` in a base file: to the agent's own stdout.
            .stdout(Stdio::inherit())
            .stderr(Stdio::piped())
            // A Ctrl-C at the terminal must reach the agent alone, which then stops HAProxy.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| {
                ProxyError::Unreachable(format!("can't start {}: {e}", binary.display()))
            })?;
        let output = Arc::new(Mutex::new(VecDeque::new()));
        if let Some(stderr) = process.stderr.take() {
            // Ends when HAProxy does.
            tokio::spawn(read_stderr(stderr, output.clone(), alerts));
        }
        Ok(Self { process, output })
    }

    /// Its exit status, if it has exited.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().ok().flatten()
    }

    /// Waits for its exit; returns the status in words. Cancel-safe.
    pub(crate) async fn wait(&mut self) -> String {
        match self.process.wait().await {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        }
    }

    /// Its alerts since the last call.
    pub(crate) fn take_alerts(&self) -> String {
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        let all: Vec<_> = output.drain(..).collect();
        alerts(all.iter().map(String::as_str))
    }

    /// SIGUSR2: HAProxy reloads, and creates its socket again. A process that has no handler yet gets no
    /// signal: it would die of it.
    pub(crate) fn reload(&self) {
        if let Some(pid) = self
            .process
            .id()
            .filter(|pid| has_handler(*pid, Signal::USR2))
        {
            signal(pid, Signal::USR2);
        }
    }

    /// Stops it and its workers. Returns whether SIGTERM was enough.
    pub(crate) async fn stop(mut self) -> bool {
        if let Some(pid) = self.process.id() {
            terminate(pid);
        }
        let ended = timeout(STOP_TIMEOUT, self.process.wait()).await.is_ok();
        if !ended {
            let _ = self.process.kill().await;
        }
        ended
    }
}

/// The `haproxy` program without systemd's socket and without etcd's password in its environment, which
/// `show env` would print.
pub(crate) fn command(binary: &Path) -> Command {
    let mut command = Command::new(binary);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("ETCDCTL_")
            || ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"].contains(&&*text)
        {
            command.env_remove(name);
        }
    }
    command
}

/// SIGTERM.
pub(crate) fn terminate(pid: u32) {
    signal(pid, Signal::TERM);
}

fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// Whether the process has a handler for it.
fn has_handler(pid: u32, signal: Signal) -> bool {
    is_in_mask(pid, "SigCgt:", signal)
}

async fn read_stderr(
    stderr: ChildStderr,
    output: Arc<Mutex<VecDeque<String>>>,
    alerts: Arc<Mutex<Repeats>>,
) {
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        debug!("haproxy: {line}");
        if line.contains("[ALERT]") {
            let mut alerts = alerts.lock().unwrap_or_else(PoisonError::into_inner);
            match alerts.happened(&without_process_ids(&line), now()) {
                Some(1) => warn!("haproxy: {line}"),
                Some(times) => warn!("haproxy: {line} ({times} times)"),
                None => {}
            }
            if let Some(more) = alerts.flood(now()) {
                warn!("haproxy: {more} more alerts");
            }
        }
        let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
        if output.len() == KEPT_LINES {
            output.pop_front();
        }
        output.push_back(line);
    }
}

/// The line without process ids, so that alerts of different processes count as the same: `[ALERT]    (17) :
/// Current worker (18) exited with code 137 (Killed)`.
fn without_process_ids(line: &str) -> String {
    let parts = line.split('(');
    let parts = parts.map(|part| part.trim_start_matches(|c: char| c.is_ascii_digit()));
    parts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handler_is_seen() {
        let mut other = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let caught = has_handler(other.id(), Signal::USR2);
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(!caught, "sleep has no handlers");
        assert!(
            has_handler(std::process::id(), Signal::SEGV),
            "Rust has one"
        );
        assert!(!has_handler(std::process::id(), Signal::USR2));
    }

    #[test]
    fn a_process_id_makes_no_other_alert() {
        let of = |master, worker| {
            format!(
                "[ALERT]    ({master}) : Current worker ({worker}) exited with code 137 (Killed)"
            )
        };
        assert_eq!(
            without_process_ids(&of(17, 18)),
            without_process_ids(&of(17, 2345))
        );
        let of = |name| format!("[ALERT]    (9) : proxy '{name}' has no server available!");
        assert_ne!(
            without_process_ids(&of("redis1")),
            without_process_ids(&of("redis2"))
        );
    }
}
