//! Stopping.

use std::time::Instant;

use etcd_client::{AlarmAction, AlarmType};

use sidekick_harness::*;

#[tokio::test]
async fn sigterm_takes_the_key_away_before_the_process_exits() {
    let mut scene = AnnouncerScene::announced().await;
    let neighbour = "/services/redis/redis@2";
    scene.etcd.put(neighbour, "a neighbour's").await;

    let began = Instant::now();
    scene.sidekick.term();
    let status = scene.sidekick.wait_exit(SOON).await;
    measured::took(6, "SIGTERM to exit, the key gone", began.elapsed(), secs(5));

    let left = scene.etcd.keys().await;
    assert_eq!(left, [neighbour], "its key is gone, and no other key");
    assert_eq!(status.code(), Some(0));
    assert_eq!(scene.etcd.leases().await, [0; 0], "its lease is gone too");
}

#[tokio::test]
async fn sigint_takes_the_key_away_before_the_process_exits() {
    withdraws_on(Sidekick::int).await;
}

/// A terminal that is closed sends it.
#[tokio::test]
async fn sighup_takes_the_key_away_before_the_process_exits() {
    withdraws_on(Sidekick::hang_up).await;
}

async fn withdraws_on(signal: fn(&Sidekick)) {
    let mut scene = AnnouncerScene::announced().await;

    signal(&scene.sidekick);
    let status = scene.sidekick.wait_exit(SOON).await;

    assert_eq!(scene.etcd.get(KEY).await, None);
    assert_eq!(status.code(), Some(0));
}

/// Kernel and shell both send it when a terminal is closed, and `SendSIGHUP=` of systemd after SIGTERM.
#[tokio::test]
async fn a_sighup_is_never_the_second_signal() {
    let mut scene = AnnouncerScene::announced().await;
    scene.etcd.freeze();
    scene.sidekick.term();
    scene.sidekick.logs("stop").await;
    scene.sidekick.hang_up();
    let exited = async || !scene.sidekick.is_up();
    never_for(secs(1), "sidekick has exited", exited).await;
    scene.etcd.thaw();
    let status = scene.sidekick.wait_exit(SOON).await;

    assert_eq!(status.code(), Some(0));
    scene.etcd.until_it_answers().await;
    assert_eq!(scene.etcd.get(KEY).await, None);
}

#[tokio::test]
async fn sighup_stays_ignored_under_nohup() {
    let nohup = ["env".to_owned(), "--ignore-signal=HUP".to_owned()];
    let mut scene = AnnouncerScene::announced_with(|announce| announce.within(&nohup)).await;
    scene.sidekick.hang_up();
    let exited = async || !scene.sidekick.is_up();
    never_for(secs(1), "sidekick has exited", exited).await;
    scene.sidekick.leaves().await;
}

#[tokio::test]
async fn sighup_ends_a_list_that_watches() {
    let etcd = Etcd::start().await;
    let mut list = Sidekick::list().etcd(&etcd).flag("--watch").spawn();
    list.logs("nothing is registered").await;
    list.hang_up();
    assert_eq!(list.wait_exit(SOON).await.code(), Some(0));
}

/// getaddrinfo(3) waits for 10 s and more, in a thread that nothing can cut short.
#[tokio::test]
async fn a_dns_that_hangs_holds_no_sidekick_up_for_more_than_five_seconds() {
    let (docker, names) = (Engine::not_yet(), NameServer::hanging());
    let announce = Sidekick::announce("redis1", KEY).docker(&docker).host(HOST);
    leaves_without(&names, announce, "exit").await;
}

#[tokio::test]
async fn a_dns_that_hangs_holds_no_agent_up_for_more_than_five_seconds() {
    let names = NameServer::hanging();
    let directory = tempfile::tempdir().expect("no temporary directory can be made");
    let file = directory.path().join("haproxy.cfg");
    let agent = Sidekick::agent().file("--haproxy-config", &file);
    leaves_without(&names, agent.option("--stats", "off"), "the agent's exit").await;
}

async fn leaves_without(names: &NameServer, command: Announce, exit: &str) {
    let command = command.endpoints(&["http://etcd.invalid-name:2379"]);
    let mut sidekick = command.within(&names.surroundings()).spawn();
    sidekick.logs("etcd.invalid-name").await;
    let took = sidekick.leaves().await;
    let what = format!("SIGTERM to {exit} with a DNS that hangs");
    measured::took(6, what, took, secs(5));
}

#[tokio::test]
async fn a_frozen_etcd_holds_no_sidekick_up_for_more_than_five_seconds() {
    let mut scene = AnnouncerScene::announced().await;
    scene.etcd.freeze();
    leaves_in_time(&mut scene, "a frozen etcd").await;
}

#[tokio::test]
async fn an_etcd_that_is_gone_holds_no_sidekick_up_for_more_than_five_seconds() {
    let mut scene = AnnouncerScene::announced().await;
    scene.etcd.kill9().await;
    leaves_in_time(&mut scene, "an etcd that is gone").await;
}

#[tokio::test]
async fn an_etcd_that_refuses_connections_holds_no_sidekick_up() {
    leaves_behind(Wire::Refuse, Key::Stays).await;
}

#[tokio::test]
async fn an_etcd_that_resets_connections_holds_no_sidekick_up() {
    leaves_behind(Wire::Reset, Key::Stays).await;
}

#[tokio::test]
async fn an_etcd_behind_a_black_hole_holds_no_sidekick_up() {
    leaves_behind(Wire::BlackHole, Key::Stays).await;
}

