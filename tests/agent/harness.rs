//! An etcd, a HAProxy, an agent and backends of a test's own. Everything ends with the test.

// Each by its path, so that a bench can take this file by its path too.
#[path = "harness/apart.rs"]
mod apart;
#[path = "harness/client.rs"]
mod client;
#[path = "harness/disk.rs"]
mod disk;
#[path = "harness/etcd.rs"]
mod etcd;
#[path = "harness/haproxy.rs"]
mod haproxy;
#[path = "harness/load.rs"]
mod load;
// What the tests of `announce` have, and these need but a part of.
#[path = "../real/harness/mod.rs"]
#[allow(dead_code, unused_imports, clippy::print_stdout)]
pub mod real;
#[path = "harness/scene.rs"]
mod scene;

pub use apart::apart;
pub use client::{Backend, Connection, host, listens};
pub use disk::Disk;
pub use etcd::Etcd;
pub use haproxy::{Servers, fresh_haproxy_on, haproxy, listener_maxconn, servers_in};
pub use load::Load;
pub use real::notify::Notifications;
pub use real::ports::free as free_port;
pub use real::{Cluster, Etcd as Member, Proxy, measured, millis, secs};
pub use scene::{Scene, Victim, Way};

use std::fmt::Debug;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// More than enough for anything that takes milliseconds.
pub const SOON: Duration = Duration::from_secs(15);

/// A moment in which nothing is to happen.
pub const A_WHILE: Duration = Duration::from_millis(700);

/// Between two looks.
const STEP: Duration = Duration::from_millis(10);

/// Waits for a condition.
pub async fn eventually(what: &str, holds: impl AsyncFnMut() -> bool) {
    real::eventually(SOON, what, holds).await;
}

/// Makes sure that a condition holds, and goes on holding for [`A_WHILE`].
pub async fn throughout(what: &str, holds: impl AsyncFnMut() -> bool) {
    throughout_for(A_WHILE, what, holds).await;
}

/// Makes sure that a condition holds, and goes on holding so long.
pub async fn throughout_for(duration: Duration, what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let what = format!("no longer: {what}");
    real::never_for(duration, what, async || !holds().await).await;
}

/// Waits until both are equal.
pub async fn becomes<T: PartialEq + Debug>(
    what: &str,
    expected: T,
    mut get: impl AsyncFnMut() -> T,
) {
    becomes_within(SOON, what, expected, async || get().await).await;
}

/// Waits so long until both are equal.
pub async fn becomes_within<T: PartialEq + Debug>(
    patience: Duration,
    what: &str,
    expected: T,
    mut get: impl AsyncFnMut() -> T,
) {
    let end = Instant::now() + patience;
    loop {
        let got = get().await;
        if got == expected {
            return;
        }
        assert!(
            Instant::now() < end,
            "{what}: {got:?} is not {expected:?} within {patience:?}"
        );
        sleep(STEP).await;
    }
}
