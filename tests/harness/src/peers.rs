//! The wires between etcd's members. A member is cut off in both ways: from who dials it, and from
//! whom it dials, for each call between members says who makes it.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::ports;
use super::proxy::{Address, Clock, carry};
use super::wire::Wire;

/// A proxy before each member's peer URL.
pub struct Peers {
    /// By the one who is dialled, and the one who dials.
    wires: Wires,
    ports: Vec<(u16, u16)>,
    _accepting: JoinSet<()>,
}

impl Peers {
    /// Wires before so many members that are still to be started.
    pub async fn new(size: usize) -> Peers {
        let ports: Vec<(u16, u16)> = (0..size).map(|_| (ports::free(), ports::free())).collect();
        let wires = Wires::default();
        let mut accepting = JoinSet::new();
        for (number, (own, behind)) in ports.iter().enumerate() {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, *own)).await;
            let listener = listener.expect("the proxy's address is taken");
            accepting.spawn(accept(listener, number, *behind, Arc::clone(&wires)));
        }
        Peers {
            wires,
            ports,
            _accepting: accepting,
        }
    }

    /// The port that the others dial, and the one that a member listens on.
    pub fn ports(&self, member: usize) -> (u16, u16) {
        self.ports[member]
    }

    /// From now on all wires to and from a member, with this id of etcd's, are so.
    pub fn set(&self, member: usize, id: u64, wire: Wire) {
        let wires = self.wires.lock().unwrap_or_else(PoisonError::into_inner);
        for ((dialled, caller), sender) in wires.iter() {
            if *dialled == member || *caller == format!("{id:x}") {
                sender.send_replace(wire);
            }
        }
    }
}

type Wires = Arc<Mutex<HashMap<(usize, String), watch::Sender<Wire>>>>;

async fn accept(listener: TcpListener, dialled: usize, behind: u16, wires: Wires) {
    loop {
        let (client, _) = listener.accept().await.expect("the proxy cannot accept");
        let wires = Arc::clone(&wires);
        tokio::spawn(async move {
            let Ok(Some(caller)) = timeout(Duration::from_secs(5), caller(&client)).await else {
                return;
            };
            let wire = {
                let mut wires = wires.lock().unwrap_or_else(PoisonError::into_inner);
                let wire = wires.entry((dialled, caller));
                wire.or_insert_with(|| watch::Sender::new(Wire::Whole))
                    .subscribe()
            };
            let server = Address::Tcp(format!("{}:{behind}", Ipv4Addr::LOCALHOST));
            carry(client, server, wire, Clock::default()).await;
        });
    }
}

/// Who dials, by its own word; etcd's probes, which say nothing, count as one caller more.
async fn caller(client: &TcpStream) -> Option<String> {
    let mut head = [0; 4096];
    loop {
        let length = client
            .peek(&mut head)
            .await
            .ok()
            .filter(|length| *length > 0)?;
        let text = String::from_utf8_lossy(&head[..length]);
        let named = text
            .lines()
            .find_map(|line| line.strip_prefix("X-Server-From: "));
        if let Some(id) = named {
            return Some(id.to_owned());
        }
        if text.contains("\r\n\r\n") || length == head.len() {
            return Some(String::new());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
