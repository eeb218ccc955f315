//! HAProxy's master socket: commands and answers. Decides nothing.

use crate::agent::haproxy::api::{ProxyError, ReloadOutcome};
use crate::agent::haproxy::process_list::ProcessList;
use crate::agent::haproxy::render::FINGERPRINT_VARIABLE;
use crate::agent::haproxy::session_list::{Session, WorkerSessions};
use std::cell::RefCell;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};

/// How long one answer may take. A worker with ten thousand servers lists them in some 20 ms.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long `show proc` may take during a reload: while the master re-executes itself, the kernel accepts
/// connections that get no answer.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);

/// How long a reload may take: reading the file, and up to two seconds of trying to bind.
pub(crate) const RELOAD_TIMEOUT: Duration = Duration::from_secs(15);

/// A master that got SIGUSR2 creates its socket again well within this time.
pub(crate) const SOCKET_RECREATED_WITHIN: Duration = Duration::from_secs(2);

/// The pause between two checks while a reload goes on.
const PROBE_INTERVAL: Duration = Duration::from_millis(10);

/// The longest answer that is read: 32,768 servers are some 5 MB.
const LONGEST_ANSWER: u64 = 32 << 20;

/// The size of a usual answer, in bytes.
const USUAL_ANSWER: usize = 16 << 10;

/// The longest line that is sent. HAProxy's buffers hold 16 kB unless told otherwise.
const LONGEST_LINE: usize = 8 << 10;

/// So many sessions are looked at again, and ended, before the next ones are: the time between the two is short.
const ENDED_AT_ONCE: usize = 32;

/// How an answer ends once `prompt` was asked for: the master says `master[ReloadFailed]> ` after a reload that
/// failed, a socket that isn't a master's `> `.
const PROMPTS: [&str; 3] = ["master> ", "master[ReloadFailed]> ", "\n> "];

/// What the master answers in the place of a worker that has exited. The rest of the line is never executed: HAProxy 2.6
/// closes the connection, 3.2 keeps it open, with one prompt.
const NO_SUCH_WORKER: &str = "Can't find the target";

/// The master's socket.
#[derive(Debug)]
pub(crate) struct MasterSocket {
    socket: PathBuf,
    /// One connection for all requests of a pass. `None`: the next request opens one.
    line: RefCell<Option<UnixStream>>,
}

impl MasterSocket {
    pub(crate) const fn new(socket: PathBuf) -> Self {
        Self {
            socket,
            line: RefCell::new(None),
        }
    }

