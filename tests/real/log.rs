//! A log that is not read.

use sidekick_harness::*;

#[tokio::test]
async fn a_log_that_is_not_read_stops_neither_the_renewal_nor_the_withdrawal() {
    let unread = |it: Announce| it.times(3, 1).option("--log-level", "trace").log_unread();
    let scene = AnnouncerScene::announced_with(unread).await;
    scene.renews_and_withdraws("a log that is not read").await;
}

#[tokio::test]
async fn a_log_that_is_not_read_delays_no_second_signal() {
    let mut scene =
        AnnouncerScene::announced_with(|announce| announce.log_unread().under_systemd()).await;
    scene.etcd.freeze();
    scene.sidekick.term();
    // Two signals that are both pending are one.
    scene.sidekick.notifications().tell("STOPPING=1").await;

    scene.sidekick.term();

    let status = scene.sidekick.wait_exit(secs(1)).await;
    assert_eq!(status.code(), Some(1));
}

#[tokio::test]
async fn a_log_that_is_read_again_says_how_many_lines_were_lost() {
    let (etcd, docker) = (Etcd::start().await, StandIn::start());
    (0..1000).for_each(|number| docker.run(number));
    let announce = Sidekick::announce_all().etcd(&etcd).host(HOST);
    let announce = announce.option("--docker-host", &docker.host());
    let mut sidekick = announce.log_unread().spawn();
    etcd.has_keys(1000).await;
    (0..1000).for_each(|number| docker.die(number));
    etcd.has_keys(0).await;

    sidekick.read_log();
    sidekick.logs("log lines were lost").await;
    let log = sidekick.log();
    let said = log.iter().find(|line| line.contains("log lines were lost"));
    let lost = said.and_then(|line| line.split("lines=").nth(1)?.trim().parse::<usize>().ok());
    let told = sidekick.times_logged("announcing");
    let all = lost.is_some_and(|lost| lost + told >= 2000);
    assert!(all, "{said:?}, and {told} lines told");
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
    let told = async || scene.sidekick.times_logged("stopped; withdrew") == 1;
    eventually(millis(500), "the last line is there", told).await;
}
