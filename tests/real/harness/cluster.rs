//! Three etcd members of a test's own.

use super::etcd::{Etcd, Member};
use super::peers::Peers;
use super::ports;

/// Members that form one cluster.
pub struct Cluster {
    /// The members, all alike; who leads is theirs to say.
    pub members: Vec<Etcd>,
    /// The wires between them, where there are any.
    #[allow(dead_code, reason = "for `make chaos`")]
    pub peers: Option<Peers>,
}

impl Cluster {
    /// Starts this many members and waits until each of them answers.
    pub async fn start(size: usize) -> Cluster {
        let ports: Vec<u16> = (0..size).map(|_| ports::free()).collect();
        let ports: Vec<(u16, u16)> = ports.into_iter().map(|port| (port, port)).collect();
        Cluster::found(&ports, &[], None).await
    }

    /// The same with a wire before each peer URL, and a login whose tokens die after so many seconds
    /// without use.
    #[allow(dead_code, reason = "for `make chaos`")]
    pub async fn start_with_wires_and_login(size: usize, token_seconds: u32) -> Cluster {
        let peers = Peers::new(size).await;
        let ports: Vec<(u16, u16)> = (0..size).map(|n| peers.ports(n)).collect();
        // Tokens are made often; their hashes need not be dear.
        let options = [
            format!("--auth-token-ttl={token_seconds}"),
            "--bcrypt-cost=4".to_owned(),
        ];
        let mut cluster = Cluster::found(&ports, &options, Some(peers)).await;
        let (first, others) = cluster.members.split_first_mut().expect("it has members");
        first.lock_down().await;
        for other in others {
            other.as_root().await;
        }
        cluster
    }

    /// With the port that the others dial and the one that it listens on, for each.
    async fn found(ports: &[(u16, u16)], options: &[String], peers: Option<Peers>) -> Cluster {
        let dialled = ports.iter().enumerate();
        let list: Vec<String> = dialled
            .map(|(number, (dialled, _))| format!("member{number}=http://127.0.0.1:{dialled}"))
            .collect();
        let mut members = Vec::new();
        for (number, (dialled, behind)) in ports.iter().enumerate() {
            let member = Member {
                name: format!("member{number}"),
                dialled: *dialled,
                behind: *behind,
                cluster: list.join(","),
                options: options.to_vec(),
            };
            members.push(Etcd::member(member).await);
        }
        members.iter().for_each(Etcd::launch);
        for member in &members {
            member.until_it_answers().await;
        }
        Cluster { members, peers }
    }
}
