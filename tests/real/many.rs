//! `announce --all` on a host with many containers, and on an engine that does what no real one does
//! on demand: a stand-in for Docker's API, and a real etcd.

use std::time::Instant;

use sidekick_harness::*;

struct Host {
    sidekick: Sidekick,
    docker: StandIn,
    etcd: Etcd,
}

impl Host {
    async fn with(docker: StandIn, more: impl FnOnce(Announce) -> Announce) -> Host {
        let etcd = Etcd::start().await;
        let announce = Sidekick::announce_all().etcd(&etcd).host(HOST);
        let announce = announce.option("--docker-host", &docker.host());
        Host {
            sidekick: more(announce).spawn(),
            docker,
            etcd,
        }
    }

    async fn shows(&self, number: u16) {
        let value = self.docker.value(number, HOST);
        self.etcd.shows(&StandIn::key(number, HOST), &value).await;
    }

    async fn has_key(&self, number: u16, what: &str) {
        let key = StandIn::key(number, HOST);
        let there = async || self.etcd.get(&key).await.is_some();
        eventually(2 * SOON, what, there).await;
    }

    async fn loses(&self, number: u16) {
        self.etcd.loses(&StandIn::key(number, HOST)).await;
    }

    /// The same without more options.
    async fn on(docker: StandIn) -> Host {
        Host::with(docker, |announce| announce).await
    }
}

#[tokio::test]
async fn three_hundred_containers_travel_in_batches_on_one_lease() {
    let docker = StandIn::start();
    (0..300).for_each(|number| docker.run(number));
    let mut host = Host::on(docker).await;
    host.etcd.has_keys(300).await;
    host.shows(299).await;
    assert_eq!(host.etcd.leases().await.len(), 1);
    let writes_and_reads = host.etcd.asked("Txn").await;
    assert!(writes_and_reads < 100, "{writes_and_reads} for 300 keys");

    (0..150).for_each(|number| host.docker.die(number));
    host.etcd.has_keys(150).await;
    (0..150).for_each(|number| host.docker.remove(number));
    (300..450).for_each(|number| host.docker.run(number));
    host.etcd.has_keys(300).await;

    host.sidekick.leaves().await;
    assert_eq!(host.etcd.keys().await, [""; 0]);
}

#[tokio::test]
async fn inspects_that_hang_hold_up_no_other() {
    let docker = StandIn::start();
    (0..20).for_each(|number| docker.run_that(number, Manner::Hangs));
    (20..40).for_each(|number| docker.run(number));
    let host = Host::on(docker).await;
    // All places are taken for one deadline, and then no more than two of them.
    let answered = async || host.etcd.keys().await.len() == 20;
    eventually(secs(45), "all that answer are announced", answered).await;
    host.docker.run(40);
    host.shows(40).await;
    host.docker.die(30);
    host.loses(30).await;
    host.docker.behave(0, Manner::Answers);
    let value = host.docker.value(0, HOST);
    let back = async || {
        let entry = host.etcd.get(&StandIn::key(0, HOST)).await;
        entry.is_some_and(|entry| value.is(&entry.value).is_ok())
    };
    eventually(secs(120), "the one that answers again is announced", back).await;
}

#[tokio::test]
async fn a_container_that_no_client_can_decode_harms_no_other() {
    let docker = StandIn::start();
    docker.run(1);
    docker.run_that(2, Manner::Babbles);
    docker.run(3);
    let host = Host::on(docker).await;
    host.shows(1).await;
    host.shows(3).await;
    host.docker.die(1);
    host.loses(1).await;
    host.docker.run(4);
    host.shows(4).await;
    assert_eq!(host.etcd.get(&StandIn::key(2, HOST)).await, None);
    host.docker.behave(2, Manner::Answers);
    host.has_key(2, "it is announced once it can be read").await;
}

/// Issue 11, item 13: the inspect failed, and the key was kept for the whole grace.
#[tokio::test]
async fn the_words_of_podman_are_understood_at_once() {
    let docker = StandIn::start();
    (1..=5).for_each(|number| docker.run(number));
    let host = Host::on(docker).await;
    host.etcd.has_keys(5).await;

    host.docker.says(1, "stopped", None);
    host.loses(1).await;
    host.docker.says(2, "stopping", None);
    host.loses(2).await;
    host.docker.says(3, "running", Some("reset"));
    host.loses(3).await;
    host.docker.says(4, "running", Some("stopped"));
    host.loses(4).await;

    (1..=4).for_each(|number| host.docker.says(number, "running", Some("healthy")));
    host.etcd.has_keys(5).await;
    assert_eq!(host.sidekick.times_logged("inspecting"), 0);
}

