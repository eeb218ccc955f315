//! Clients of HAProxy's listener, of three habits, and what became of each of their requests.

use std::fmt;
use std::future::Future;
use std::io;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

/// A request that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(5);

/// So many of those that connect anew wait for an answer: as many as come in a second where most come.
const MOST_AT_ONCE: usize = 500;

/// So many ask at once for what takes 50 ms.
const SLOW: usize = 10;

/// Connections of the pool.
const POOL: usize = 20;

/// How long a connection of the pool has no work, in milliseconds.
const THINKS: RangeInclusive<u64> = 20..=500;

/// For how long the pool keeps a connection, in milliseconds: so that its connections spread over all instances again.
const LIVES: RangeInclusive<u64> = 1_000..=4_000;

const PING: (&str, &str) = ("PING\r\n", "+PONG\r\n");

/// Nothing ever stands in that list: Redis answers when 50 ms are over.
const BLPOP: (&str, &str) = ("BLPOP nothing 0.05\r\n", "*-1\r\n");

/// How a client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    /// It connects for each request.
    Anew,
    /// The same, with a request that is under way for 50 ms.
    Slow,
    /// It keeps its connection, and sees before each request whether that was closed.
    Pooled,
}

impl fmt::Display for Habit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Habit::Anew => "clients that connect anew",
            Habit::Slow => "slow ones",
            Habit::Pooled => "pooled ones",
        })
    }
}

/// What became of the requests of one habit.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub requests: usize,
    /// When each failed, and why.
    pub failures: Vec<(Instant, String)>,
    /// Idle connections of the pool that were closed.
    pub cuts: usize,
}

#[derive(Default)]
struct Tally {
    requests: AtomicUsize,
    cuts: AtomicUsize,
    failures: Mutex<Vec<(Instant, String)>>,
}

/// They ask until they are told to end.
pub struct Clients {
    runtime: Runtime,
    crowd: JoinSet<()>,
    shared: Arc<Shared>,
}

struct Shared {
    /// Address and port of the listener.
    listener: String,
    stop: AtomicBool,
    tallies: [Tally; 3],
}

impl Clients {
    /// All three habits, from now on. So many a second connect anew, whether the one before was answered or not. What a
    /// busy machine misses is not made up for: the load would grow with each delay.
    pub fn of(listener: &str, anew_per_second: u32) -> Clients {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .on_thread_start(before_others)
            .build()
            .expect("a runtime");
        let shared = Arc::new(Shared {
            listener: listener.to_owned(),
            stop: AtomicBool::new(false),
            tallies: Default::default(),
        });
        let mut crowd = JoinSet::new();
        let beat = Duration::from_secs(1) / anew_per_second;
        crowd.spawn_on(connect_anew(shared.clone(), beat), runtime.handle());
        for _ in 0..SLOW {
            crowd.spawn_on(ask_slowly(shared.clone()), runtime.handle());
        }
        for _ in 0..POOL {
            crowd.spawn_on(keep_asking(shared.clone()), runtime.handle());
        }
        Clients {
            runtime,
            crowd,
            shared,
        }
    }

    /// What became of the requests of a habit until now.
    pub fn outcome(&self, habit: Habit) -> Outcome {
        let tally = self.shared.tally(habit);
        let failures = tally.failures.lock();
        Outcome {
            requests: tally.requests.load(Relaxed),
            failures: failures.unwrap_or_else(PoisonError::into_inner).clone(),
            cuts: tally.cuts.load(Relaxed),
        }
    }

    /// Waits until all requests that are under way have ended; no other is begun.
    pub fn end(&mut self) {
        self.shared.stop.store(true, Relaxed);
        let crowd = std::mem::take(&mut self.crowd);
        self.runtime.block_on(crowd.join_all());
    }
}

impl Shared {
    fn tally(&self, habit: Habit) -> &Tally {
        &self.tallies[habit as usize]
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Relaxed)
    }

    /// Notes what became of a request.
    fn note(&self, habit: Habit, result: io::Result<()>) {
        let tally = self.tally(habit);
        tally.requests.fetch_add(1, Relaxed);
        if let Err(error) = result {
            let failures = tally.failures.lock();
            let mut failures = failures.unwrap_or_else(PoisonError::into_inner);
            failures.push((Instant::now(), error.to_string()));
        }
    }

    async fn dial(&self) -> io::Result<TcpStream> {
        in_time("connecting", TcpStream::connect(&self.listener)).await
    }

    /// One request on a connection of its own.
    async fn once(&self, request: (&str, &str)) -> io::Result<()> {
        let mut stream = self.dial().await?;
        ask(&mut stream, request).await
    }
}

/// This thread gets to run before all others: a client that is starved after it has connected is silent for so long that
/// its connection counts as unused.
fn before_others() {
    let thread = std::fs::read_link("/proc/thread-self").expect("/proc");
    let id = thread.file_name().and_then(|id| id.to_str());
    let renice = ["--priority", "-20", "--pid", id.expect("a number")];
    let status = std::process::Command::new("renice")
        .args(renice)
        .stdout(std::process::Stdio::null())
        .status();
    assert!(status.is_ok_and(|status| status.success()), "renice failed");
}

async fn connect_anew(shared: Arc<Shared>, beat: Duration) {
    let mut beat = interval(beat);
    beat.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut requests = JoinSet::new();
    while shared.goes_on() {
        beat.tick().await;
        if requests.len() >= MOST_AT_ONCE {
            requests.join_next().await;
        }
        let shared = shared.clone();
        requests.spawn(async move { shared.note(Habit::Anew, shared.once(PING).await) });
        while requests.try_join_next().is_some() {}
    }
    requests.join_all().await;
}

async fn ask_slowly(shared: Arc<Shared>) {
    while shared.goes_on() {
        shared.note(Habit::Slow, shared.once(BLPOP).await);
    }
}

async fn keep_asking(shared: Arc<Shared>) {
    while shared.goes_on() {
        let mut stream = match shared.dial().await {
            Ok(stream) => stream,
            Err(error) => {
                shared.note(Habit::Pooled, Err(error));
                continue;
            }
        };
        let until = Instant::now() + Duration::from_millis(fastrand::u64(LIVES));
        while shared.goes_on() && Instant::now() < until {
            let answer = ask(&mut stream, PING).await;
            let failed = answer.is_err();
            shared.note(Habit::Pooled, answer);
            if failed {
                break;
            }
            sleep(Duration::from_millis(fastrand::u64(THINKS))).await;
            if is_closed(&stream) {
                shared.tally(Habit::Pooled).cuts.fetch_add(1, Relaxed);
                break;
            }
        }
    }
}

/// As a pool looks before it hands a connection out.
fn is_closed(stream: &TcpStream) -> bool {
    let read = stream.try_read(&mut [0]);
    !read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

async fn ask(stream: &mut TcpStream, (request, answer): (&str, &str)) -> io::Result<()> {
    in_time("sending", stream.write_all(request.as_bytes())).await?;
    let mut bytes = vec![0; answer.len()];
    in_time("reading", stream.read_exact(&mut bytes)).await?;
    if bytes == answer.as_bytes() {
        return Ok(());
    }
    let instead = String::from_utf8_lossy(&bytes);
    Err(io::Error::other(format!("{instead:?} for an answer")))
}

async fn in_time<T>(what: &str, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    let result = timeout(PATIENCE, work).await.map_err(late);
    let result = result.and_then(|result| result);
    result.map_err(|error| io::Error::new(error.kind(), format!("{what}: {error}")))
}
