//! A wire between sidekick and a real part, that can be cut, slowed and tampered with while it runs.

use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, yield_now};
use tokio::time::{sleep, timeout};

use super::engine_clock::EngineClock;
use super::listener::Stranger;
use super::ports;
use super::wire::{Direction, Wire, mirrored};

/// A proxy before one server, TCP or unix on either side.
pub struct Proxy {
    address: Address,
    wire: watch::Sender<Wire>,
    clock: Clock,
    accepting: JoinHandle<()>,
    _directory: Option<TempDir>,
}

/// The clock of the engine behind the proxy, where that is one.
pub(super) type Clock = Arc<Mutex<EngineClock>>;

/// The address of a listener.
#[derive(Clone, Debug)]
pub(crate) enum Address {
    /// `HOST:PORT`
    Tcp(String),
    /// A socket's path.
    Unix(PathBuf),
}

impl Proxy {
    /// A proxy before the server at an `http://HOST:PORT`.
    pub async fn before(url: &str) -> Proxy {
        let server = url.trim_start_matches("http://").to_owned();
        let own = Address::Tcp(format!("{}:{}", Ipv4Addr::LOCALHOST, ports::free()));
        Proxy::between(own, Address::Tcp(server), None, &[])
    }

    /// A proxy before the Docker Engine at a `unix://PATH`.
    pub async fn before_engine(host: &str) -> Proxy {
        Proxy::before_engine_as(host, &[]).await
    }

    /// The same, whose listener another process is, as far as a client can see by SO_PEERCRED: one that is started by this
    /// command, calls listen(2) on its standard input, says so by a line, and lives on.
    pub async fn before_engine_as(host: &str, listener: &[String]) -> Proxy {
        let server = PathBuf::from(host.trim_start_matches("unix://"));
        let directory = tempfile::tempdir().expect("no temporary directory can be made");
        let own = Address::Unix(directory.path().join("docker.sock"));
        let proxy = Proxy::between(own, Address::Unix(server), Some(directory), listener);
        proxy.listens().await;
        proxy
    }

    /// A proxy on all addresses of this machine before a server on a socket.
    pub fn published(port: u16, socket: PathBuf) -> Proxy {
        let own = Address::Tcp(format!("{}:{port}", Ipv4Addr::UNSPECIFIED));
        Proxy::between(own, Address::Unix(socket), None, &[])
    }

    fn between(
        own: Address,
        server: Address,
        directory: Option<TempDir>,
        listener: &[String],
    ) -> Proxy {
        let (wire, state) = watch::channel(Wire::Whole);
        let clock = Clock::default();
        let ends = (own.clone(), listener.to_vec(), server);
        let accepting = tokio::spawn(accept(ends, state, Arc::clone(&clock)));
        Proxy {
            address: own,
            wire,
            clock,
            accepting,
            _directory: directory,
        }
    }

    /// The URL to dial instead of the server's own: `http://…` or `unix://…`.
    pub fn url(&self) -> String {
        match &self.address {
            Address::Tcp(address) => format!("http://{address}"),
            Address::Unix(path) => format!("unix://{}", path.display()),
        }
    }

    /// From now on the wire is so.
    pub fn set(&self, wire: Wire) {
        self.wire.send_replace(wire);
    }

    /// Connections old and new stay open and are never answered.
    pub fn black_hole(&self) {
        self.set(Wire::BlackHole);
    }

    /// Connections old and new break at once.
    pub fn refuse(&self) {
        self.set(Wire::Refuse);
    }

    /// New connections pass again.
    pub fn pass(&self) {
        self.set(Wire::Whole);
    }

    /// The engine's clock is stepped by so many seconds, as far as who asks through this proxy can see.
    pub fn step_clock(&self, seconds: i64) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.expect("it is later than 1970");
        let mut clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        clock.step(now, seconds);
    }

    /// Every connection is reset; new ones pass.
    pub async fn cut(&self) {
        self.set(Wire::Reset);
        let what = "every connection has ended";
        super::eventually(super::SOON, what, async || {
            // One is for who accepts, and one for who watches whether it is to.
            self.wire.receiver_count() <= 2
        })
        .await;
        self.pass();
    }

    async fn listens(&self) {
        if let Address::Unix(path) = &self.address {
            super::eventually(super::SOON, "the proxy listens", async || path.exists()).await;
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf, Option<Stranger>),
}

