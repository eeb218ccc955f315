//! A machine lost: its power, or its network.

use std::time::Instant;

use crate::harness::{Cluster, SOON, TTL};
use sidekick_harness::blocking::{eventually, never_for};
use sidekick_harness::secs;

/// What may pass between the end of a lease and its expiry: etcd looks twice a second.
const SLACK: u64 = 2;

/// No sidekick is left to withdraw the key.
pub fn power_off_lets_the_key_go_with_its_ttl(cluster: &Cluster) {
    let worker = &cluster.worker1;
    worker.power_off();
    gone_with_its_ttl(cluster);
    worker.power_on();
    worker.start("redis@1");
}

/// As fleet would: redis@1 on the other worker, which does not wait for the TTL.
pub fn power_off_and_another_worker_takes_over_at_once(cluster: &Cluster) {
    let (lost, other) = (&cluster.worker1, &cluster.worker2);
    let from = cluster.etcd.revision();
    lost.power_off();
    takes_over_at_once(cluster, from);
    lost.power_on();
    other.stop("redis@1");
    lost.start("redis@1");
}

/// Redis still runs there, out of reach.
pub fn cut_off_lets_the_key_go_with_its_ttl(cluster: &Cluster) {
    let worker = &cluster.worker1;
    worker.cut_off();
    gone_with_its_ttl(cluster);
    worker.reconnect();
    let back = Instant::now();
    eventually(SOON, "the key is back", || cluster.key());
    let seconds = back.elapsed().as_secs_f32();
    println!("    key back {seconds:.1} s after the cable");
}

/// Two of one name: the one that started later has the key, and the other stands by.
pub fn cut_off_and_back_it_stands_by_and_removes_nothing(cluster: &Cluster) {
    let (lost, other) = (&cluster.worker1, &cluster.worker2);
    let from = cluster.etcd.revision();
    lost.cut_off();
    takes_over_at_once(cluster, from);
    // Its lease, which the key no longer hangs on, ends meanwhile.
    cluster.keeps_the_key(TTL + secs(SLACK));
    lost.reconnect();
    let from = cluster.etcd.revision();
    eventually(SOON, "worker1 stands by", || {
        let status = lost.property("redis-discovery@1", "StatusText");
        let stands_by = status.contains("standing by");
        stands_by.then(|| println!("    worker1: {status}"))
    });
    never_for(secs(5), "worker2's key is gone", || {
        !cluster.announced_by(other)
    });
    lost.stop("redis@1");
    let changes = cluster.history(from).len();
    assert_eq!(changes, 0, "changes of the key since worker1 is back");
    other.stop("redis@1");
    lost.start("redis@1");
}

#[track_caller]
fn gone_with_its_ttl(cluster: &Cluster) {
    let lost = Instant::now();
    eventually(TTL + secs(SLACK), "the key is gone", || {
        cluster.key().is_none()
    });
    let seconds = lost.elapsed().as_secs_f32();
    println!("    key gone {seconds:.1} s after the loss (TTL {TTL:?})");
}

/// On worker2; the key passes from hand to hand, it is never gone.
#[track_caller]
fn takes_over_at_once(cluster: &Cluster, from: i64) {
    let (other, asked) = (&cluster.worker2, Instant::now());
    other.start("redis@1");
    eventually(SOON, "worker2 has the key", || cluster.announced_by(other));
    let history = cluster.history(from);
    let [taken] = &history[..] else {
        panic!("one change was to be: {history:?}")
    };
    assert!(taken.put.is_some(), "the key was gone first");
    let ms = (taken.instant - asked).as_secs_f64() * 1e3;
    println!("    key taken over {ms:.0} ms after systemctl start redis@1 on worker2");
}
