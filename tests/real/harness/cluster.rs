//! Three etcd members of a test's own.

use super::etcd::Etcd;
use super::ports;

/// Members that form one cluster.
pub struct Cluster {
    /// The members, all alike; who leads is theirs to say.
    pub members: Vec<Etcd>,
}

impl Cluster {
    /// Starts this many members and waits until each of them answers.
    pub async fn start(size: usize) -> Cluster {
        let peers: Vec<(String, u16)> = (0..size)
            .map(|n| (format!("member{n}"), ports::free()))
            .collect();
        let list: Vec<String> = peers
            .iter()
            .map(|(name, port)| format!("{name}=http://127.0.0.1:{port}"))
            .collect();
        let mut members = Vec::new();
        for (name, port) in &peers {
            members.push(Etcd::member(name, *port, &list.join(",")).await);
        }
        members.iter().for_each(Etcd::launch);
        for member in &members {
            member.until_it_answers().await;
        }
        Cluster { members }
    }
}
