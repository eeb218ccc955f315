//! A log that is not read.

use sidekick_harness::{
    AnnouncerScene, Etcd, HOST, KEY, SOON, Sidekick, StandIn, eventually, measured, millis,
    never_for, secs,
};

#[tokio::test]
async fn a_log_that_is_not_read_stops_neither_the_renewal_nor_the_withdrawal() {
    let mut scene = AnnouncerScene::announced_with(|announce| {
        let announce = announce.times(3, 1).option("--log-level", "trace");
        announce.log_unread()
    })
    .await;
    let before = scene.etcd.get(KEY).await.map(|entry| entry.lease);
    never_for(secs(5), "the key is gone or on another lease", async || {
        scene.etcd.get(KEY).await.map(|entry| entry.lease) != before
    })
    .await;

    let took = scene.sidekick.leaves().await;
    measured::took(
        6,
        "SIGTERM to exit with a log that is not read",
        took,
        secs(5),
    );
    assert_eq!(scene.etcd.get(KEY).await, None);
}

#[tokio::test]
async fn a_log_that_is_not_read_delays_no_second_signal() {
    let mut scene =
        AnnouncerScene::announced_with(|announce| announce.log_unread().under_systemd()).await;
    scene.etcd.freeze();
    scene.sidekick.term();
    // Two signals that nobody has looked at yet are one.
    scene.sidekick.notifications().tell("STOPPING=1").await;

    scene.sidekick.term();

    let status = scene.sidekick.wait_exit(secs(1)).await;
    assert_eq!(status.code(), Some(1));
}

#[tokio::test]
async fn a_log_that_is_read_again_says_how_many_lines_were_lost() {
    let (etcd, docker) = (Etcd::start().await, StandIn::start());
    (0..1000).for_each(|number| docker.run(number));
    let mut sidekick = Sidekick::announce_all()
        .etcd(&etcd)
        .host(HOST)
        .option("--docker-host", &docker.host())
        .log_unread()
        .spawn();
    let has = async |count| {
        eventually(
            4 * SOON,
            format!("{count} keys stand in etcd"),
            async || etcd.keys().await.len() == count,
        )
        .await;
    };
    has(1000).await;
    (0..1000).for_each(|number| docker.die(number));
    has(0).await;

    sidekick.read_log();
    sidekick.logs("log lines were lost").await;
    let log = sidekick.log();
    let said = log.iter().find(|line| line.contains("log lines were lost"));
    let lost = said.and_then(|line| line.split("lines=").nth(1)?.trim().parse::<usize>().ok());
    let told = sidekick.times_logged("announcing");
    assert!(
        lost.is_some_and(|lost| lost + told >= 2000),
        "{said:?}, and {told} lines told"
    );
    docker.run(0);
    sidekick.logs("fake-0").await;
}

/// `sidekick … 2>&1 | head -1`
#[tokio::test]
async fn a_log_whose_reader_is_gone_stops_neither_the_key_nor_the_withdrawal() {
    let mut scene = AnnouncerScene::announced_with(|announce| announce.log_unread()).await;
    scene.sidekick.close_log();
    scene.redis.pause().await;
    scene.is_withdrawn().await;
    scene.redis.unpause().await;
    scene.is_announced().await;
    assert!(scene.sidekick.leaves().await < secs(2));
    assert_eq!(scene.etcd.get(KEY).await, None);
}

/// The writer has a thread of its own, which the process does not outlive.
#[tokio::test]
async fn the_last_lines_before_an_exit_are_not_lost() {
    let mut scene = AnnouncerScene::announced().await;
    scene.sidekick.leaves().await;
    eventually(millis(500), "the last line is there", async || {
        scene.sidekick.times_logged("stopped; withdrew") == 1
    })
    .await;
}
