//! Finds out whether HAProxy could bind an address, by binding it.

use crate::agent::model::bind::{Bind, sockets};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use tokio::net::TcpSocket;

/// Why HAProxy could not listen on `bind`; `None` if it could, or if that is unknown.
pub(crate) fn bind_obstacle(bind: Bind) -> Option<String> {
    let mut sockets = sockets(bind).into_iter();
    sockets.find_map(|address| bind_obstacle_at(bind, address, try_to_bind(address).err()?.kind()))
}

/// Why HAProxy could not listen on `bind`, if the agent can't bind one of its addresses.
fn bind_obstacle_at(bind: Bind, address: SocketAddr, error: ErrorKind) -> Option<String> {
    match error {
        ErrorKind::AddrInUse => Some("another process listens there".to_owned()),
        ErrorKind::AddrNotAvailable if bind == Bind::At(address) => {
            Some("the machine has no such address".to_owned())
        }
        // HAProxy may have more rights than the agent: a port below 1024, for one. And without IPv6 HAProxy
        // is not told to use it.
        _ => None,
    }
}

/// Binds and closes. Without listen(2) no client can connect meanwhile.
fn try_to_bind(address: SocketAddr) -> io::Result<()> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    // As a server does: connections in TIME_WAIT are no obstacle.
    socket.set_reuseaddr(true)?;
    socket.bind(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_we_may_not_bind_is_left_to_haproxy() {
        let (bind, address) = (":80".parse().unwrap(), "0.0.0.0:80".parse().unwrap());
        assert_eq!(
            bind_obstacle_at(bind, address, ErrorKind::PermissionDenied),
            None
        );
        assert_eq!(
            bind_obstacle_at(bind, address, ErrorKind::AddrNotAvailable),
            None
        );
        let taken = bind_obstacle_at(bind, address, ErrorKind::AddrInUse);
        assert_eq!(taken.as_deref(), Some("another process listens there"));
        let there = Bind::At("203.0.113.77:80".parse().unwrap());
        let missing = bind_obstacle_at(
            there,
            "203.0.113.77:80".parse().unwrap(),
            ErrorKind::AddrNotAvailable,
        );
        assert_eq!(missing.as_deref(), Some("the machine has no such address"));
    }
}
