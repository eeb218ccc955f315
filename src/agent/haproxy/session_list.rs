//! `show sess all`: a worker's sessions, with their addresses and how many bytes each side has sent. Pure.

use crate::agent::haproxy::render::FINGERPRINT_VARIABLE;
use std::net::{IpAddr, SocketAddr};

/// One session of a worker: a client's connection, and the one to its server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The number that HAProxy's runtime API takes, as in `shutdown session 0x55d0`: a place in memory, which a later
    /// session may have.
    pub pointer: String,
    /// The session's own number, which no other session of the worker gets.
    pub id: u64,
    /// HAProxy's name of the backend.
    pub backend: String,
    /// HAProxy's name of the server; `None`: it has none yet.
    pub server: Option<String>,
    /// The connection to the server: from HAProxy's address to the server's. `None` before it is opened.
    pub to_server: Option<Endpoints>,
    /// The client's connection: from HAProxy's address to the client's. `None` where it is no TCP.
    pub to_client: Option<Endpoints>,
    /// How many bytes have come from the client.
    pub from_client: u64,
    /// How many bytes have come from the server.
    pub from_server: u64,
}

/// Both ends of a TCP connection of HAProxy's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoints {
    /// HAProxy's end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
}

/// A worker's sessions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkerSessions {
    /// Whether the worker was started from a file that sidekick wrote. Another one's sessions are the operator's.
    pub ours: bool,
    /// All of them, but for those of the runtime API.
    pub sessions: Vec<Session>,
    /// A session ended while HAProxy was listing it, and the one after it may be missing.
    pub has_gap: bool,
}

/// HAProxy lists the sessions in pieces of a buffer's size (`tune.bufsize`, 16 KiB). Where the session that it was at ends
/// between two pieces, it says this instead of the rest, and goes on behind the session that came next (2.6: stream.c,
/// `stats_dump_full_strm_to_buffer` and `cli_io_handler_dump_sess`).
const ENDED: &str = "*** session terminated while we were watching it ***";

/// A worker's sessions can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("HAProxy's list of sessions can't be read: {0}")]
pub struct UnreadableSessions(String);

impl WorkerSessions {
    /// Reads the answers to `show env` of [`FINGERPRINT_VARIABLE`] and to `show sess all`, in HAProxy 2.6 to 3.2.
    ///
    /// # Errors
    /// It is something else, or it is cut off: half a list would look like sessions that have ended.
    pub fn parse(text: &str) -> Result<Self, UnreadableSessions> {
        let unreadable = |why: &str| UnreadableSessions(why.to_owned());
        let first = text.lines().next().unwrap_or_default();
        let value = first.strip_prefix(FINGERPRINT_VARIABLE);
        let ours = value.is_some_and(|value| value.starts_with('='));
        if !ours && !first.starts_with("Variable not found") {
            return Err(unreadable(&format!("it begins with {first:?}")));
        }
        if !text.ends_with("\n\n") {
            return Err(unreadable("it is cut off"));
        }
        let mut blocks: Vec<Vec<&str>> = Vec::new();
        for line in text.lines().skip(1) {
            if line.starts_with("0x") {
                blocks.push(vec![line]);
            } else if let Some(block) = blocks.last_mut() {
                block.push(line);
            }
        }
        let listed = blocks.len();
        blocks.retain(|block| !block.iter().any(|line| line.trim() == ENDED));
        let has_gap = blocks.len() < listed;
        let sessions = blocks.iter().filter(|block| !is_of_the_runtime_api(block));
        let sessions = sessions.map(|block| {
            session(block).ok_or_else(|| unreadable(&format!("there is {:?}", block[0])))
        });
        Ok(Self {
            ours,
            sessions: sessions.collect::<Result<_, _>>()?,
            has_gap,
        })
    }
}

/// The master speaks to its workers by sessions, too.
fn is_of_the_runtime_api(block: &[&str]) -> bool {
    let mut lines = block.iter().map(|line| line.trim_start());
    lines.any(|line| line.starts_with("frontend=GLOBAL "))
}

fn session(block: &[&str]) -> Option<Session> {
    let (pointer, first) = block[0].split_once(": ")?;
    let line = |start: &str| {
        let mut lines = block.iter().map(|line| line.trim_start());
        lines.find(|line| line.starts_with(start))
    };
    let (frontend, backend, server) = (line("frontend="), line("backend=")?, line("server="));
    let name = |line: &str| {
        let word = line.split(' ').next()?.split_once('=')?.1;
        (!word.starts_with('<')).then(|| word.to_owned())
    };
    let total = |start: &str| {
        word(line(start)?, "total=")?
            .trim_end_matches(')')
            .parse()
            .ok()
    };
    Some(Session {
        pointer: pointer.to_owned(),
        id: word(first, "id=")?.parse().ok()?,
        backend: name(backend).unwrap_or_default(),
        server: server.and_then(name),
        to_server: endpoints(address(Some(backend), "addr="), address(server, "addr=")),
        to_client: endpoints(address(frontend, "addr="), address(Some(first), "source=")),
        from_client: total("req=")?,
        from_server: total("res=")?,
    })
}

