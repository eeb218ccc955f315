//! A stand-in for the Docker Engine's API, for what no real engine does on demand: a thousand
//! containers in a second, an inspect that hangs, a state that no engine has. It knows the five
//! GETs that sidekick sends, over a Unix socket.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value as Json, json};
use tempfile::TempDir;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::broadcast;
use tokio::task::JoinHandle;

use super::{Idle, Value};

/// A Docker API without an engine.
pub struct StandIn {
    directory: TempDir,
    state: Arc<EngineState>,
    accepting: JoinHandle<()>,
}

/// What it does with a question about one container.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// It answers.
    Answers,
    /// It never answers an inspect.
    Hangs,
    /// It answers what no client can decode: its name is a number.
    Babbles,
}

struct EngineState {
    containers: Mutex<BTreeMap<String, Fake>>,
    events: broadcast::Sender<String>,
    inspects: Mutex<usize>,
    subscriptions: AtomicUsize,
    silent: Mutex<bool>,
}

struct Fake {
    number: u16,
    labelled: bool,
    state: &'static str,
    health: Option<&'static str>,
    started: Duration,
    /// 0: as a container that doesn't run has it.
    pid: u32,
    manner: Manner,
}

impl StandIn {
    /// With no containers.
    pub fn start() -> StandIn {
        let directory = tempfile::tempdir().expect("no temporary directory can be made");
        let listener = UnixListener::bind(directory.path().join("docker.sock"))
            .expect("no Unix socket can be bound");
        let state = Arc::new(EngineState {
            containers: Mutex::default(),
            events: broadcast::Sender::new(8192),
            inspects: Mutex::default(),
            subscriptions: AtomicUsize::new(0),
            silent: Mutex::default(),
        });
        let served = Arc::clone(&state);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, Arc::clone(&served)));
            }
        });
        StandIn {
            directory,
            state,
            accepting,
        }
    }

    /// Its address, as DOCKER_HOST has it.
    pub fn host(&self) -> String {
        format!(
            "unix://{}",
            self.directory.path().join("docker.sock").display()
        )
    }

    /// A running container of that number, with a label; its name is `fake-NUMBER`.
    pub fn run(&self, number: u16) {
        self.run_that(number, Manner::Answers);
    }

    /// The same, with manners.
    pub fn run_that(&self, number: u16, manner: Manner) {
        self.add(number, manner, true);
    }

    /// The same, without labels.
    pub fn run_plain(&self, number: u16) {
        self.add(number, Manner::Answers, false);
    }

    fn add(&self, number: u16, manner: Manner, labelled: bool) {
        let fake = Fake {
            number,
            labelled,
            state: "running",
            health: None,
            started: since_1970(),
            pid: 0,
            manner,
        };
        self.state.all().insert(id(number), fake);
        self.tell(number, "start");
    }

    /// From now on it does so.
    pub fn behave(&self, number: u16, manner: Manner) {
        self.change(number, |fake| fake.manner = manner);
    }

    /// A running container whose first process is this one.
    pub fn run_as(&self, number: u16, process: &Idle) {
        let pid = process.pid();
        self.add(number, Manner::Answers, true);
        self.change(number, |fake| fake.pid = pid);
        self.hint(number);
    }

    /// The same container lives again, as this process.
    pub fn restart_as(&self, number: u16, process: &Idle) {
        let pid = process.pid();
        self.change(number, |fake| {
            (fake.state, fake.started, fake.pid) = ("running", since_1970(), pid);
        });
        self.tell(number, "start");
    }

    /// Its process ends.
    pub fn die(&self, number: u16) {
        self.change(number, |fake| fake.state = "exited");
        self.tell(number, "die");
    }

    /// It is frozen.
    pub fn pause(&self, number: u16) {
        self.change(number, |fake| fake.state = "paused");
        self.tell(number, "pause");
    }

    /// Its state is this word, and its health check's, if it has one. An event that means nothing
    /// tells to look.
    pub fn says(&self, number: u16, state: &'static str, health: Option<&'static str>) {
        self.change(number, |fake| (fake.state, fake.health) = (state, health));
        self.hint(number);
    }

    /// An event that means nothing.
    pub fn hint(&self, number: u16) {
        self.tell(number, "update");
    }

    /// It is removed.
    pub fn remove(&self, number: u16) {
        self.tell(number, "destroy");
        self.state.all().remove(&id(number));
    }

    /// Events happen, and are not sent.
    pub fn keep_silent(&self) {
        *self.state.silent.lock().expect("no thread panics with it") = true;
    }

    /// From now on its clients are told of events again.
    pub fn speak_again(&self) {
        *self.state.silent.lock().expect("no thread panics with it") = false;
    }

    /// How many inspects were asked for.
    pub fn inspects(&self) -> usize {
        *self
            .state
            .inspects
            .lock()
            .expect("no thread panics with it")
    }

    /// How many times its events were asked for.
    pub fn subscriptions(&self) -> usize {
        self.state.subscriptions.load(Ordering::Relaxed)
    }

    /// The key of a container.
    pub fn key(number: u16, host: &str) -> String {
        format!("/services/fake/fake-{number}@{host}")
    }

    /// What is to stand there.
    pub fn value(&self, number: u16, host: &str) -> Value {
        let all = self.state.all();
        Value {
            protocol: None,
            host: host.to_owned(),
            port: port(number),
            container: id(number)[..12].to_owned(),
            since: all.get(&id(number)).map(Fake::since).unwrap_or_default(),
        }
    }

    fn tell(&self, number: u16, action: &str) {
        let event = self
            .state
            .all()
            .get(&id(number))
            .map(|fake| fake.event(action));
        self.state.tell(event.expect("there is such a container"));
    }

    fn change(&self, number: u16, change: impl FnOnce(&mut Fake)) {
        let mut all = self.state.all();
        change(all.get_mut(&id(number)).expect("there is such a container"));
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl EngineState {
    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Fake>> {
        self.containers.lock().expect("no thread panics with it")
    }

    fn tell(&self, event: String) {
        if !*self.silent.lock().expect("no thread panics with it") {
            // There may be no subscriber.
            let _ = self.events.send(event);
        }
    }
}

fn id(number: u16) -> String {
    format!("{number:012x}{}", "5".repeat(52))
}

const fn port(number: u16) -> u16 {
    10_000 + number
}

fn since_1970() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("it is later than 1970")
}

