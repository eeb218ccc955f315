//! A name server that answers, or hangs, and the surroundings in which a process asks nothing but it.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tempfile::TempDir;

/// Knows every name, at 127.0.0.1, unless it hangs: whoever asks it then waits for the resolver's own timeouts.
pub struct NameServer {
    directory: TempDir,
    state: Arc<ServerState>,
}

#[derive(Default)]
struct ServerState {
    hangs: AtomicBool,
    is_over: AtomicBool,
}

/// In a mount namespace of its own, since resolv.conf(5) has no environment variable.
const BEGIN: &str = r#"mount --bind "$0/resolv.conf" /etc/resolv.conf &&
    mount --bind "$0/nsswitch.conf" /etc/nsswitch.conf && exec "$@""#;

impl NameServer {
    /// One that answers.
    pub fn start() -> NameServer {
        // On an address of its own below 127.0.0.0/8, for resolv.conf(5) knows no port but 53.
        let mut addresses = (0..100).map(|_| {
            let [a, b] = [fastrand::u8(1..255), fastrand::u8(1..255)];
            format!("127.53.{a}.{b}")
        });
        let bound = addresses.find_map(|address| {
            let socket = UdpSocket::bind((address.as_str(), 53)).ok()?;
            Some((address, socket))
        });
        let (address, socket) = bound.expect("no address has a free port 53; are you root?");
        let directory = tempfile::tempdir().expect("no temporary directory can be made");
        for (file, text) in [
            ("resolv.conf", format!("nameserver {address}\n")),
            ("nsswitch.conf", "hosts: files dns\n".to_owned()),
        ] {
            std::fs::write(directory.path().join(file), text).expect("it is ours");
        }
        let state = Arc::<ServerState>::default();
        let seen = state.clone();
        std::thread::spawn(move || serve(&socket, &seen));
        NameServer { directory, state }
    }

    /// One that hangs from the beginning.
    pub fn hanging() -> NameServer {
        let server = NameServer::start();
        server.hang(true);
        server
    }

    /// From now on a query gets neither an answer nor an ICMP error; or an answer again.
    pub fn hang(&self, hangs: bool) {
        self.state.hangs.store(hangs, Ordering::Relaxed);
    }

    /// The command that starts another, appended to it, with this name server alone.
    pub fn surroundings(&self) -> Vec<String> {
        let directory = self.directory.path().display().to_string();
        let words = ["unshare", "--mount", "sh", "-c", BEGIN];
        words
            .map(str::to_owned)
            .into_iter()
            .chain([directory])
            .collect()
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.state.is_over.store(true, Ordering::Relaxed);
    }
}

fn serve(socket: &UdpSocket, state: &ServerState) {
    let often = Some(Duration::from_millis(200));
    socket.set_read_timeout(often).expect("it is no zero");
    let mut query = [0; 512];
    while !state.is_over.load(Ordering::Relaxed) {
        if let Ok((length, from)) = socket.recv_from(&mut query)
            && !state.hangs.load(Ordering::Relaxed)
            && let Some(answer) = answer(&query[..length])
        {
            let _ = socket.send_to(&answer, from);
        }
    }
}

/// RFC 1035, section 4.1: 127.0.0.1 to a question for A, nothing to any other; `None` to what is no question.
fn answer(query: &[u8]) -> Option<Vec<u8>> {
    const HEADER: usize = 12;
    let name = query.get(HEADER..)?.iter().position(|byte| *byte == 0)?;
    let question = query.get(HEADER..HEADER + name + 5)?;
    let is_for_a = question.ends_with(&[0, 1, 0, 1]);
    let mut answer = query.get(..2)?.to_vec();
    // A response, recursion available, no error; one question and as many answers as there are.
    answer.extend([0x81, 0x80, 0, 1, 0, u8::from(is_for_a), 0, 0, 0, 0]);
    answer.extend(question);
    if is_for_a {
        // The question's name, A, IN, for no second, four bytes.
        answer.extend([
            0xc0,
            HEADER as u8,
            0,
            1,
            0,
            1,
            0,
            0,
            0,
            0,
            0,
            4,
            127,
            0,
            0,
            1,
        ]);
    }
    Some(answer)
}