fn word<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.split(' ').find_map(|word| word.strip_prefix(key))
}

fn endpoints(local: Option<SocketAddr>, remote: Option<SocketAddr>) -> Option<Endpoints> {
    let (local, remote) = (local?, remote?);
    Some(Endpoints { local, remote })
}

/// `127.0.0.1:80`, and `::1:80` without brackets. An IPv4 client of a listener for both comes as
/// `::ffff:127.0.0.1:80`.
fn address(line: Option<&str>, key: &str) -> Option<SocketAddr> {
    let (ip, port) = word(line?, key)?.rsplit_once(':')?;
    let ip: IpAddr = ip.parse().ok()?;
    Some(SocketAddr::new(ip.to_canonical(), port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// HAProxy 2.6.12 with a session that asked PING and was answered, one that waits for a BLPOP, one whose client
    /// has said nothing, one that is not connected yet, and two at a listener for IPv4 and IPv6.
    const REAL: &str = include_str!("../../../tests/corpus/haproxy_sessions/2.6");

    fn parsed() -> WorkerSessions {
        WorkerSessions::parse(REAL).unwrap()
    }

    #[test]
    fn a_real_reply_is_read() {
        let all = parsed();
        assert!(!all.ours);
        let shows = |it: &Session| {
            let server = it.server.as_deref().unwrap_or("-");
            let at = it.to_server.unwrap().remote;
            let (asked, answered) = (it.from_client, it.from_server);
            format!("{} {}/{server} {at} {asked} {answered}", it.id, it.backend)
        };
        let shown: Vec<_> = all.sessions.iter().map(shows).collect();
        let expected = [
            "0 redis/a::1 127.0.0.1:7001 6 5",
            "2 redis/a::1 127.0.0.1:7001 0 0",
            "4 dead/x 10.255.255.1:80 1 0",
            "1 redis/b::1 127.0.0.1:7002 11 0",
            "3 six/s 127.0.0.1:7001 6 5",
            "5 six/s 127.0.0.1:7001 6 5",
        ];
        assert_eq!(shown, expected);
        assert_eq!(all.sessions[0].pointer, "0x558b3143a320");
        let ends = |index: usize| {
            let it = all.sessions[index].to_client.unwrap();
            (it.local.to_string(), it.remote.to_string())
        };
        assert_eq!(ends(4), ("[::1]:7997".to_owned(), "[::1]:35856".to_owned()));
        assert_eq!(
            ends(5),
            ("127.0.0.1:7997".to_owned(), "127.0.0.1:44442".to_owned())
        );
    }

    #[test]
    fn what_is_cut_off_is_no_list_of_few_sessions() {
        let ours = REAL.replacen(
            "Variable not found",
            &format!("{FINGERPRINT_VARIABLE}=01"),
            1,
        );
        assert!(WorkerSessions::parse(&ours).unwrap().ours);
        for cut in [1, 60, 300, 2_000] {
            let text = &REAL[..REAL.len() - cut];
            assert!(WorkerSessions::parse(text).is_err(), "{cut}");
        }
        for other in [
            "",
            "\n\n",
            "Unknown command\n\n",
            "Can't find the target PID\n\n",
        ] {
            assert!(WorkerSessions::parse(other).is_err(), "{other}");
        }
    }

    /// With short sessions by the hundred this is one answer in a few, and it is no error: the whole look was lost.
    #[test]
    fn a_session_that_ended_while_it_was_listed_is_left_out_and_leaves_a_gap() {
        let all = parsed();
        assert!(!all.has_gap);
        let (head, rest) = REAL.split_once("0x").unwrap();
        for lines in [1, 4, 9] {
            let (first, others) = rest.split_at(rest.find("\n0x").unwrap());
            let kept: Vec<_> = first.lines().take(lines).collect();
            let text = format!("{head}0x{}\n  {ENDED}{others}", kept.join("\n"));
            let read = WorkerSessions::parse(&text).unwrap();
            assert!(read.has_gap, "{lines}");
            assert_eq!(read.sessions, all.sessions[1..], "{lines}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_replies_never_panic(text in "\\PC*", at in 0..REAL.len()) {
            let _ = WorkerSessions::parse(&text);
            let _ = WorkerSessions::parse(&format!("Variable not found\n\n0x1: id=1\n{text}\n\n"));
            if REAL.is_char_boundary(at) {
                let _ = WorkerSessions::parse(&format!("{}\n\n", &REAL[..at]));
            }
        }
    }
}