#[tokio::test]
async fn an_etcd_that_hears_nothing_holds_no_sidekick_up() {
    leaves_behind(Wire::DeafServer, Key::Stays).await;
}

/// The withdrawal is done, and the answer doesn't arrive.
#[tokio::test]
async fn an_etcd_whose_answers_are_lost_holds_no_sidekick_up() {
    leaves_behind(Wire::MuteServer, Key::Goes).await;
}

#[tokio::test]
async fn an_etcd_that_hangs_up_after_some_bytes_holds_no_sidekick_up() {
    leaves_behind(Wire::DropAfter(400), Key::Either).await;
}

#[tokio::test]
async fn an_etcd_that_says_one_byte_at_a_time_is_told() {
    leaves_behind(Wire::Trickle, Key::Goes).await;
}

#[tokio::test]
async fn an_etcd_that_takes_its_time_is_told() {
    leaves_behind(Wire::Delay(millis(300)), Key::Goes).await;
}

/// NOSPACE refuses puts, not withdrawals.
#[tokio::test]
async fn an_etcd_without_space_is_told() {
    let mut scene = AnnouncerScene::announced().await;
    let mut client = scene.etcd.client().clone();
    let alarm = client.alarm(AlarmAction::Activate, AlarmType::Nospace, None);
    alarm.await.expect("the alarm can be raised");
    leaves_in_time(&mut scene, "an etcd without space").await;
    assert_eq!(scene.etcd.get(KEY).await, None, "the key goes with it");
}

/// Without its rights sidekick can't delete the key, which stays for a TTL.
#[tokio::test]
async fn an_etcd_that_has_taken_its_rights_away_holds_no_sidekick_up() {
    let etcd = Etcd::start_with_login(300).await;
    let mut scene = AnnouncerScene::announced_in(etcd, |it, etcd| it.etcd(etcd).login()).await;
    let mut auth = scene.etcd.client().auth_client();
    let revoked = auth.user_revoke_role(Login::NAME, Login::ROLE);
    revoked.await.expect("root may take rights away");
    leaves_in_time(&mut scene, "an etcd that has taken its rights away").await;
    assert!(scene.etcd.get(KEY).await.is_some(), "it had no right to it");
}

/// What becomes of the key.
enum Key {
    Goes,
    Stays,
    /// It depends on which of two things comes first.
    Either,
}

async fn leaves_behind(wire: Wire, key: Key) {
    let etcd = Etcd::start().await;
    let proxy = Proxy::before(etcd.url()).await;
    let url = proxy.url();
    let mut scene =
        AnnouncerScene::announced_in(etcd, |announce, _| announce.endpoints(&[&url])).await;
    proxy.set(wire);
    leaves_in_time(&mut scene, &format!("an etcd behind {wire:?}")).await;
    let stays = scene.etcd.get(KEY).await.is_some();
    match key {
        Key::Goes => assert!(!stays, "{wire:?} keeps no withdrawal from etcd"),
        Key::Stays => assert!(stays, "{wire:?} lets nothing through"),
        Key::Either => {}
    }
}

/// It stops as asked, whatever became of the key; the TTL does the rest.
async fn leaves_in_time(scene: &mut AnnouncerScene<'_>, etcd: &str) {
    let took = scene.sidekick.leaves().await;
    measured::took(6, format!("SIGTERM to exit with {etcd}"), took, secs(5));
}

#[tokio::test]
async fn an_etcd_that_comes_back_in_time_has_the_key_taken_away() {
    let mut scene = AnnouncerScene::announced().await;
    scene.etcd.freeze();
    scene.sidekick.term();
    scene.sidekick.logs("stop").await;
    let asked = Instant::now();
    let over = async || asked.elapsed() > secs(1);
    eventually(secs(4), "etcd is silent for a second", over).await;

    scene.etcd.thaw();
    let status = scene.sidekick.wait_exit(secs(5)).await;

    scene.etcd.until_it_answers().await;
    assert_eq!(status.code(), Some(0));
    assert_eq!(scene.etcd.get(KEY).await, None);
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let mut scene = AnnouncerScene::announced().await;
    scene.etcd.freeze();
    scene.sidekick.term();
    // Two signals that are both pending are one.
    scene.sidekick.logs("stop").await;

    scene.sidekick.term();

    scene.sidekick.wait_exit(secs(1)).await;
}

#[tokio::test]
async fn who_waits_for_etcd_can_be_stopped() {
    let (engine, etcd) = tokio::join!(Engine::shared(), Etcd::not_yet());
    let redis = engine.redis().run().await;
    let mut sidekick = redis.announce(&etcd).under_systemd().spawn();
    sidekick.notifications().tell("READY=1").await;
    sidekick.leaves().await;
}

#[tokio::test]
async fn who_waits_for_docker_can_be_stopped() {
    let (engine, etcd) = (Engine::not_yet(), Etcd::start().await);
    let mut sidekick = engine.announce("redis1", &etcd).under_systemd().spawn();
    sidekick.notifications().tell("READY=1").await;
    let took = sidekick.leaves().await;
    assert!(took < secs(2), "there is nothing to withdraw: {took:?}");
}

#[tokio::test]
async fn leaving_a_quiet_etcd_is_quick() {
    let mut scene = AnnouncerScene::announced().await;
    let took = scene.sidekick.leaves().await;
    assert!(took < millis(1500), "leaving took {took:?}");
}
