//! The log's way to stderr: a bounded queue, and a thread that writes it. Logging never waits for the
//! process that reads stderr: a line that finds the queue full is lost, and the log says how many were.
//! Everything that sidekick writes to stderr goes this way: a closed stderr ends no process, a full one
//! holds none up.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use tracing::error;

/// So many bytes wait at most: the lines of a thousand keys that are announced at once, and more.
const CAPACITY: usize = 256 * 1024;

/// An exit waits so long for the lines that are still in the queue. Most of it is for a busy machine, where the
/// thread that writes them waits for a processor: 200 ms were too few with a load of 12 on two cores.
const FLUSH: Duration = Duration::from_secs(1);

/// An exit does not wait for a stderr that has not been read for so long.
const STALLED: Duration = Duration::from_millis(200);

/// Between two tries at a stderr that another process has made non-blocking.
const RETRY: Duration = Duration::from_millis(20);

static LOG: LogQueue = LogQueue::new();

/// The process's log.
#[must_use]
pub fn log() -> &'static LogQueue {
    &LOG
}

/// Starts the thread that writes the process's log to stderr.
///
/// # Errors
/// The kernel gives no file descriptor or no thread.
pub fn start() -> io::Result<()> {
    // A descriptor of its own: a write that waits would hold the lock of `io::stderr()`.
    let stderr = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    let lost = |lines| error!(lines, "log lines were lost: stderr was not read in time");
    let writer = thread::Builder::new().name("log".to_owned());
    writer.spawn(move || LOG.write_to(stderr, lost)).map(drop)
}

/// A line on stderr that is no log line: for the person who typed the command. Waits, as [`flush`] does, while
/// the queue is half full, so that a command that says much loses no line to a process that reads.
pub fn say(line: impl fmt::Display) {
    if LOG.is_half_full() {
        LOG.flush(FLUSH, STALLED);
    }
    LOG.push(format!("sidekick: {line}\n").as_bytes());
}

/// Before the process ends: waits until all lines are written, for 1 s at most, and no longer for a stderr that
/// has not been read for 200 ms.
pub fn flush() {
    LOG.flush(FLUSH, STALLED);
}

/// Lines on their way to whatever reads the log.
#[derive(Debug)]
pub struct LogQueue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Debug)]
struct QueueState {
    lines: VecDeque<Vec<u8>>,
    /// Of all lines.
    bytes: usize,
    /// Since the queue was full. From then on all lines are lost until it is empty and the log has said
    /// so, so that the gap stands where it is said.
    lost: u64,
    /// When the writer began with what it is at.
    busy_since: Option<Instant>,
}

enum Work {
    Line(Vec<u8>),
    Lost(u64),
}

impl LogQueue {
    const fn new() -> Self {
        Self {
            state: Mutex::new(QueueState {
                lines: VecDeque::new(),
                bytes: 0,
                lost: 0,
                busy_since: None,
            }),
            changed: Condvar::new(),
        }
    }

    /// Appends a line, with its line break; it is lost where the queue is full.
    pub fn push(&self, line: &[u8]) {
        let mut state = self.lock();
        if state.lost > 0 || state.bytes + line.len() > CAPACITY {
            state.lost += 1;
            return;
        }
        state.bytes += line.len();
        state.lines.push_back(line.to_vec());
        drop(state);
        self.changed.notify_all();
    }

    fn is_half_full(&self) -> bool {
        self.lock().bytes > CAPACITY / 2
    }

    /// Writes line after line, for ever. Where lines were lost, `tell` is given their number, after the
    /// last line before them was written.
    fn write_to(&self, mut sink: impl Write, tell: impl Fn(u64)) {
        loop {
            match self.next() {
                Work::Line(line) => write_all(&mut sink, &line),
                Work::Lost(lines) => tell(lines),
            }
        }
    }

    fn next(&self) -> Work {
        let mut state = self.lock();
        loop {
            state.busy_since = Some(Instant::now());
            if let Some(line) = state.lines.pop_front() {
                state.bytes -= line.len();
                return Work::Line(line);
            }
            if state.lost > 0 {
                return Work::Lost(std::mem::take(&mut state.lost));
            }
            state.busy_since = None;
            self.changed.notify_all();
            let woken = self.changed.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn flush(&self, limit: Duration, stalled: Duration) {
        let end = Instant::now() + limit;
        let mut state = self.lock();
        while !state.is_idle() {
            let give_up = state.busy_since.map_or(end, |since| since + stalled);
            let left = give_up.min(end).saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let woken = self.changed.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl QueueState {
    fn is_idle(&self) -> bool {
        self.lines.is_empty() && self.lost == 0 && self.busy_since.is_none()
    }
}

/// tracing's formatter writes each event in one call.
impl Write for &LogQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Gives the line up where stderr is closed.
fn write_all(sink: &mut impl Write, mut rest: &[u8]) {
    while !rest.is_empty() {
        match sink.write(rest) {
            Ok(0) => return,
            Ok(written) => rest = &rest[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(RETRY),
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::sync::Arc;

    const MINUTE: Duration = Duration::from_secs(60);

    /// A queue with a writer into a pipe that nothing has read yet.
    fn piped() -> (Arc<LogQueue>, BufReader<io::PipeReader>) {
        let (reader, writer) = io::pipe().unwrap();
        let queue = Arc::new(LogQueue::new());
        let written = Arc::clone(&queue);
        thread::spawn(move || {
            let told = Arc::clone(&written);
            let tell = |lines| told.push(format!("lost {lines}\n").as_bytes());
            written.write_to(writer, tell);
        });
        (queue, BufReader::new(reader))
    }

    fn line(number: usize) -> String {
        format!("{number:>999}\n")
    }

    #[test]
    fn lines_come_in_order_and_before_the_end() {
        let (queue, mut reader) = piped();
        (0..20).for_each(|n| queue.push(line(n).as_bytes()));
        queue.flush(MINUTE, MINUTE);
        let mut text = String::new();
        for n in 0..20 {
            text.clear();
            reader.read_line(&mut text).unwrap();
            assert_eq!(text, line(n));
        }
    }

    #[test]
    fn a_pipe_that_nothing_reads_loses_lines_and_says_how_many() {
        let (queue, mut reader) = piped();
        let all = 10_000;
        (0..all).for_each(|n| queue.push(line(n).as_bytes()));
        assert!(queue.lock().bytes <= CAPACITY);
        let lost = queue.lock().lost;
        assert!(lost > 9_000, "{lost} of {all}");

        let mut text = String::new();
        for n in 0..all - lost as usize {
            text.clear();
            reader.read_line(&mut text).unwrap();
            assert_eq!(text, line(n));
        }
        text.clear();
        reader.read_line(&mut text).unwrap();
        assert_eq!(text, format!("lost {lost}\n"));
        queue.push(b"the next\n");
        text.clear();
        reader.read_line(&mut text).unwrap();
        assert_eq!(text, "the next\n");
    }

    #[test]
    fn an_exit_waits_for_no_pipe_that_nothing_reads() {
        let (queue, _reader) = piped();
        (0..10_000).for_each(|n| queue.push(line(n).as_bytes()));
        let begun = Instant::now();
        queue.flush(MINUTE, Duration::from_millis(50));
        assert!(begun.elapsed() < Duration::from_secs(5));
        assert!(!queue.lock().is_idle());
    }

    #[test]
    fn a_pipe_that_is_closed_ends_nothing() {
        let (queue, reader) = piped();
        drop(reader);
        (0..100).for_each(|n| queue.push(line(n).as_bytes()));
        queue.flush(MINUTE, MINUTE);
        assert!(queue.lock().is_idle());
    }
}
