//! A name server that never answers, and the surroundings in which a process asks nothing but it.

use std::net::UdpSocket;

use tempfile::TempDir;

/// Hangs for as long as it lives; whoever asks it waits for the resolver's own timeouts.
pub struct HangingNameServer {
    directory: TempDir,
    /// Bound and never read: a query gets neither an answer nor an ICMP error.
    _socket: UdpSocket,
}

/// In a mount namespace of its own, since resolv.conf(5) has no environment variable.
const BEGIN: &str = r#"mount --bind "$0/resolv.conf" /etc/resolv.conf &&
    mount --bind "$0/nsswitch.conf" /etc/nsswitch.conf && exec "$@""#;

impl HangingNameServer {
    /// On an address of its own below 127.0.0.0/8, for resolv.conf(5) knows no port but 53.
    pub fn start() -> HangingNameServer {
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
        HangingNameServer {
            directory,
            _socket: socket,
        }
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
