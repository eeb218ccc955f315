//! The worker program (examples/worker.rs) on the machine with HAProxy, and what it prints.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::host_engine::HostEngine;

/// Dials `haproxy:80` again and again; its output is kept with the time of each line.
pub struct Worker {
    lines: Arc<Mutex<Vec<(Instant, String)>>>,
    process: Child,
}

impl Worker {
    /// Starts it; it dials every `pause` seconds.
    pub fn start(engine: &HostEngine, machine: &str, pause: &str) -> Worker {
        let mut exec = engine.command(&["docker", "exec", machine]);
        exec.args(["/usr/local/bin/worker", "haproxy:80", pause]);
        let process = exec.stdout(Stdio::piped()).spawn();
        let mut process = process.expect("docker can't be started");
        let output = BufReader::new(process.stdout.take().expect("stdout is piped"));
        let lines = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&lines);
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
                heard.push((Instant::now(), line));
            }
        });
        Worker { lines, process }
    }

    /// Whether it printed `bar` after this time.
    pub fn bar_since(&self, since: Instant) -> bool {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let mut later = lines.iter().rev().take_while(|(at, _)| *at >= since);
        later.any(|(_, line)| line == "bar")
    }

    /// The longest time without `bar` since then; its usual beat is the pause.
    pub fn longest_without_bar(&self, since: Instant) -> Duration {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let printed = lines
            .iter()
            .filter(|(at, line)| *at >= since && line == "bar");
        let (mut longest, mut last) = (Duration::ZERO, since);
        for at in printed.map(|(at, _)| *at).chain([Instant::now()]) {
            longest = longest.max(at - last);
            last = at;
        }
        longest
    }

    /// What it printed since then that was something else, each with its time.
    pub fn complaints(&self, since: Instant) -> Vec<String> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let others = lines
            .iter()
            .filter(|(at, line)| *at >= since && line != "bar");
        let seconds = |at: &Instant| (*at - since).as_secs_f32();
        others
            .map(|(at, line)| format!("{:.1} s: {line}", seconds(at)))
            .collect()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
