//! A server process that cannot outlive the test that needs it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use super::init::children;
use super::wait::eventually;

/// One server, started and stopped at will, in a directory of its own that goes when the warden goes.
///
/// The server hangs on a pipe that this process holds, so it dies with us in every case, `kill -9` included.
pub struct Warden {
    directory: PathBuf,
    line: Mutex<Line>,
    janitor: Child,
}

/// What a server is to be run with.
pub struct Charge {
    /// The directory the server lives in, made by [`Warden::directory_for`]; removed in the end.
    pub directory: PathBuf,
    /// A command that prepares surroundings and then executes the command appended to it; may be empty.
    pub surroundings: Vec<String>,
    /// The server and its arguments.
    pub server: Vec<String>,
}

impl Warden {
    /// A new directory for a server that needs these programs, under the system's temporary directory.
    pub fn directory_for(what: &str, programs: &[&str]) -> PathBuf {
        // Before anything is made that would have to be removed.
        programs.iter().for_each(|program| drop(require(program)));
        tempfile::Builder::new()
            .prefix(&format!("sidekick-test-{what}-"))
            .tempdir()
            .expect("no temporary directory can be made")
            .keep()
    }

    /// Sets up the warden; the server itself waits for [`Warden::start`].
    pub fn of(charge: Charge) -> Warden {
        let log = charge.directory.join("log");
        let errors = fs::OpenOptions::new().create(true).append(true).open(&log);
        let mut janitor = Command::new("sh")
            .env("PATH", search_path())
            .arg("-c")
            .arg(include_str!("janitor.sh"))
            .arg(&charge.directory)
            .args(&charge.surroundings)
            .args(["sh", "-c", include_str!("warden.sh"), "warden"])
            .arg(&log)
            .args(&charge.server)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors.expect("no log file can be made"))
            // Ctrl-C goes to the test alone; the janitor must live to clean up.
            .process_group(0)
            .spawn()
            .expect("no shell can be started");
        let line = Line {
            to: janitor.stdin.take(),
            from: BufReader::new(janitor.stdout.take().expect("stdout is piped")),
        };
        Warden {
            directory: charge.directory,
            line: Mutex::new(line),
            janitor,
        }
    }

    /// The server's directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Starts the server, for the first time or again.
    pub fn start(&self) {
        self.ask("start");
    }

    /// Sends the server a signal: `KILL`, `TERM`, `STOP` or `CONT`.
    pub fn signal(&self, name: &str) {
        self.ask(&format!("signal {name}"));
    }

    /// Sends the server a signal and waits until it is gone.
    pub async fn end_with(&self, signal: &str) {
        self.signal(signal);
        eventually(Duration::from_secs(20), "the server ends", async || {
            !self.is_up()
        })
        .await;
    }

    /// Kills a process by the pid it has where the server lives.
    pub fn kill_process(&self, pid: u32) {
        self.ask(&format!("kill {pid}"));
    }

    /// The pid, in our namespace, of the first command that prepares the surroundings, which goes on running.
    pub(crate) fn keeper(&self) -> u32 {
        let children = children(self.janitor.id());
        *children.first().expect("the janitor runs the warden")
    }

    /// Whether the server's process lives (a stopped one does).
    pub fn is_up(&self) -> bool {
        self.ask("state") == "up"
    }

    /// The end of what the server has printed; of a program in Go that crashed the beginning of its last words, which are
    /// longer than any end.
    pub fn log_tail(&self) -> String {
        const LINES: usize = 15;
        let log = fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let is_crash =
            |line: &&str| line.starts_with("panic: ") || line.starts_with("fatal error: ");
        let crash = lines.iter().position(is_crash);
        let begin = crash.unwrap_or(lines.len().saturating_sub(LINES));
        lines[begin..]
            .iter()
            .take(LINES)
            .copied()
            .collect::<Vec<_>>()
            .join("\n")
    }

    fn ask(&self, question: &str) -> String {
        // A test that panicked while it held the lock has not hurt the line: every question is answered.
        let mut line = self
            .line
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let answer = line.ask(question);
        drop(line);
        answer
            .unwrap_or_else(|| panic!("the warden is gone; the server's log:\n{}", self.log_tail()))
    }
}

impl Drop for Warden {
    fn drop(&mut self) {
        self.line
            .get_mut()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .to = None;
        let _ = self.janitor.wait();
    }
}

/// Fails with a sentence that says what to install, where a program is missing.
pub(crate) fn require(program: &str) -> PathBuf {
    std::env::split_paths(&search_path())
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| {
            panic!("{program} is missing, and the tests with real parts need it; `make test` installs what they need")
        })
}

/// A program that an environment variable of the tests names by its path, else this machine's own.
pub fn program(variable: &str, own: &'static str) -> &'static str {
    match std::env::var(variable) {
        Ok(path) if !path.is_empty() => Box::leak(path.into_boxed_str()),
        _ => own,
    }
}

/// Debian's servers live in sbin, which a user's PATH may lack.
fn search_path() -> String {
    format!(
        "{}:/usr/sbin:/sbin",
        std::env::var("PATH").unwrap_or_default()
    )
}

struct Line {
    /// Closing it is what ends the warden.
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
}

impl Line {
    fn ask(&mut self, question: &str) -> Option<String> {
        writeln!(self.to.as_mut()?, "{question}").ok()?;
        let mut answer = String::new();
        self.from
            .read_line(&mut answer)
            .ok()
            .filter(|&length| length > 0)?;
        Some(answer.trim().to_owned())
    }
}
