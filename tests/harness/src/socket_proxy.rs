//! HAProxy before an engine's socket.

use std::collections::BTreeMap;
use std::fs;
use std::net::UdpSocket;
use std::sync::Mutex;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::engine::Engine;
use super::ports;
use super::wait::{eventually, secs};
use super::warden::{Charge, Warden};

/// Lets through the GETs that sidekick needs, and keeps a list of all that was asked for.
pub struct SocketProxy {
    warden: Warden,
    port: u16,
    log: UdpSocket,
    requests: Mutex<BTreeMap<String, usize>>,
}

impl SocketProxy {
    /// A proxy that refuses /info too.
    pub async fn without_info(engine: &Engine) -> SocketProxy {
        SocketProxy::with(engine, "no-such-path", "1h").await
    }

    /// A proxy that ends whatever says nothing for 2 s, an event stream for one.
    pub async fn impatient(engine: &Engine) -> SocketProxy {
        SocketProxy::with(engine, "info", "2s").await
    }

    /// A proxy before an engine.
    pub async fn before(engine: &Engine) -> SocketProxy {
        SocketProxy::with(engine, "info", "1h").await
    }

    async fn with(engine: &Engine, info: &str, idle: &str) -> SocketProxy {
        let directory = Warden::directory_for("socket-proxy", &["haproxy", "setpriv"]);
        let port = ports::free();
        // Not a file: HAProxy empties one when it starts.
        let log = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
        log.set_nonblocking(true).expect("a socket can be polled");
        let log_port = log.local_addr().expect("it is bound").port();
        let socket = engine.host().trim_start_matches("unix://").to_owned();
        let configuration = include_str!("socket_proxy.cfg")
            .replace("SOCKET", &socket)
            .replace("PORT", &port.to_string())
            .replace("LOG", &log_port.to_string())
            .replace("IDLE", idle)
            .replace("INFO", info);
        let file = directory.join("haproxy.cfg");
        fs::write(&file, configuration).expect("HAProxy's configuration cannot be written");
        let server = ["haproxy", "-db", "-f", &file.display().to_string()];
        let charge = Charge {
            directory,
            surroundings: Vec::new(),
            server: server.map(str::to_owned).to_vec(),
        };
        let proxy = SocketProxy {
            warden: Warden::of(charge),
            port,
            log,
            requests: Mutex::default(),
        };
        proxy.start_again().await;
        proxy
    }

    /// Its address, as DOCKER_HOST has it.
    pub fn host(&self) -> String {
        format!("tcp://127.0.0.1:{}", self.port)
    }

    /// Kills it; every connection through it breaks.
    pub async fn kill9(&self) {
        self.warden.end_with("KILL").await;
    }

    /// Starts it, for the first time or again, and waits until it lets a ping through.
    pub async fn start_again(&self) {
        self.warden.start();
        eventually(secs(20), "the socket proxy answers", async || {
            self.status("GET /_ping").await == Some(200)
        })
        .await;
    }

    /// Asks it for a method and a path; tells the status.
    pub async fn status(&self, request: &str) -> Option<u16> {
        let address = ("127.0.0.1", self.port);
        let mut stream = TcpStream::connect(address).await.ok()?;
        let request = format!("{request} HTTP/1.0\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        answer.split(' ').nth(1)?.parse().ok()
    }

    /// What has been asked for so far, with how often: `200 GET /containers/{id}/json`. An event stream is in it
    /// when it has ended.
    pub fn requests(&self) -> BTreeMap<String, usize> {
        let mut requests = self.requests.lock().expect("a reader panicked");
        let mut line = [0; 2048];
        while let Ok(length) = self.log.recv(&mut line) {
            let line = String::from_utf8_lossy(&line[..length]);
            let words: Vec<&str> = line.split_whitespace().collect();
            // What HAProxy says of itself, when it starts, is no request.
            if let [status, method, path] = words[..]
                && status.parse::<i16>().is_ok()
            {
                let request = format!("{status} {method} {}", general(path));
                *requests.entry(request).or_default() += 1;
            }
        }
        requests.clone()
    }
}

/// Without the API's version and the container's name.
fn general(path: &str) -> String {
    let path = match path.strip_prefix("/v1.") {
        Some(rest) => &rest[rest.find('/').unwrap_or_default()..],
        None => path,
    };
    let parts: Vec<&str> = path.split('/').collect();
    match parts[..] {
        ["", "containers", _, "json"] => "/containers/{id}/json".to_owned(),
        _ => path.to_owned(),
    }
}
