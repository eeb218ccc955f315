//! One fault at a time, and how long it takes until HAProxy is again what etcd says. (A member that is cut off from
//! its peers takes machines: tests/cluster/members.rs.)

use sidekick_harness::agent::*;
use std::time::{Duration, Instant};

/// Promise 7: counted from the end of the fault, or from the change where a fault has no end.
const LIMIT: Duration = secs(5);

/// Longer than the first pauses between two tries.
const LONG: Duration = secs(6);

both_ways! {
    etcd_killed_and_started_again
    etcd_frozen_and_thawed
    a_member_of_three_killed
    a_member_of_three_frozen
    a_member_of_three_behind_a_black_hole
    haproxy_killed_while_etcd_changes
    haproxy_frozen_and_thawed
    the_agent_frozen_for_10_seconds_while_etcd_forgets
    the_agent_killed_while_etcd_changes
    its_file_deleted
    its_file_overwritten
}

/// An agent that serves one instance.
struct Served {
    scene: AgentScene,
    mode: HaproxyMode,
    a: Backend,
}

impl Served {
    async fn new(mode: HaproxyMode) -> Served {
        let scene = AgentScene::start(mode, &["--hold=0"]).await;
        Served::by(scene, mode).await
    }

    async fn by(scene: AgentScene, mode: HaproxyMode) -> Served {
        let served = Served {
            scene,
            mode,
            a: Backend::start("a").await,
        };
        served.scene.put("redis", "one", &served.a.value()).await;
        served.has(&["redis/one"]).await;
        served
    }

    /// Puts a second instance; returns when etcd has taken it.
    async fn changes(&self) -> Instant {
        let (etcd, value) = (&self.scene.etcd, self.a.value());
        let put = async || etcd.takes("/services/redis/two", &value).await;
        eventually(PATIENCE, "etcd takes a put", put).await;
        Instant::now()
    }

    /// Both are served, in HAProxy and in its file.
    async fn catches_up(&self, since: Instant, fault: &str) {
        self.has(&["redis/one", "redis/two"]).await;
        self.note(since, fault);
    }

    async fn has(&self, servers: &[&str]) {
        let servers = servers.iter();
        let servers = servers.map(|name| ((*name).to_owned(), self.a.port.to_string()));
        self.scene.serves_all(&servers.collect()).await;
    }

    fn note(&self, since: Instant, fault: &str) {
        let haproxy = match self.mode {
            Supervised => "its own HAProxy",
            Attached => "another's HAProxy",
        };
        let what = format!("truth of etcd, with {haproxy}, {fault}");
        measured::took(7, what, since.elapsed(), LIMIT);
    }
}

async fn etcd_killed_and_started_again(mode: HaproxyMode) {
    let served = Served::new(mode).await;
    served.scene.etcd.kill9().await;
    served.scene.keeps_answering(LONG).await;
    served.scene.etcd.restart().await;
    let since = served.changes().await;
    served.catches_up(since, "etcd killed and back").await;
}

async fn etcd_frozen_and_thawed(mode: HaproxyMode) {
    let served = Served::new(mode).await;
    served.scene.etcd.freeze();
    served.scene.keeps_answering(LONG).await;
    served.scene.etcd.thaw();
    let since = served.changes().await;
    served.catches_up(since, "etcd frozen and thawed").await;
}

async fn a_member_of_three_killed(mode: HaproxyMode) {
    let (served, [first, _second]) = one_of_three(mode).await;
    first.kill9().await;
    let since = served.changes().await;
    served.catches_up(since, "a member killed").await;
}

async fn a_member_of_three_frozen(mode: HaproxyMode) {
    let (served, [first, _second]) = one_of_three(mode).await;
    first.freeze();
    let since = served.changes().await;
    served.catches_up(since, "a member frozen").await;
    first.thaw();
}

async fn a_member_of_three_behind_a_black_hole(mode: HaproxyMode) {
    let members = EtcdCluster::start(3).await.members;
    let wire = Proxy::before(members[0].url()).await;
    let (served, _others) = of_three(members, &wire.url(), mode).await;
    wire.black_hole();
    let since = served.changes().await;
    served.catches_up(since, "a member black-holed").await;
}

async fn one_of_three(mode: HaproxyMode) -> (Served, [Etcd; 2]) {
    let members = EtcdCluster::start(3).await.members;
    let first = members[0].url().to_owned();
    of_three(members, &first, mode).await
}

/// The agent asks the member at the URL `first` before the third member; the test asks the third.
async fn of_three(mut members: Vec<Etcd>, first: &str, mode: HaproxyMode) -> (Served, [Etcd; 2]) {
    let third = members.pop().unwrap();
    let mut scene = AgentScene::around(third, mode, &["--hold=0"]);
    scene.endpoints = format!("{first},{}", scene.etcd.url());
    scene.begin().await;
    let [first, second] = <[Etcd; 2]>::try_from(members).ok().unwrap();
    (Served::by(scene, mode).await, [first, second])
}

