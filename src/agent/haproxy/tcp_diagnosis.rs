//! Asks the kernel for the times of one TCP connection, by netlink (sock_diag(7)). Decides nothing.
//!
//! The kernel answers for the connections of the agent's own network namespace, without any privilege. Where it can't
//! be asked (a unit without `AF_NETLINK`, a HAProxy in another namespace) there are no times.

use crate::agent::haproxy::last_speaker::{ConnectionTimes, LastSpeaker};
use crate::agent::haproxy::session_list::{Endpoints, Session};
use rustix::fd::OwnedFd;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};
use std::cell::OnceCell;
use std::net::{IpAddr, SocketAddr};
use tracing::debug;

/// `SOCK_DIAG_BY_FAMILY` (linux/sock_diag.h): the type of question and answer.
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST` (linux/netlink.h).
const REQUEST: u16 = 1;
/// `IPPROTO_TCP`.
const TCP: u8 = 6;
/// `INET_DIAG_INFO` (linux/inet_diag.h): the attribute that holds a `struct tcp_info`.
const INFO: u16 = 2;
/// Lengths of `struct nlmsghdr` and `struct inet_diag_msg`.
const HEADER: usize = 16;
const MESSAGE: usize = 72;
/// Longer than any answer about one connection.
const LONGEST_ANSWER: usize = 4096;

/// A socket to the kernel, opened when it is first needed.
#[derive(Debug, Default)]
pub(crate) struct TcpDiagnosis(OnceCell<Option<OwnedFd>>);

impl TcpDiagnosis {
    /// Who has spoken last on that session.
    pub(crate) fn last_speaker(&self, session: &Session) -> LastSpeaker {
        let times = |ends: &Option<Endpoints>| self.times(ends.as_ref()?);
        times(&session.to_server).map_or(LastSpeaker::Unknown, |server| {
            LastSpeaker::of(&server, times(&session.to_client).as_ref())
        })
    }

    fn times(&self, ends: &Endpoints) -> Option<ConnectionTimes> {
        let socket = self.0.get_or_init(|| {
            let (family, kind) = (AddressFamily::NETLINK, SocketType::RAW);
            let protocol = Some(netlink::SOCK_DIAG);
            let socket = socket_with(family, kind, SocketFlags::CLOEXEC, protocol);
            socket
                .inspect_err(|error| debug!("can't ask the kernel for connections: {error}"))
                .ok()
        });
        let socket = socket.as_ref()?;
        send(socket, &question(ends)?, SendFlags::empty()).ok()?;
        let mut answer = [0; LONGEST_ANSWER];
        // The kernel has answered by now: it does so before send(2) returns.
        let (_, length) = recv(socket, &mut answer, RecvFlags::DONTWAIT).ok()?;
        times_in(&answer[..length.min(LONGEST_ANSWER)])
    }
}

/// `struct nlmsghdr` and `struct inet_diag_req_v2`; `None` for ends of two families.
fn question(ends: &Endpoints) -> Option<Vec<u8>> {
    /// `AF_INET`, `AF_INET6`.
    const FAMILIES: [u8; 2] = [2, 10];
    let address = |it: &SocketAddr| match it.ip() {
        IpAddr::V4(ip) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&ip.octets());
            bytes
        }
        IpAddr::V6(ip) => ip.octets(),
    };
    let (local, remote) = (ends.local, ends.remote);
    if local.is_ipv4() != remote.is_ipv4() {
        return None;
    }
    let mut text = Vec::with_capacity(MESSAGE);
    let family = FAMILIES[usize::from(local.is_ipv6())];
    text.extend([family, TCP, 1 << (INFO - 1), 0]);
    // Whatever the connection's state.
    text.extend(u32::MAX.to_ne_bytes());
    text.extend(local.port().to_be_bytes());
    text.extend(remote.port().to_be_bytes());
    text.extend(address(&local));
    text.extend(address(&remote));
    // Any interface; no cookie (INET_DIAG_NOCOOKIE).
    text.extend(0_u32.to_ne_bytes());
    text.extend([0xff; 8]);
    let length = u32::try_from(HEADER + text.len()).ok()?;
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(BY_FAMILY.to_ne_bytes());
    message.extend(REQUEST.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(text);
    Some(message)
}

/// The times in an answer; `None` where it is an error: there is no such connection.
fn times_in(answer: &[u8]) -> Option<ConnectionTimes> {
    let number = |bytes: &[u8], at: usize| {
        let four = bytes.get(at..at + 4)?.try_into().ok()?;
        Some(u32::from_ne_bytes(four))
    };
    let short = |bytes: &[u8], at: usize| {
        let two = bytes.get(at..at + 2)?.try_into().ok()?;
        Some(u16::from_ne_bytes(two))
    };
    if short(answer, 4)? != BY_FAMILY {
        return None;
    }
    let mut rest = answer.get(HEADER + MESSAGE..)?;
    // Attributes: length, type, and the value, at multiples of 4.
    while let Some(length) = short(rest, 0).map(usize::from).filter(|it| *it >= 4) {
        if short(rest, 2)? == INFO {
            let info = rest.get(4..length)?;
            // The places in `struct tcp_info`, to which later kernels only append.
            return Some(ConnectionTimes {
                unacknowledged: number(info, 24)?,
                sent: number(info, 44)?,
                received: number(info, 52)?,
                acknowledged: number(info, 56)?,
                segments_received: number(info, 152)?,
                segments_sent: number(info, 156)?,
            });
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    fn connection(address: &str) -> (TcpStream, TcpStream, Endpoints) {
        let listener = TcpListener::bind(address).unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let far = listener.accept().unwrap().0;
        let ends = Endpoints {
            local: near.local_addr().unwrap(),
            remote: near.peer_addr().unwrap(),
        };
        (near, far, ends)
    }

    #[test]
    fn the_kernel_says_who_has_spoken_last() {
        let diagnosis = TcpDiagnosis::default();
        let mut word = [0; 4];
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let (mut near, mut far, ends) = connection(address);
            // What is waited for is the clock's next tick.
            let tick = || std::thread::sleep(Duration::from_millis(20));
            near.write_all(b"PING").unwrap();
            far.read_exact(&mut word).unwrap();
            tick();
            far.write_all(b"PONG").unwrap();
            near.read_exact(&mut word).unwrap();
            let times = diagnosis.times(&ends).expect("there are times");
            assert_eq!(
                LastSpeaker::of(&times, None),
                LastSpeaker::Server,
                "{times:?}"
            );
            assert_eq!((times.segments_sent, times.segments_received), (1, 1));
            tick();
            near.write_all(b"WAIT").unwrap();
            far.read_exact(&mut word).unwrap();
            let times = diagnosis.times(&ends).expect("there are times");
            assert_eq!(
                LastSpeaker::of(&times, None),
                LastSpeaker::Client,
                "{times:?}"
            );
        }
    }

    #[test]
    fn a_connection_that_is_none_has_no_times() {
        let (near, far, ends) = connection("127.0.0.1:0");
        let other = Endpoints {
            local: ends.remote,
            remote: ends.remote,
        };
        assert_eq!(TcpDiagnosis::default().times(&other), None);
        drop((near, far));
        for answer in [&[][..], &[0; 40], &[20; 200]] {
            assert_eq!(times_in(answer), None);
        }
    }
}
