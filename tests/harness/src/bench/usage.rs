//! What a process costs, from /proc.

use std::fs;
use std::time::Duration;
use tokio::process::Command;

/// A key that goes again by its lease.
pub const COST_KEY: &str = "/services/bench/cost";

/// A process's CPU time and memory.
pub struct Usage {
    /// Since it started.
    pub cpu: Duration,
    /// KiB.
    pub resident: u64,
    /// KiB.
    pub peak: u64,
}

impl Usage {
    /// Of that process, now.
    pub fn of(pid: u32) -> Self {
        Self {
            cpu: cpu(&format!("/proc/{pid}/schedstat")),
            resident: status(pid, "VmRSS:").unwrap_or_default(),
            peak: status(pid, "VmHWM:").unwrap_or_default(),
        }
    }

    /// The CPU time of one heartbeat of the shell loop: its two etcdctl processes, over ten of them.
    pub async fn of_etcdctl(url: &str) -> Duration {
        let script = "i=0; while [ $i -lt 10 ]; do lease=$(etcdctl lease grant 6 | cut -d' ' -f2); \
                      etcdctl put /services/bench/cost x --lease=\"$lease\" >/dev/null; i=$((i+1)); done; times";
        let output = Command::new("sh")
            .args(["-c", script])
            .env("ETCDCTL_API", "3")
            .env("ETCDCTL_ENDPOINTS", url)
            .output()
            .await
            .expect("a shell");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // The second line of `times` is the children's: 0m0.123s 0m0.045s
        let children = text.lines().last().unwrap_or_default().to_owned();
        let seconds: f64 = children.split_whitespace().map(minutes_and_seconds).sum();
        Duration::from_secs_f64(seconds / 10.0)
    }
}

fn minutes_and_seconds(text: &str) -> f64 {
    let (minutes, seconds) = text
        .trim_end_matches('s')
        .split_once('m')
        .expect("0m0.123s");
    let number = |t: &str| t.parse::<f64>().expect("a number");
    number(minutes) * 60.0 + number(seconds)
}

/// The first number of schedstat: nanoseconds on a CPU.
fn cpu(path: &str) -> Duration {
    let text = fs::read_to_string(path).unwrap_or_default();
    let nanos = text.split_whitespace().next().and_then(|n| n.parse().ok());
    Duration::from_nanos(nanos.unwrap_or_default())
}

fn status(pid: u32, field: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find(|line| line.starts_with(field))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// The peak memory of one etcdctl process, in KiB: the largest of ten, each looked at until it ends.
pub fn peak_of_etcdctl(url: &str) -> u64 {
    let peak = |_| {
        let mut child = std::process::Command::new("etcdctl")
            .args(["put", COST_KEY, "x"])
            .env("ETCDCTL_API", "3")
            .env("ETCDCTL_ENDPOINTS", url)
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("etcdctl");
        let mut peak = 0;
        while child.try_wait().expect("a child").is_none() {
            peak = peak.max(status(child.id(), "VmHWM:").unwrap_or_default());
        }
        peak
    };
    (0..10).map(peak).max().unwrap_or_default()
}

/// Of the program under test, in bytes.
pub fn size_of_binary() -> u64 {
    fs::metadata(crate::binary())
        .map(|m| m.len())
        .unwrap_or_default()
}

/// Cores, and the load of the last minute.
pub fn machine() -> (usize, String) {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    (
        cores,
        load.split_whitespace()
            .next()
            .unwrap_or_default()
            .to_owned(),
    )
}