impl Fake {
    fn name(&self) -> String {
        format!("fake-{}", self.number)
    }

    fn labels(&self) -> Json {
        let note = "x".repeat(200);
        match self.labelled {
            true => json!({"sidekick.service": "fake", "com.example.note": note}),
            false => json!({"com.example.note": note}),
        }
    }

    fn since(&self) -> String {
        let nanos = i128::try_from(self.started.as_nanos()).expect("a moment of this age");
        let since = OffsetDateTime::from_unix_timestamp_nanos(nanos).expect("a moment of this age");
        since.format(&Rfc3339).expect("a moment of this age")
    }

    fn event(&self, action: &str) -> String {
        let now = since_1970();
        let mut attributes = self.labels();
        attributes["name"] = self.name().into();
        attributes["exitCode"] = "137".into();
        json!({
            "Type": "container", "Action": action, "time": now.as_secs(), "timeNano": now.as_nanos() as u64,
            "Actor": {"ID": id(self.number), "Attributes": attributes},
        })
        .to_string()
    }

    /// About as long as a real engine's.
    fn listed(&self) -> Json {
        json!({
            "Id": id(self.number), "Names": [format!("/{}", self.name())], "Image": "fake",
            "ImageID": "sha256:".to_owned() + &"6".repeat(64), "Command": "redis-server --save ''",
            "Created": self.started.as_secs(), "State": self.state, "Status": "Up 3 minutes",
            "Labels": self.labels(), "HostConfig": {"NetworkMode": "default"},
            "Ports": [{"IP": "0.0.0.0", "PrivatePort": 6379, "PublicPort": port(self.number), "Type": "tcp"}],
            "NetworkSettings": {"Networks": {"bridge": {"NetworkID": "7".repeat(64), "IPAddress": "172.17.0.2"}}},
            "Mounts": [],
        })
    }

    fn inspected(&self) -> Json {
        let up = !matches!(self.state, "exited" | "stopped");
        let ports = match up {
            true => {
                json!({"6379/tcp": [{"HostIp": "0.0.0.0", "HostPort": port(self.number).to_string()}]})
            }
            false => json!({}),
        };
        let name = match self.manner {
            Manner::Babbles => json!(self.number),
            Manner::Answers | Manner::Hangs => json!(format!("/{}", self.name())),
        };
        json!({
            "Id": id(self.number), "Name": name, "RestartCount": 0,
            "State": {"Status": self.state, "Running": up, "StartedAt": self.since(), "ExitCode": 137,
                "Pid": if up { self.pid } else { 0 },
                "Health": self.health.map(|status| json!({"Status": status, "FailingStreak": 0}))},
            "Config": {"Labels": self.labels(), "Env": vec!["PATH=/usr/local/sbin:/usr/local/bin"; 40]},
            "HostConfig": {"NetworkMode": "default", "MaskedPaths": vec!["/proc/asound"; 40]},
            "NetworkSettings": {"Ports": ports},
        })
    }
}

async fn serve(client: UnixStream, state: Arc<EngineState>) {
    let (reader, mut writer) = client.into_split();
    let mut lines = BufReader::new(reader).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        // The rest of the head is nothing to us, and there are no bodies.
        while matches!(lines.next_line().await, Ok(Some(header)) if !header.is_empty()) {}
        let path = line.split(' ').nth(1).unwrap_or_default();
        let path = path.split('?').next().unwrap_or_default();
        if path == "/events" {
            return events(writer, &state).await;
        }
        let Some(answer) = answer(path, &state) else {
            return std::future::pending().await;
        };
        if writer.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// `None`: never.
fn answer(path: &str, state: &EngineState) -> Option<String> {
    let all = state.all();
    let body = match path {
        "/version" => json!({"ApiVersion": "1.41", "MinAPIVersion": "1.12", "Version": "20.10.24"}),
        "/info" => json!({"Name": "stand-in"}),
        "/containers/json" => all.values().map(Fake::listed).collect(),
        _ => {
            *state.inspects.lock().expect("no thread panics with it") += 1;
            let id = path
                .strip_prefix("/containers/")
                .and_then(|p| p.strip_suffix("/json"));
            match id.and_then(|id| all.get(id)) {
                None => {
                    return Some(http(
                        "404 Not Found",
                        &json!({"message": "no such container"}),
                    ));
                }
                Some(fake) if fake.manner == Manner::Hangs => return None,
                Some(fake) => fake.inspected(),
            }
        }
    };
    Some(http("200 OK", &body))
}

fn http(status: &str, body: &Json) -> String {
    let body = body.to_string();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

async fn events(mut writer: OwnedWriteHalf, state: &EngineState) {
    let mut events = state.events.subscribe();
    state.subscriptions.fetch_add(1, Ordering::Relaxed);
    let head =
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut sent = writer.write_all(head.as_bytes()).await;
    while sent.is_ok() {
        let Ok(event) = events.recv().await else {
            return;
        };
        let chunk = format!("{:x}\r\n{event}\n\r\n", event.len() + 1);
        sent = writer.write_all(chunk.as_bytes()).await;
    }
}