    /// Closes the connection that requests share, so that it need not outlast a reload.
    pub(crate) fn close_connection(&self) {
        self.line.replace(None);
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// `show proc`.
    pub(crate) async fn processes(&self) -> Result<ProcessList, ProxyError> {
        let text = self.ask("show proc", 1).await?;
        ProcessList::parse(&text)
            .ok_or_else(|| ProxyError::Unreachable("it has no worker".to_owned()))
    }

    /// Sends one command to one worker. A worker that has exited is an error, never another worker. So is
    /// one that is still starting: from HAProxy 3.1 on `show proc` lists it before it has read its file.
    pub(crate) async fn ask_worker(&self, pid: u32, command: &str) -> Result<String, ProxyError> {
        let answer = self.ask(&format!("@!{pid} {command}"), 1).await?;
        if answer.starts_with(NO_SUCH_WORKER) {
            return Err(ProxyError::Unreachable(format!(
                "its worker {pid} does not answer"
            )));
        }
        Ok(answer)
    }

    /// Whether a worker answers.
    pub(crate) async fn is_ready(&self) -> bool {
        let Ok(processes) = self.processes().await else {
            return false;
        };
        let question = format!("show env {FINGERPRINT_VARIABLE}");
        self.ask_worker(processes.worker, &question).await.is_ok()
    }

    /// A worker's `show sess`, behind its fingerprint.
    pub(crate) async fn sessions(&self, pid: u32) -> Result<String, ProxyError> {
        let line = format!("@!{pid} show env {FINGERPRINT_VARIABLE}; @!{pid} show sess");
        self.ask(&line, 2).await
    }

    /// A worker's `show sess all`, behind its fingerprint; `None` for a worker that has exited.
    pub(crate) async fn all_of_sessions(&self, pid: u32) -> Result<Option<String>, ProxyError> {
        let line = format!("@!{pid} show env {FINGERPRINT_VARIABLE}; @!{pid} show sess all");
        let answer = self.ask(&line, 2).await?;
        Ok((!answer.starts_with(NO_SUCH_WORKER)).then_some(answer))
    }

    /// Ends those of these sessions of a worker for which `is_meant` holds right before: a pointer is a place in memory, and
    /// where its session has ended another one may be there, of any server.
    pub(crate) async fn end_sessions(
        &self,
        pid: u32,
        pointers: &[String],
        is_meant: impl Fn(&Session) -> bool,
    ) -> Result<(), ProxyError> {
        for pointers in pointers.chunks(ENDED_AT_ONCE) {
            let mut line = format!("@!{pid} show env {FINGERPRINT_VARIABLE}");
            for pointer in pointers {
                line += &format!("; @!{pid} show sess {pointer}");
            }
            let answer = self.ask(&line, 1 + pointers.len()).await?;
            if answer.contains(NO_SUCH_WORKER) {
                return Ok(());
            }
            let read = WorkerSessions::parse(&answer)?;
            let meant = read.sessions.iter().filter(|it| is_meant(it));
            let commands = meant.map(|it| format!("shutdown session {}", it.pointer));
            self.send_commands(pid, commands).await?;
        }
        Ok(())
    }

    /// Sends many commands to one worker, in order. Returns the first complaint, empty without one.
    pub(crate) async fn send_commands(
        &self,
        pid: u32,
        commands: impl Iterator<Item = String>,
    ) -> Result<String, ProxyError> {
        let (mut line, mut count, mut complaint) = (String::new(), 0, String::new());
        for command in commands {
            if line.len() + command.len() > LONGEST_LINE {
                keep_first_complaint(&mut complaint, &self.ask(&line, count).await?);
                (line, count) = (String::new(), 0);
            }
            // Several commands in one line run one after another; each needs its worker named.
            let separator = if line.is_empty() { "" } else { "; " };
            line = format!("{line}{separator}@!{pid} {command}");
            count += 1;
        }
        if count > 0 {
            keep_first_complaint(&mut complaint, &self.ask(&line, count).await?);
        }
        Ok(complaint)
    }

    /// Waits until the master answers, after its socket was lost. Not for long: a signal that comes while it
    /// starts may be lost (1 of 12 runs on a busy machine), and is sent again.
    pub(crate) async fn wait_for_socket(&self) -> Result<ReloadOutcome, ProxyError> {
        let end = Instant::now() + SOCKET_RECREATED_WITHIN;
        while Instant::now() < end {
            self.close_connection();
            if self.is_ready().await {
                return Ok(ReloadOutcome::Done);
            }
            sleep(PROBE_INTERVAL).await;
        }
        Err(ProxyError::Unreachable(
            "it does not recreate its socket".to_owned(),
        ))
    }

    /// Reloads, and waits for the result.
    pub(crate) async fn reload(&self) -> Result<ReloadOutcome, ProxyError> {
        let before = self.processes().await?;
        // HAProxy 2.7 and later answer when the reload is over, with its result and its alerts; 2.6 closes
        // the connection at once, and the master re-executes itself under the same process id.
        self.close_connection();
        let answer = self
            .ask_alone("reload", RELOAD_TIMEOUT)
            .await
            .unwrap_or_default();
        if let Some((_, log)) = answer.split_once("Success=0") {
            return Ok(ReloadOutcome::Failed(alerts(log.lines())));
        }
        let end = Instant::now() + RELOAD_TIMEOUT;
        while Instant::now() < end {
            let text = self
                .ask_alone("show proc", PROBE_TIMEOUT)
                .await
                .unwrap_or_default();
            if let Some(now) = ProcessList::parse(&text)
                && (now.reloads, now.master) != (before.reloads, before.master)
            {
                if now.worker != before.worker {
                    return Ok(ReloadOutcome::Done);
                }
                if now.failed > 0 {
                    return Ok(ReloadOutcome::Failed(String::new()));
                }
            }
            sleep(PROBE_INTERVAL).await;
        }
        Err(ProxyError::Unreachable(format!(
            "the reload did not finish within {} s",
            RELOAD_TIMEOUT.as_secs()
        )))
    }

    /// Sends a line of so many commands on the shared connection. If a worker has exited, the master's word about it is
    /// the last of the answer.
    async fn ask(&self, line: &str, commands: usize) -> Result<String, ProxyError> {
        let kept = self.line.take();
        let talk = async {
            if let Some(stream) = kept {
                match converse(stream, line, commands).await {
                    // It was closed since it was last used.
                    Err(e) if e.kind() == ErrorKind::BrokenPipe => {}
                    result => return result,
                }
            }
            let stream = UnixStream::connect(&self.socket).await?;
            converse(stream, &format!("prompt\n{line}"), commands + 1).await
        };
        let (answer, stream) = self.within(ANSWER_TIMEOUT, talk).await?;
        self.line.replace(stream);
        Ok(answer)
    }

    /// Sends a line on a connection of its own.
    async fn ask_alone(&self, line: &str, deadline: Duration) -> Result<String, ProxyError> {
        let talk = async {
            let mut stream = UnixStream::connect(&self.socket).await?;
            stream.write_all(format!("{line}\n").as_bytes()).await?;
            // HAProxy 2.6 keeps the connection open until our half is closed.
            stream.shutdown().await?;
            let mut answer = Vec::new();
            stream.take(LONGEST_ANSWER).read_to_end(&mut answer).await?;
            Ok(String::from_utf8_lossy(&answer).into_owned())
        };
        self.within(deadline, talk).await
    }

    async fn within<T>(
        &self,
        deadline: Duration,
        talk: impl Future<Output = io::Result<T>>,
    ) -> Result<T, ProxyError> {
        let socket = self.socket.display();
        let silent = |_| ProxyError::Unreachable(format!("{socket} does not answer"));
        let down = |why| ProxyError::Unreachable(format!("{socket}: {why}"));
        timeout(deadline, talk).await.map_err(silent)?.map_err(down)
    }
}

/// Sends a line, and reads until so many prompts came; returns the text between them, and the connection
/// unless HAProxy closed it.
///
/// # Errors
/// `BrokenPipe`: HAProxy closed the connection before it answered.
async fn converse(
    mut stream: UnixStream,
    line: &str,
    prompts: usize,
) -> io::Result<(String, Option<UnixStream>)> {
    let broken = |_| io::Error::from(ErrorKind::BrokenPipe);
    let line = format!("{line}\n");
    stream.write_all(line.as_bytes()).await.map_err(broken)?;
    let mut answer = Vec::with_capacity(USUAL_ANSWER);
    loop {
        let room = LONGEST_ANSWER.saturating_sub(answer.len() as u64);
        match (&mut stream).take(room).read_buf(&mut answer).await {
            Ok(0) | Err(_) if answer.is_empty() => return Err(ErrorKind::BrokenPipe.into()),
            Ok(0) => return Ok((without_prompts(&answer).0, None)),
            Ok(_) if !answer.ends_with(b"> ") => {}
            Ok(_) => {
                let (text, found) = without_prompts(&answer);
                if found >= prompts {
                    return Ok((text, Some(stream)));
                }
                // The prompts of the commands after it never come.
                if text.lines().any(|line| line.starts_with(NO_SUCH_WORKER)) {
                    return Ok((text, None));
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// The answers without prompts, and how many prompts there were.
fn without_prompts(answer: &[u8]) -> (String, usize) {
    let mut text = String::from_utf8_lossy(answer).into_owned();
    let mut found = 0;
    for prompt in PROMPTS {
        let before = text.len();
        text = text.replace(prompt, "");
        found += (before - text.len()) / prompt.len();
    }
    (text, found)
}

/// Keeps the first line that is none of those that HAProxy prints on success.
fn keep_first_complaint(complaint: &mut String, answer: &str) {
    let usual = |line: &str| {
        line.is_empty()
            || ["New server registered.", "Server deleted."].contains(&line)
            || line.contains("changed from")
            || line.contains("Done.")
    };
    if complaint.is_empty()
        && let Some(line) = answer.lines().map(str::trim).find(|line| !usual(line))
    {
        *complaint = format!(" (HAProxy: {line})");
    }
}

/// The text of the alerts.
pub(crate) fn alerts<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    let alerts = lines.filter(|line| line.contains("[ALERT]"));
    let words = alerts.map(|line| line.split_once(" : ").map_or(line, |(_, rest)| rest));
    words.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A master that answers with `words`, and then neither says anything nor closes the connection.
    async fn answer_of(words: &str, line: &str, commands: usize) -> (String, bool) {
        let (ours, mut masters) = UnixStream::pair().unwrap();
        masters.write_all(words.as_bytes()).await.unwrap();
        let talk = converse(ours, line, commands);
        let (text, kept) = timeout(Duration::from_secs(1), talk)
            .await
            .expect("it waits for prompts that never come")
            .unwrap();
        (text, kept.is_some())
    }

    /// HAProxy 2.6.12, with sessions of three backends.
    const REAL: &str = include_str!("../../../tests/corpus/haproxy_sessions/2.6");

    #[tokio::test]
    async fn a_session_in_the_place_of_one_that_has_ended_goes_on() {
        let (ours, mut masters) = UnixStream::pair().unwrap();
        let master = MasterSocket {
            socket: PathBuf::new(),
            line: RefCell::new(Some(ours)),
        };
        let pointers = ["0x558b3143a320", "0x558b3155e040"].map(str::to_owned);
        let is_meant = |it: &Session| it.server.as_deref() == Some("a::1");
        let ended = master.end_sessions(7, &pointers, is_meant);
        // The second pointer is dead/x by now.
        let (head, rest) = REAL.split_once("\n\n").unwrap();
        let blocks: Vec<_> = rest.split("\n0x").collect();
        let answer = format!(
            "{head}\n\nmaster> {}\n\nmaster> 0x{}\n\nmaster> ",
            blocks[0], blocks[2]
        );
        let heard = async {
            let mut lines = Vec::new();
            for answer in [&answer, "\nmaster> "] {
                let mut line = [0; 1_000];
                let length = masters.read(&mut line).await.unwrap();
                lines.push(String::from_utf8_lossy(&line[..length]).into_owned());
                masters.write_all(answer.as_bytes()).await.unwrap();
            }
            lines
        };
        let (ended, heard) = tokio::join!(ended, heard);
        ended.unwrap();
        let [first, second] = &pointers;
        let looked = format!(
            "@!7 show env {FINGERPRINT_VARIABLE}; @!7 show sess {first}; @!7 show sess {second}\n"
        );
        assert_eq!(heard, [looked, format!("@!7 shutdown session {first}\n")]);
    }

    #[tokio::test]
    async fn a_worker_that_has_exited_ends_a_line_although_the_connection_stays_open() {
        // HAProxy 3.2.26, word by word.
        let gone = "Can't find the target PID matching the prefix '@!99'\nmaster> ";
        let line = "@!99 show env X; @!99 show sess";
        let text = "Can't find the target PID matching the prefix '@!99'\n";
        assert_eq!(answer_of(gone, line, 2).await, (text.to_owned(), false));
        // It exited after the first command.
        let words = format!("X=1\n\nmaster> {gone}");
        let text = format!("X=1\n\n{text}");
        assert_eq!(answer_of(&words, line, 3).await, (text, false));
        assert_eq!(
            answer_of("X=1\n\nmaster> ", "@!9 show env X", 1).await,
            ("X=1\n\n".to_owned(), true)
        );
    }
}
