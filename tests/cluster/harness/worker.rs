//! The worker program (examples/worker.rs) on the machine with HAProxy, and what it prints.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::host_engine::HostEngine;

/// Dials `haproxy:80` again and again, and is listened to.
pub struct Worker {
    lines: Arc<Mutex<Vec<(Instant, String)>>>,
    process: Child,
}

impl Worker {
    /// Starts it; it dials every `pause` seconds.
    pub fn start(engine: &HostEngine, machine: &str, pause: &str) -> Worker {
        let mut process = engine
            .command(&[
                "docker",
                "exec",
                machine,
                "/usr/local/bin/worker",
                "haproxy:80",
                pause,
            ])
            .stdout(Stdio::piped())
            .spawn()
            .expect("docker can't be started");
        let output = BufReader::new(process.stdout.take().expect("stdout is piped"));
        let lines = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&lines);
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                heard
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push((Instant::now(), line));
            }
        });
        Worker { lines, process }
    }

    /// Whether it printed `bar` after this time.
    pub fn bar_since(&self, since: Instant) -> bool {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines
            .iter()
            .rev()
            .take_while(|(at, _)| *at >= since)
            .any(|(_, line)| line == "bar")
    }

    /// The longest time without `bar` since then; its usual beat is the pause.
    pub fn longest_without_bar(&self, since: Instant) -> Duration {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let bars = lines
            .iter()
            .filter(|(at, line)| *at >= since && line == "bar")
            .map(|(at, _)| *at);
        let (mut longest, mut last) = (Duration::ZERO, since);
        for at in bars.chain([Instant::now()]) {
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
        others
            .map(|(at, line)| format!("{:.1} s: {line}", (*at - since).as_secs_f32()))
            .collect()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