/// The socket's file goes with its listener.
impl Drop for Listener {
    fn drop(&mut self) {
        if let Listener::Unix(_, path, stranger) = self {
            drop(stranger.take());
            let _ = std::fs::remove_file(path);
        }
    }
}

async fn accept(
    (own, listener, server): (Address, Vec<String>, Address),
    mut wire: watch::Receiver<Wire>,
    clock: Clock,
) {
    loop {
        if wire.wait_for(|&wire| wire != Wire::Refuse).await.is_err() {
            return;
        }
        let bound = match &own {
            Address::Tcp(address) => TcpListener::bind(address).await.map(Listener::Tcp),
            Address::Unix(path) => bind(path, &listener),
        };
        let listener = bound.expect("the proxy's address is taken");
        let mut until_refused = wire.clone();
        loop {
            // Both arms may be dropped: an accept that is not ready has taken nothing, a wait looks again.
            tokio::select! {
                accepted = listener.accept(&server, &wire, &clock) => accepted.expect("the proxy cannot accept"),
                _ = until_refused.wait_for(|&wire| wire == Wire::Refuse) => break,
            }
        }
    }
}

/// Nobody finds the socket before its listener is who it is to be.
fn bind(path: &Path, listener: &[String]) -> io::Result<Listener> {
    let draft = path.with_extension("draft");
    let bound = std::os::unix::net::UnixListener::bind(&draft)?;
    bound.set_nonblocking(true)?;
    let stranger = (!listener.is_empty()).then(|| Stranger::listens(&bound, listener));
    std::fs::rename(&draft, path)?;
    UnixListener::from_std(bound).map(|bound| Listener::Unix(bound, path.to_owned(), stranger))
}

impl Listener {
    async fn accept(
        &self,
        server: &Address,
        wire: &watch::Receiver<Wire>,
        clock: &Clock,
    ) -> io::Result<()> {
        match self {
            Listener::Tcp(listener) => {
                let (client, _) = listener.accept().await?;
                let (server, wire, clock) = (server.clone(), wire.clone(), Arc::clone(clock));
                tokio::spawn(carry(client, server, wire, clock));
            }
            Listener::Unix(listener, ..) => {
                let (client, _) = listener.accept().await?;
                let (server, wire, clock) = (server.clone(), wire.clone(), Arc::clone(clock));
                tokio::spawn(carry(client, server, wire, clock));
            }
        }
        Ok(())
    }
}

pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {
    /// When it is dropped the peer is told that it was reset, where there is such a word.
    fn reset(&self);
}

impl Stream for TcpStream {
    fn reset(&self) {
        let _ = self.set_zero_linger();
    }
}

impl Stream for UnixStream {
    fn reset(&self) {}
}

/// One connection. However it ends, both sides see it end.
pub(super) async fn carry(
    client: impl Stream,
    server: Address,
    mut wire: watch::Receiver<Wire>,
    clock: Clock,
) {
    let now = *wire.borrow_and_update();
    match now {
        Wire::Reset => return client.reset(),
        Wire::Reorder(window) => unless_changed(&mut wire, until_its_turn(window)).await,
        _ => {}
    }
    // An error is a connection that broke, and breaks the other.
    let _ = match server {
        Address::Tcp(address) => match TcpStream::connect(address).await {
            Ok(server) => between(client, server, wire, clock).await,
            Err(error) => Err(error),
        },
        Address::Unix(path) => match UnixStream::connect(path).await {
            Ok(server) => between(client, server, wire, clock).await,
            Err(error) => Err(error),
        },
    };
}

