//! A constant load through HAProxy: connections that stay, and clients that dial again all the time.
//! Counts what broke.

use crate::log::Log;
use sidekick_harness::bench::usage::Usage;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Connections that stay, dialled before anything changes: all to servers that stay.
const HELD: usize = 64;
const HELD_PAUSE: Duration = Duration::from_millis(20);

/// Clients of which each dials, asks, hangs up, and dials again.
const DIALLING: usize = 16;
const DIALLING_PAUSE: Duration = Duration::from_millis(10);

/// The load in words.
pub const WORDS: &str =
    "64 connections held, each asking every 20 ms; 16 clients dialling again every 10 ms";

/// An answer takes a millisecond; one that takes longer than this is none.
const PATIENCE: Duration = Duration::from_secs(5);

/// What became of the requests.
#[derive(Default)]
pub struct Tally {
    pub on_held: usize,
    pub on_new: usize,
    /// Held connections that broke.
    pub cut: Vec<Failure>,
    /// New ones that didn't come about, or broke.
    pub failed: Vec<Failure>,
    /// New ones whose server was removed under them, and so broke on purpose.
    pub removed: usize,
    pub slowest: Duration,
}

impl Tally {
    /// HAProxy's own log tells which connections it ended because their server was removed: `K`,
    /// killed by the administrator.
    pub fn judged_by(mut self, log: &Log, who: &str) -> Self {
        let all = self.failed.len();
        self.failed.retain(|failure| {
            !log.ending(failure.port)
                .is_some_and(|state| state.starts_with('K'))
        });
        self.removed = all - self.failed.len();
        for failure in self.cut.iter().chain(&self.failed) {
            let ending = log.ending(failure.port).unwrap_or_default();
            println!("{who}: a request failed: {} {ending}", failure.why);
        }
        self
    }
}

/// What a way of changing HAProxy did to the load.
pub struct Outcome {
    pub changes: usize,
    pub took: Duration,
    pub tally: Tally,
    pub reloads: usize,
    /// What each of HAProxy's processes holds in the end, in KiB.
    pub processes: Vec<u64>,
}

/// The memory of those that still run, in KiB.
pub fn resident(pids: impl IntoIterator<Item = u32>) -> Vec<u64> {
    let resident = pids.into_iter().map(|pid| Usage::of(pid).resident);
    resident.filter(|resident| *resident > 0).collect()
}

/// Side by side.
pub fn print(columns: [(&str, &Outcome); 2]) {
    let row = |name: &str, value: &dyn Fn(&Outcome) -> String| {
        let values = columns.map(|(_, outcome)| format!("{:>14}", value(outcome)));
        println!("{name:<48}{}", values.concat());
    };
    println!(
        "{:<48}{}",
        "",
        columns.map(|(who, _)| format!("{who:>14}")).concat()
    );
    row("changes of instances", &|it| it.changes.to_string());
    row("  seconds, to the last one's being there", &|it| {
        format!("{:.1}", it.took.as_secs_f64())
    });
    row("requests answered on held connections", &|it| {
        it.tally.on_held.to_string()
    });
    row("requests answered on new connections", &|it| {
        it.tally.on_new.to_string()
    });
    row("  slowest, milliseconds", &|it| {
        format!("{:.0}", it.tally.slowest.as_secs_f64() * 1000.0)
    });
    row("held connections cut", &|it| it.tally.cut.len().to_string());
    row("requests failed", &|it| it.tally.failed.len().to_string());
    row("requests whose server was removed under them", &|it| {
        it.tally.removed.to_string()
    });
    row("reloads", &|it| it.reloads.to_string());
    row("processes of HAProxy at the end", &|it| {
        it.processes.len().to_string()
    });
    row("  their memory, KiB", &|it| {
        it.processes.iter().sum::<u64>().to_string()
    });
}

/// By the client's port it is found in HAProxy's log.
#[derive(Debug)]
pub struct Failure {
    pub port: u16,
    pub why: String,
}

/// Clients at work.
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: JoinSet<Tally>,
}

impl Load {
    /// Returns when every held connection has been answered once.
    pub async fn start(port: u16) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let mut clients = JoinSet::new();
        for _ in 0..HELD {
            let client = Client::dial(port).await;
            let client = client.unwrap_or_else(|failure| panic!("no connection: {}", failure.why));
            clients.spawn(hold(client, stop.clone()));
        }
        for _ in 0..DIALLING {
            clients.spawn(dial_again(port, stop.clone()));
        }
        Self { stop, clients }
    }

    /// Ends it.
    pub async fn stop(mut self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Tally::default();
        while let Some(tally) = self.clients.join_next().await {
            let tally = tally.expect("a client doesn't panic");
            all.on_held += tally.on_held;
            all.on_new += tally.on_new;
            all.cut.extend(tally.cut);
            all.failed.extend(tally.failed);
            all.slowest = all.slowest.max(tally.slowest);
        }
        all
    }
}

async fn hold(mut client: Client, stop: Arc<AtomicBool>) -> Tally {
    let mut tally = Tally::default();
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        if let Err(failure) = client.ask().await {
            tally.cut.push(failure);
            break;
        }
        tally.on_held += 1;
        tally.slowest = tally.slowest.max(begun.elapsed());
        sleep(HELD_PAUSE).await;
    }
    tally
}

async fn dial_again(port: u16, stop: Arc<AtomicBool>) -> Tally {
    let mut tally = Tally::default();
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let request = async { Client::dial(port).await?.ask().await };
        match request.await {
            Ok(()) => tally.on_new += 1,
            Err(failure) => tally.failed.push(failure),
        }
        tally.slowest = tally.slowest.max(begun.elapsed());
        sleep(DIALLING_PAUSE).await;
    }
    tally
}

struct Client {
    stream: BufReader<TcpStream>,
    port: u16,
}

impl Client {
    /// Connects, and waits for the backend's name.
    async fn dial(port: u16) -> Result<Self, Failure> {
        let dialled = in_time(TcpStream::connect(("127.0.0.1", port))).await;
        let failure = |error| Failure {
            port: 0,
            why: format!("dialling: {error}"),
        };
        let stream = dialled.map_err(failure)?;
        let own_port = stream.local_addr().map_err(failure)?.port();
        let mut client = Self {
            stream: BufReader::new(stream),
            port: own_port,
        };
        client.line().await?;
        Ok(client)
    }

    /// One request, one answer.
    async fn ask(&mut self) -> Result<(), Failure> {
        let asked = in_time(self.stream.get_mut().write_all(b"ping\n")).await;
        asked.map_err(|error| self.failure(&error))?;
        let answer = self.line().await?;
        if answer == "ping\n" {
            Ok(())
        } else {
            Err(self.failure(&io::Error::other(format!("{answer:?} for an answer"))))
        }
    }

    async fn line(&mut self) -> Result<String, Failure> {
        let mut line = String::new();
        match in_time(self.stream.read_line(&mut line)).await {
            Ok(0) => Err(self.failure(&io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => Ok(line),
            Err(error) => Err(self.failure(&error)),
        }
    }

    fn failure(&self, error: &io::Error) -> Failure {
        Failure {
            port: self.port,
            why: error.to_string(),
        }
    }
}

async fn in_time<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    timeout(PATIENCE, work).await.map_err(late)?
}
