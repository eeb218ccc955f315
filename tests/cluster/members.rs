//! Members of etcd lost, in each way in which one can be.

use std::time::Instant;

use crate::harness::{Cluster, Machine, SOON, TTL};
use sidekick_harness::blocking::{eventually, never_for};
use sidekick_harness::secs;

/// Longer than the lease lives unless it is renewed.
const LONGER_THAN_A_LEASE: u64 = TTL.as_secs() + 3;

/// The first of the endpoints, which a sidekick asks first; it only follows.
pub fn one_member_killed(cluster: &Cluster) {
    if cluster.etcd.leader(&[0, 1, 2]) == 0 {
        cluster.etcd.move_leader(0, 1);
    }
    goes_on_without(cluster, 0, || kill(&cluster.members[0]));
    cluster.members[0].start("etcd");
}

/// Those left elect another.
pub fn the_leader_killed(cluster: &Cluster) {
    let leader = cluster.etcd.leader(&[0, 1, 2]);
    goes_on_without(cluster, leader, || kill(&cluster.members[leader]));
    cluster.members[leader].start("etcd");
}

/// It holds its connections, and says nothing.
pub fn the_leader_frozen(cluster: &Cluster) {
    let leader = cluster.etcd.leader(&[0, 1, 2]);
    goes_on_without(cluster, leader, || {
        cluster.members[leader].signal("etcd", "STOP")
    });
    cluster.members[leader].signal("etcd", "CONT");
}

/// It still answers its clients, but is neither leader nor follower. The announcer and the agent both dial it first.
pub fn the_first_member_cut_off_from_its_peers(cluster: &Cluster) {
    let (first, haproxy) = (&cluster.members[0], &cluster.haproxy);
    let peers = |what: &str| {
        for way in ["INPUT", "OUTPUT"] {
            let rule = ["tcp", "-m", "multiport", "--ports", "2380", "-j", "DROP"];
            first.run(&[&["iptables", what, way, "-p"], &rule[..]].concat());
        }
    };
    cluster.worker1.systemctl("restart", "redis-discovery@1");
    haproxy.systemctl("restart", "sidekick-agent");
    peers("--insert");
    cluster.etcd.leader(&[1, 2]);
    let value = br#"{"host":"10.77.0.22","port":1}"#;
    let put = cluster.etcd.put(PUT_MEANWHILE, value);
    put.expect("two members of three take a put");
    let began = Instant::now();
    eventually(secs(5), "the agent serves what the others took", || {
        let grep = ["grep", "-q", "meanwhile", "/etc/haproxy/haproxy.cfg"];
        haproxy.try_run(&grep).is_ok()
    });
    println!(
        "promise 7: truth of etcd, one of its members cut off from its peers: {:.3} s (limit 5 s)",
        began.elapsed().as_secs_f32()
    );
    cluster.etcd.delete(PUT_MEANWHILE);
    goes_on_without(cluster, 0, || ());
    peers("--delete");
}

/// The key of an instance that has no container.
const PUT_MEANWHILE: &str = "/services/redis/meanwhile";

/// No majority, so no lease can be renewed, and none can end. What a reader sees then is silence, not a gap.
pub fn two_of_three_gone_for_30_seconds(cluster: &Cluster) {
    let began = Instant::now();
    let lost = &cluster.members[1..];
    lost.iter().for_each(kill);
    never_for(secs(30), "etcd answers without a majority", || {
        cluster.etcd.answers()
    });
    std::thread::scope(|scope| {
        for member in lost {
            scope.spawn(|| member.start("etcd"));
        }
    });
    eventually(SOON, "etcd answers", || cluster.etcd.answers());
    eventually(secs(2), "the key is back", || cluster.key());
    let gap: std::time::Duration = cluster.reader().gaps(began).into_iter().sum();
    assert!(secs(2) >= gap, "readers missed the key for {gap:?}");
}

/// NOSPACE: no member takes a put. Leases are renewed, and a withdrawal passes.
pub fn a_members_disk_full(cluster: &Cluster) {
    let (worker, began) = (&cluster.worker1, Instant::now());
    fill(cluster);
    let (alarms, seconds) = (cluster.etcd.alarms().len(), began.elapsed().as_secs_f32());
    println!("    alarm of {alarms} member after {seconds:.1} s");
    cluster.keeps_the_key(secs(LONGER_THAN_A_LEASE));
    cluster.no_reader_missed_it_since(began);
    println!("    until then: {}", cluster.seen_since(began));

    let container = worker.container("redis1");
    worker.run(&["docker", "kill", "redis1"]);
    eventually(secs(5), "the key of a dead container is gone", || {
        cluster.key().is_none()
    });
    eventually(SOON, "Redis is back", || {
        let now = worker.container("redis1");
        now.is_some() && now != container
    });
    let active = || worker.is_active("redis-discovery@1");
    eventually(SOON, "its sidekick is back", active);
    never_for(secs(2), "a put passes in spite of the alarm", || {
        cluster.key().is_some()
    });
    let status = worker.property("redis-discovery@1", "StatusText");
    println!("    meanwhile: {status}");

    cluster.etcd.compact(cluster.etcd.revision());
    cluster.etcd.defragment(2);
    cluster.etcd.disarm();
    let room = Instant::now();
    eventually(secs(2), "the key is back", || cluster.key());
    let seconds = room.elapsed().as_secs_f32();
    println!("    key back {seconds:.1} s after there was room again");
}

/// Puts the same key until the third member's quota is reached, which is told by an alarm to all.
fn fill(cluster: &Cluster) {
    let megabyte = vec![b'x'; 1 << 20];
    eventually(SOON, "etcd is full", || {
        cluster.etcd.put("/fill", &megabyte).is_err()
    });
}

/// Without one of three the key stays for longer than its lease; a death is told, and the next start.
#[track_caller]
fn goes_on_without(cluster: &Cluster, member: usize, lose: impl FnOnce()) {
    let (from, began) = (cluster.etcd.revision(), Instant::now());
    lose();
    let others: Vec<usize> = (0..3).filter(|other| *other != member).collect();
    let leader = cluster.etcd.leader(&others);
    let (name, seconds) = (cluster.members[leader].name, began.elapsed().as_secs_f32());
    println!("    {name} leads after {seconds:.1} s");
    cluster.keeps_the_key(secs(LONGER_THAN_A_LEASE));
    cluster.no_reader_missed_it_since(began);
    assert!(!cluster.was_gone(from), "the key was gone in between");
    println!("    until then: {}", cluster.seen_since(began));

    let (worker, container) = (&cluster.worker1, cluster.worker1.container("redis1"));
    worker.run(&["docker", "kill", "redis1"]);
    eventually(SOON, "another container is announced", || {
        worker.container("redis1") != container && cluster.announced_by(worker)
    });
    assert!(cluster.was_gone(from), "the key outlived its container");
}

/// It stays dead: Restart=no.
fn kill(member: &Machine) {
    member.signal("etcd", "KILL");
    eventually(SOON, "etcd is dead", || !member.is_active("etcd"));
}
