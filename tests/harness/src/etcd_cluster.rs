//! Three etcd members of a test's own.

use std::process::{Command, Stdio};

use etcd_client::MemberAddOptions;
use tokio::sync::OnceCell;

use super::etcd::{Etcd, Member, etcd};
use super::peers::Peers;
use super::ports;
use super::wait::{eventually, secs};

/// Members that form one cluster.
pub struct EtcdCluster {
    /// The members, all alike; who leads is theirs to say.
    pub members: Vec<Etcd>,
    /// The wires between them, where there are any.
    pub peers: Option<Peers>,
}

impl EtcdCluster {
    /// Starts this many members and waits until each of them answers.
    pub async fn start(size: usize) -> EtcdCluster {
        let ports: Vec<u16> = (0..size).map(|_| ports::free()).collect();
        let ports: Vec<(u16, u16)> = ports.into_iter().map(|port| (port, port)).collect();
        EtcdCluster::found(etcd(), &ports, &[], None).await
    }

    /// Two members of etcd 3.5, and before them in the list a learner, which has all of their data and no vote.
    pub async fn start_with_a_learner_first() -> EtcdCluster {
        let program = newer_etcd().await;
        let [one, two, third] = [ports::free(), ports::free(), ports::free()];
        // Else they have to have seen each other for 5 s before they take a third.
        let options = ["--strict-reconfig-check=false".to_owned()];
        let mut cluster =
            EtcdCluster::found(program, &[(one, one), (two, two)], &options, None).await;
        let peer = |port: u16| format!("http://127.0.0.1:{port}");
        let mut client = cluster.members[0].client().cluster_client();
        let as_learner = MemberAddOptions::new().with_is_learner();
        let added = client.member_add([peer(third)], Some(as_learner)).await;
        added.expect("etcd takes a learner");
        let learner = Member {
            name: "learner".to_owned(),
            dialled: third,
            behind: third,
            program: program.to_owned(),
            cluster: format!(
                "member0={},member1={},learner={}",
                peer(one),
                peer(two),
                peer(third)
            ),
            options: vec!["--initial-cluster-state=existing".to_owned()],
        };
        let learner = Etcd::member(learner).await;
        learner.launch();
        eventually(
            secs(20),
            "the learner says what it is",
            async || match learner.client().kv_client().get("answers?", None).await {
                Err(error) if error.to_string().contains("not supported for learner") => Ok(()),
                other => Err(format!("{other:?}")),
            },
        )
        .await;
        cluster.members.insert(0, learner);
        cluster
    }

    /// The same with a wire before each peer URL, and a login whose tokens die after so many seconds
    /// without use.
    pub async fn start_with_wires_and_login(size: usize, token_seconds: u32) -> EtcdCluster {
        let peers = Peers::new(size).await;
        let ports: Vec<(u16, u16)> = (0..size).map(|n| peers.ports(n)).collect();
        // Tokens are made often; their hashes need not be dear.
        let options = [
            format!("--auth-token-ttl={token_seconds}"),
            "--bcrypt-cost=4".to_owned(),
        ];
        let mut cluster = EtcdCluster::found(etcd(), &ports, &options, Some(peers)).await;
        let (first, others) = cluster.members.split_first_mut().expect("it has members");
        first.lock_down().await;
        for other in others {
            other.as_root().await;
        }
        cluster
    }

    /// With the port that the others dial and the one that it listens on, for each.
    async fn found(
        program: &str,
        ports: &[(u16, u16)],
        options: &[String],
        peers: Option<Peers>,
    ) -> EtcdCluster {
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
                program: program.to_owned(),
                cluster: list.join(","),
                options: options.to_vec(),
            };
            members.push(Etcd::member(member).await);
        }
        members.iter().for_each(Etcd::launch);
        for member in &members {
            member.until_it_answers().await;
        }
        EtcdCluster { members, peers }
    }
}

/// The path of Debian 13's etcd, 3.5; made by the first test that asks.
async fn newer_etcd() -> &'static str {
    static MADE: OnceCell<String> = OnceCell::const_new();
    MADE.get_or_init(|| async {
        let make = || {
            let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/debian-program");
            Command::new(script)
                .args(["trixie", "etcd-server", "usr/bin/etcd"])
                .stderr(Stdio::inherit())
                .output()
        };
        let made = tokio::task::spawn_blocking(make).await;
        let made = made
            .expect("the script was run")
            .expect("a script can be run");
        assert!(
            made.status.success(),
            "scripts/debian-program: {}",
            made.status
        );
        String::from_utf8_lossy(&made.stdout).trim().to_owned()
    })
    .await
}
