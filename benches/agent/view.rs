//! Looking at HAProxy from outside: by its worker's own socket, and as a client that dials.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// Between two looks, to leave the two cores to who is measured.
const PAUSE: Duration = Duration::from_micros(200);

/// Longer than this is no latency any more but a failure.
const PATIENCE: Duration = Duration::from_secs(20);

/// A held connection to a worker's socket.
pub struct View(UnixStream);

impl View {
    pub fn open(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut view = Self(stream);
        // From now on the answers end with a prompt, and the connection stays.
        view.tell("prompt")?;
        Ok(view)
    }

    /// One line of commands, and what is answered.
    pub fn tell(&mut self, line: &str) -> io::Result<String> {
        self.0.write_all(format!("{line}\n").as_bytes())?;
        let (mut answer, mut piece) = (Vec::new(), [0; 65_536]);
        while !answer.ends_with(b"\n> ") {
            match self.0.read(&mut piece)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => answer.extend_from_slice(&piece[..n]),
            }
        }
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// `show servers state` of one backend, or of all (`""`): who is there, and who takes connections.
    pub fn servers(&mut self, backend: &str) -> io::Result<BTreeMap<String, bool>> {
        let text = self.tell(&format!("show servers state {backend}"))?;
        let rows = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        // Backend and server, and srv_admin_state: no maintenance, no drain.
        let rows = rows.filter(|row| row.len() > 18 && row[0] != "#");
        let servers = rows.map(|row| (format!("{}/{}", row[1], row[3]), row[6] == "0"));
        Ok(servers.collect())
    }
}

/// What became of a change, since it was asked for.
pub struct Seen {
    /// `show servers state` has it (or has it no more).
    pub by_state: Duration,
    /// A client that dials is served (or is refused).
    pub by_client: Duration,
}

/// Waits until a backend's only server is there and serves, or is gone and clients are refused.
pub fn watch(view: &mut View, backend: &str, port: u16, there: bool, begun: Instant) -> Seen {
    let (mut by_state, mut by_client) = (None, None);
    loop {
        assert!(
            begun.elapsed() < PATIENCE,
            "{backend} doesn't become what it should be"
        );
        if by_client.is_none() && dial(port) == there {
            by_client = Some(begun.elapsed());
        }
        if by_state.is_none() {
            let servers = view.servers(backend).expect("HAProxy answers");
            let as_wished = if there {
                servers.values().any(|takes| *takes)
            } else {
                servers.is_empty()
            };
            by_state = as_wished.then(|| begun.elapsed());
        }
        if let (Some(by_state), Some(by_client)) = (by_state, by_client) {
            return Seen {
                by_state,
                by_client,
            };
        }
        std::thread::sleep(PAUSE);
    }
}

/// Whether a server answers a new connection.
pub fn dial(port: u16) -> bool {
    let answer = || -> io::Result<bool> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut name = String::new();
        BufReader::new(stream).read_line(&mut name)?;
        Ok(!name.is_empty())
    };
    // A connection that is reset is as good a refusal as one that is closed.
    answer().unwrap_or(false)
}