/// Seed 78 of `make chaos`: after 5 s, which kept its key away for so long.
#[tokio::test]
async fn an_inspect_that_failed_is_repeated_within_2_seconds() {
    let docker = StandIn::start();
    docker.run_that(1, Manner::Babbles);
    let host = Host::on(docker).await;
    eventually(SOON, "it is inspected", async || host.docker.inspects() > 0).await;
    host.docker.behave(1, Manner::Answers);
    let since = Instant::now();
    host.shows(1).await;
    measured::took(2, "key after a failed inspect", since.elapsed(), secs(2));
}

#[tokio::test]
async fn one_that_cannot_be_inspected_any_more_is_kept_for_the_grace_alone() {
    let docker = StandIn::start();
    docker.run(1);
    docker.run(2);
    let host = Host::with(docker, |announce| announce.option("--docker-grace", "3s")).await;
    host.shows(1).await;
    host.shows(2).await;
    host.docker.behave(1, Manner::Babbles);
    host.docker.hint(1);
    host.etcd.keeps(&StandIn::key(1, HOST), secs(2)).await;
    host.loses(1).await;
    host.sidekick.logs("--docker-grace").await;
    host.shows(2).await;
    host.docker.behave(1, Manner::Answers);
    host.has_key(1, "it is back").await;
}

#[tokio::test]
async fn what_no_event_tells_is_found_by_the_list() {
    let docker = StandIn::start();
    docker.run(1);
    let host = Host::on(docker).await;
    host.shows(1).await;
    host.docker.keep_silent();
    host.docker.run(2);
    host.docker.die(1);
    let (new, old) = (StandIn::key(2, HOST), StandIn::key(1, HOST));
    eventually(secs(40), "both changes are found", async || {
        host.etcd.get(&new).await.is_some() && host.etcd.get(&old).await.is_none()
    })
    .await;
    let told = "a container changed without an event";
    let reopened = async || host.sidekick.times_logged(told) > 0;
    eventually(secs(20), "sidekick subscribes to events again", reopened).await;
}

#[tokio::test]
async fn the_status_counts_and_names() {
    let docker = StandIn::start();
    docker.run(1);
    docker.run(2);
    docker.run(3);
    docker.die(3);
    let host = Host::with(docker, |announce| announce.under_systemd()).await;
    let notifications = host.sidekick.notifications();
    notifications.tell("STATUS=announcing 2 containers").await;
    host.docker.pause(2);
    let told = "STATUS=announcing 1 of 2 containers; fake-2 is paused";
    notifications.tell(told).await;
}

#[tokio::test]
async fn a_container_without_labels_of_ours_is_never_inspected() {
    let docker = StandIn::start();
    docker.run(1);
    docker.run_plain(2);
    let host = Host::on(docker).await;
    host.shows(1).await;
    let inspects = host.docker.inspects();
    (0..100).for_each(|_| host.docker.hint(2));
    host.docker.run(3);
    host.shows(3).await;
    let now = host.docker.inspects();
    assert!(now <= inspects + 2, "{now}");
}

/// READY=1 came with the engine's list, before any container had been inspected.
#[tokio::test]
async fn ready_announced_waits_until_each_container_has_been_asked_about_and_its_key_stands() {
    let docker = StandIn::start();
    (1..=3).for_each(|number| docker.run(number));
    docker.run_that(4, Manner::Hangs);
    let announced = |announce: Announce| announce.option("--ready", "announced").under_systemd();
    let host = Host::with(docker, announced).await;
    host.etcd.has_keys(3).await;
    let told = host.sidekick.notifications();
    never_for(secs(2), "READY=1 before the fourth is known", async || {
        told.count("READY=1") > 0
    })
    .await;
    // The inspect that hangs fails after 10 s, and the next one is answered or not.
    let ready = async || told.count("READY=1") == 1;
    eventually(secs(15), "READY=1 although one never answers", ready).await;
}

#[tokio::test]
async fn ready_announced_is_told_on_a_host_without_containers() {
    let announced = |announce: Announce| announce.option("--ready", "announced").under_systemd();
    let host = Host::with(StandIn::start(), announced).await;
    host.sidekick.notifications().tell("READY=1").await;
}
