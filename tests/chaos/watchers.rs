//! Those who only look: at etcd's history, at HAProxy, at the clients' connections, at the clock.

use crate::record::{Cut, Dial, Event, Put, Sample, Trouble, What};
use crate::spans::{Ms, Span};
use etcd_client::{Client, EventType, WatchOptions};
use futures_util::future::select_ok;
use sidekick_harness::Login;
use sidekick_harness::agent::haproxy;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// What has been seen so far, for all watchers together.
#[derive(Clone)]
pub struct Seen {
    began: Instant,
    inner: Arc<Mutex<Inner>>,
}

/// See [`Seen`].
#[derive(Default)]
pub struct Inner {
    /// By revision and key: each member tells each event, and the first to tell counts.
    pub events: BTreeMap<(i64, String), Event>,
    pub troubles: Vec<Trouble>,
    pub samples: Vec<Sample>,
    pub dials: Vec<Dial>,
    pub cuts: Vec<Cut>,
    pub refused: Vec<(Ms, String)>,
    /// Answers that clients got by way of HAProxy.
    pub answers: usize,
}

impl Seen {
    /// The clock starts now.
    pub fn new() -> Seen {
        Seen {
            began: Instant::now(),
            inner: Arc::default(),
        }
    }

    /// Milliseconds since the run began.
    pub fn now(&self) -> Ms {
        i64::try_from(self.began.elapsed().as_millis()).expect("a run is short")
    }

