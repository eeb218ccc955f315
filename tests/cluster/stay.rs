//! `make cluster`: the cluster for a person to look around in.

use std::time::Instant;

use crate::harness::Cluster;
use sidekick_harness::secs;

/// Says how to look around, and stays until Ctrl-C, or for CLUSTER_SECONDS.
pub fn stay(cluster: &Cluster) {
    cluster.set_the_scene();
    let docker = format!(
        "docker --host unix://{}/engine/docker.sock exec --interactive --tty",
        cluster.engine().directory().display()
    );
    println!(
        "\nredis@1 runs on worker1. Look around from another terminal:

  alias on='{docker}'
  on etcd1 etcdctl watch --prefix /services
  on worker1 systemctl status redis@1 redis-discovery@1
  on worker1 docker kill redis1
  on worker1 journalctl -f -u redis-discovery@1
  on haproxy worker                                  # dials haproxy:80
  on worker2 systemctl start redis@1                 # takes the key over
  on haproxy sidekick list --watch --etcd-endpoints http://etcd1:2379,http://etcd2:2379,http://etcd3:2379

Machines: etcd1, etcd2, etcd3, worker1, worker2, haproxy. (on needs root, as make did.)"
    );
    let seconds = std::env::var("CLUSTER_SECONDS").unwrap_or_default();
    let end = (!seconds.is_empty())
        .then(|| Instant::now() + secs(seconds.parse().expect("CLUSTER_SECONDS is a number")));
    // A signal ends it, too.
    while end.is_none_or(|end| Instant::now() < end) {
        std::thread::park_timeout(secs(1));
    }
}