async fn between(
    mut client: impl Stream,
    mut server: impl Stream,
    mut wire: watch::Receiver<Wire>,
    clock: Clock,
) -> io::Result<()> {
    let (mut held_up, mut held_down) = (Vec::new(), Vec::new());
    let (mut up, mut down) = (vec![0; 16_384], vec![0; 16_384]);
    let (mut client_ended, mut server_ended) = (false, false);
    let (mut lost, mut carried, mut listening) = (false, 0, false);
    while !(client_ended && server_ended) {
        // A read that is not ready has taken nothing; a wire's change is seen at the next turn.
        let (way, length) = tokio::select! {
            read = client.read(&mut up), if !client_ended => (Direction::Up, read?),
            read = server.read(&mut down), if !server_ended => (Direction::Down, read?),
            changed = wire.changed() => {
                let now = *wire.borrow_and_update();
                if now == Wire::Reset {
                    client.reset();
                }
                let hole = now.swallows(Direction::Up) || now.swallows(Direction::Down);
                if changed.is_err() || matches!(now, Wire::Reset | Wire::Refuse) || lost && !hole {
                    return Ok(());
                }
                continue;
            }
        };
        let now = *wire.borrow();
        let ended = if way == Direction::Up {
            &mut client_ended
        } else {
            &mut server_ended
        };
        *ended = length == 0;
        if now.swallows(way) {
            // Also the end: a black hole doesn't answer to that either.
            lost = true;
            if client_ended && server_ended {
                let _ = wire.wait_for(|wire| !wire.swallows(way)).await;
            }
            continue;
        }
        if length == 0 {
            match way {
                Direction::Up => server.shutdown().await?,
                Direction::Down => client.shutdown().await?,
            }
            continue;
        }
        let (held, read) = match way {
            Direction::Up => (&mut held_up, &up[..length]),
            Direction::Down => (&mut held_down, &down[..length]),
        };
        held.extend_from_slice(read);
        let ready = clock
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .shift(way, held);
        let mut chunk: Vec<u8> = held.drain(..ready).collect();
        let length = chunk.len();
        let is_request = way == Direction::Up && chunk.starts_with(b"GET ");
        if is_request {
            listening = find(&chunk, b"/events").is_some();
        }
        carried += length;
        let mut last = false;
        match now {
            Wire::Delay(pause) => unless_changed(&mut wire, pause).await,
            Wire::Reorder(window) => unless_changed(&mut wire, until_its_turn(window)).await,
            Wire::SlowRequests(pause) if is_request => unless_changed(&mut wire, pause).await,
            Wire::DropAfter(limit) if carried > limit => {
                chunk.truncate(length - (carried - limit).min(length));
                last = true;
            }
            Wire::Status500 if is_request => return client.write_all(ANSWER_500).await,
            Wire::StrangeState if way == Direction::Down => rename_state(&mut chunk),
            Wire::CutEvent if way == Direction::Down && listening => {
                if let Some(start) = find(&chunk, b"{\"") {
                    chunk.truncate((start + length) / 2);
                    last = true;
                }
            }
            Wire::StrangeEvent
                if way == Direction::Down && listening && chunk.ends_with(b"}\n\r\n") =>
            {
                let length = format!("{:x}\r\n", STRANGE_EVENT.len());
                chunk.extend([length.as_bytes(), STRANGE_EVENT, b"\r\n"].concat());
            }
            _ => {}
        }
        if matches!(*wire.borrow(), Wire::Reset | Wire::Refuse) {
            return Ok(());
        }
        let to: &mut dyn Stream = if way == Direction::Up {
            &mut server
        } else {
            &mut client
        };
        if now == Wire::Trickle {
            let mut bytes = chunk.drain(..);
            while let Some(byte) = bytes.next() {
                to.write_all(&[byte]).await?;
                match bytes.len() % 8 {
                    _ if *wire.borrow() != Wire::Trickle => break,
                    0 => sleep(Duration::from_millis(1)).await,
                    _ => yield_now().await,
                }
            }
            let rest: Vec<u8> = bytes.collect();
            to.write_all(&rest).await?;
        } else {
            to.write_all(&chunk).await?;
        }
        if last {
            return Ok(());
        }
    }
    Ok(())
}

/// By one clock for all connections, or there would be no order between them.
fn until_its_turn(window: Duration) -> Duration {
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    mirrored(BEGAN.elapsed(), window)
}

/// A delay ends with the wire's being so.
async fn unless_changed(wire: &mut watch::Receiver<Wire>, pause: Duration) {
    let now = *wire.borrow();
    let _ = timeout(pause, wire.wait_for(|&wire| wire != now)).await;
}

const ANSWER_500: &[u8] =
    b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\n\
    Content-Length: 18\r\nConnection: close\r\n\r\n{\"message\":\"boom\"}";

const STRANGE_EVENT: &[u8] =
    b"{\"Type\":\"container\",\"Action\":\"levitate\",\"Actor\":{\"ID\":\"0\",\
    \"Attributes\":{\"name\":7}},\"scope\":\"local\",\"time\":1,\"timeNano\":1}\n";

/// A word of the same length: the length that the answer's head tells stays right.
fn rename_state(chunk: &mut [u8]) {
    while let Some(at) = find(chunk, b"\"Status\":\"running\"") {
        chunk[at..at + 18].copy_from_slice(b"\"Status\":\"jogging\"");
    }
}

fn find(text: &[u8], word: &[u8]) -> Option<usize> {
    text.windows(word.len()).position(|window| window == word)
}