    /// With everything that was seen.
    pub fn with<T>(&self, f: impl FnOnce(&mut Inner) -> T) -> T {
        f(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A trouble begins; it goes on until [`Seen::over`] is told this number.
    pub fn trouble(&self, what: What, from: Ms) -> usize {
        self.with(|seen| {
            let span = Span::new(from, Ms::MAX / 2);
            seen.troubles.push(Trouble { span, what });
            seen.troubles.len() - 1
        })
    }

    /// A trouble is over.
    pub fn over(&self, trouble: usize) {
        let now = self.now();
        self.with(|seen| seen.troubles[trouble].span.to = now + 1);
    }

    /// Whether any trouble goes on.
    pub fn troubled(&self) -> bool {
        self.with(|seen| seen.troubles.iter().any(|t| t.span.to == Ms::MAX / 2))
    }
}

/// Records every change of every key that readers know, by way of one member; again from there when that is back.
pub async fn history(seen: Seen, client: Client) {
    let mut next = 1;
    loop {
        // A watch doesn't renew a token that has died; this does.
        let patience = Duration::from_secs(2);
        let _ = timeout(patience, client.kv_client().get("answers?", None)).await;
        let options = WatchOptions::new().with_prefix();
        let options = options.with_start_revision(next);
        if let Ok(mut stream) = client
            .watch_client()
            .watch(Login::PREFIX, Some(options))
            .await
        {
            while let Ok(Some(answer)) = stream.message().await {
                if answer.canceled() {
                    next = next.max(answer.compact_revision());
                    break;
                }
                let at = seen.now();
                for event in answer.events() {
                    let Some(kv) = event.kv() else { continue };
                    next = kv.mod_revision() + 1;
                    let key = String::from_utf8_lossy(kv.key()).into_owned();
                    let put = (event.event_type() == EventType::Put).then(|| Put {
                        value: String::from_utf8_lossy(kv.value()).into_owned(),
                        lease: kv.lease(),
                        version: kv.version(),
                    });
                    let revision = kv.mod_revision();
                    seen.with(|seen| {
                        let entry = seen.events.entry((revision, key.clone()));
                        entry.or_insert(Event {
                            at,
                            revision,
                            key,
                            put,
                        });
                    });
                }
            }
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Notices when nothing of this process ran for a while.
pub async fn stalls(seen: Seen) {
    const TICK: Ms = 50;
    const TOO_LONG: Ms = 300;
    let mut last = seen.now();
    loop {
        sleep(Duration::from_millis(TICK as u64)).await;
        let now = seen.now();
        if now - last > TOO_LONG {
            let span = Span::new(last, now);
            let what = What::Stall;
            seen.with(|seen| seen.troubles.push(Trouble { span, what }));
        }
        last = now;
    }
}

/// Notices when no member answers a read that takes a leader.
pub async fn leaders(seen: Seen, members: Vec<Client>) {
    const PAUSE: Duration = Duration::from_millis(200);
    const PATIENCE: Duration = Duration::from_secs(1);
    const TOO_LONG: Ms = 1000;
    let key = format!("{}answers?", Login::PREFIX);
    let mut last = seen.now();
    loop {
        let asked = seen.now();
        let mut clients: Vec<_> = members.iter().map(Client::kv_client).collect();
        let reads = clients
            .iter_mut()
            .map(|client| Box::pin(client.get(key.as_str(), None)));
        let answered = timeout(PATIENCE, select_ok(reads)).await;
        if matches!(answered, Ok(Ok(_))) {
            let span = Span::new(last, seen.now());
            if span.length() > TOO_LONG {
                let what = What::NoLeader;
                seen.with(|seen| seen.troubles.push(Trouble { span, what }));
            }
            last = asked;
        }
        sleep(PAUSE).await;
    }
}

/// Looks at what HAProxy serves four times a second, and lets HAProxy check each new file.
pub async fn serving(seen: Seen, socket: PathBuf, file: PathBuf) {
    let mut checked = String::new();
    loop {
        let at = seen.now();
        let text = ask(&socket, "@1 show servers state").await;
        let servers = text.filter(|text| text.contains("srv_name"));
        let servers = servers.map(|text| servers_in(&text));
        seen.with(|seen| seen.samples.push(Sample { at, servers }));
        let now = std::fs::read_to_string(&file).unwrap_or_default();
        if now != checked {
            if let Err(why) = boots(&now, &file).await {
                seen.with(|seen| seen.refused.push((at, why)));
            }
            checked = now;
        }
        sleep(Duration::from_millis(250)).await;
    }
}

/// One line to HAProxy's master; nothing where it doesn't answer.
pub async fn ask(socket: &Path, line: &str) -> Option<String> {
    let answer = haproxy::ask(socket, line);
    timeout(Duration::from_secs(1), answer).await.ok().flatten()
}

/// `service/server` → port of each that may be given a new connection, with a word where it isn't up for use.
fn servers_in(text: &str) -> BTreeMap<String, String> {
    let rows = text
        .lines()
        .skip(2)
        .map(|line| line.split(' ').collect::<Vec<_>>());
    // One that drains has left etcd, and keeps only the connections that it has.
    let serving = rows.filter(|row| row.len() > 18 && row[6] != "8");
    let servers = serving.map(|row| {
        let admin = if row[6] == "0" { "" } else { " maint" };
        let name = format!("{}/{}", row[1], row[3]);
        (name, format!("{}{admin}", row[18]))
    });
    servers.collect()
}

/// Whether HAProxy takes this text: a copy of its own, for the file may change meanwhile.
async fn boots(text: &str, file: &Path) -> Result<(), String> {
    let copy = file.with_extension("checked");
    std::fs::write(&copy, text).map_err(|error| error.to_string())?;
    haproxy::boots(&copy).await
}

/// A client that dials a service, asks who answers, and holds on to the connection while it lasts.
pub async fn client(seen: Seen, service: &'static str, port: u16) {
    loop {
        let dialled_at = seen.now();
        let dialled = timeout(Duration::from_secs(2), dial(port)).await;
        if let Ok(Some((mut stream, container))) = dialled {
            let opened = seen.now();
            let dial = Dial {
                span: Span::new(dialled_at, opened),
                service: service.to_owned(),
                container,
            };
            seen.with(|seen| seen.dials.push(dial));
            let mut well = opened;
            while timeout(Duration::from_secs(3), ping(&mut stream)).await == Ok(Some(())) {
                well = seen.now();
                seen.with(|seen| seen.answers += 1);
                sleep(Duration::from_millis(200)).await;
            }
            let cut = Cut {
                opened,
                span: Span::new(well, seen.now()),
                service: service.to_owned(),
                container,
            };
            seen.with(|seen| seen.cuts.push(cut));
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// Each Redis is told its number in the name of its pid file.
async fn dial(port: u16) -> Option<(BufReader<TcpStream>, usize)> {
    let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", port)).await.ok()?);
    let question = b"CONFIG GET pidfile\r\n";
    stream.get_mut().write_all(question).await.ok()?;
    let mut line = String::new();
    while !line.starts_with("/c") {
        line.clear();
        stream.read_line(&mut line).await.ok().filter(|n| *n > 0)?;
    }
    let number = line.trim().strip_prefix("/c")?.strip_suffix(".pid")?;
    Some((stream, number.parse().ok()?))
}

async fn ping(stream: &mut BufReader<TcpStream>) -> Option<()> {
    stream.get_mut().write_all(b"PING\r\n").await.ok()?;
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    (line == "+PONG\r\n").then_some(())
}