async fn haproxy_killed_while_etcd_changes(mode: HaproxyMode) {
    let mut served = Served::new(mode).await;
    served.scene.kill_haproxy().await;
    let mut since = served.changes().await;
    if mode == Attached {
        since = Instant::now();
        served.scene.start_haproxy().await;
    }
    served.catches_up(since, "HAProxy killed").await;
}

async fn haproxy_frozen_and_thawed(mode: HaproxyMode) {
    let served = Served::new(mode).await;
    served.scene.freeze_haproxy(true);
    served.changes().await;
    let is_frozen = async || served.scene.master("show proc").await.is_empty();
    throughout(LONG, "HAProxy is frozen", is_frozen).await;
    served.scene.freeze_haproxy(false);
    let since = Instant::now();
    served.catches_up(since, "HAProxy frozen and thawed").await;
}

async fn the_agent_frozen_for_10_seconds_while_etcd_forgets(mode: HaproxyMode) {
    let served = Served::new(mode).await;
    served.scene.freeze_agent(true);
    served.changes().await;
    served.scene.etcd.compact().await;
    served.scene.keeps_answering(secs(10)).await;
    served.scene.freeze_agent(false);
    let since = Instant::now();
    let fault = "the agent frozen for 10 s, its revision compacted";
    served.catches_up(since, fault).await;
}

async fn the_agent_killed_while_etcd_changes(mode: HaproxyMode) {
    let mut served = Served::new(mode).await;
    served.scene.kill_agent().await;
    served.changes().await;
    served.scene.keeps_answering(A_WHILE).await;
    let since = Instant::now();
    served.scene.start_agent();
    served
        .catches_up(since, "the agent killed and started")
        .await;
}

/// HAProxy would have nothing to start from. Nothing changes in etcd meanwhile.
async fn its_file_deleted(mode: HaproxyMode) {
    let served = Served::new(mode).await;
    let since = Instant::now();
    std::fs::remove_file(served.scene.file()).unwrap();
    served.has(&["redis/one"]).await;
    served.note(since, "its file deleted");
}

async fn its_file_overwritten(mode: HaproxyMode) {
    let served = Served::new(mode).await;
    let since = Instant::now();
    std::fs::write(served.scene.file(), FOREIGN).unwrap();
    served.has(&["redis/one"]).await;
    served.note(since, "its file overwritten");
}

/// A file that another program wrote: a HAProxy that is started from it serves none of the instances.
const FOREIGN: &str = "defaults\n    mode tcp\n    timeout connect 1s\n    timeout client 1s\n    timeout server 1s\nlisten a\n    bind abns@a\n";

/// The agent's HAProxy would start from that file.
#[tokio::test]
async fn its_file_overwritten_and_haproxy_killed() {
    let mut served = Served::new(Supervised).await;
    let since = Instant::now();
    std::fs::write(served.scene.file(), FOREIGN).unwrap();
    served.scene.kill_haproxy().await;
    drop(Connection::to_backend(served.scene.port, "a").await);
    served.has(&["redis/one"]).await;
    served.note(since, "its file overwritten and HAProxy killed");
}

/// HAProxy runs on, and the agent cannot reach it.
#[tokio::test]
async fn its_socket_removed() {
    let served = Served::new(Supervised).await;
    let mut kept = Connection::to_backend(served.scene.port, "a").await;
    std::fs::remove_file(served.scene.socket()).unwrap();
    let since = served.changes().await;
    served.catches_up(since, "HAProxy's socket removed").await;
    assert!(kept.lives().await, "a connection was cut");
}

/// Before the agent has seen that its HAProxy runs. 2.6 creates the socket twice, for its master executes itself again.
#[tokio::test]
async fn its_socket_removed_as_soon_as_it_is_there() {
    let mut scene = AgentScene::new(Supervised, &["--hold=0"]).await;
    let socket = scene.socket();
    let remover = tokio::task::spawn_blocking(move || {
        // For a second from its first moment on, whenever that is.
        let mut end = Instant::now() + PATIENCE;
        let mut removed = 0;
        while Instant::now() < end {
            if std::fs::remove_file(&socket).is_ok() {
                end = end.min(Instant::now() + secs(1));
                removed += 1;
            }
        }
        removed
    });
    scene.begin().await;
    let removed = remover.await.unwrap();
    assert!(removed > 0, "there was no socket");
    let since = Instant::now();
    let served = Served::by(scene, Supervised).await;
    served.note(since, "HAProxy's socket removed as soon as it is there");
}
