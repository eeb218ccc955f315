//! sidekick doesn't grow through thousands of containers that come and go and hundreds of connections that break.
//! `make soak` does the same for an hour, and with a real engine.

use sidekick_harness::*;

/// In each a crowd comes and goes, and each connection breaks.
const ROUNDS: u16 = 120;
const CROWD: u16 = 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn announce_leaves_nothing_behind_of_what_came_and_went() {
    let (docker, etcd) = (StandIn::start(), Etcd::start().await);
    let to_docker = Proxy::before_engine(&docker.host()).await;
    let to_etcd = Proxy::before(etcd.url()).await;
    // A key's last writes are minded for 10 s and until an audit: the warming up has to last longer.
    let mut sidekick = Sidekick::announce_all()
        .option("--etcd-endpoints", &to_etcd.url())
        .option("--docker-host", &to_docker.url())
        .option("--log-level", "debug")
        .host(HOST)
        .times(30, 1)
        .spawn();
    sidekick.logs("alive tasks=").await;
    let mut footprints = Footprints::default();
    for round in 0..ROUNDS {
        let crowd = || round * CROWD..(round + 1) * CROWD;
        crowd().for_each(|number| docker.run(number));
        etcd.has_keys(CROWD.into()).await;

        let subscriptions = docker.subscriptions();
        to_etcd.cut().await;
        if round % 2 == 0 {
            to_docker.cut().await;
        } else {
            to_docker.set(Wire::CutEvent);
            docker.hint(round * CROWD);
        }
        let again = async || docker.subscriptions() > subscriptions;
        eventually(secs(10), "the events are asked for again", again).await;
        to_docker.pass();

        etcd.delete(&StandIn::key(round * CROWD, HOST)).await;
        etcd.has_keys(CROWD.into()).await;
        crowd().for_each(|number| docker.die(number));
        etcd.has_keys(0).await;
        crowd().for_each(|number| docker.remove(number));
        let log = sidekick.log().join("\n");
        footprints.add(Footprint::of(sidekick.pid(), &log));
    }
    println!("{footprints}");
    assert_eq!(footprints.growth(), [""; 0]);
    sidekick.leaves().await;
}
