//! An etcd that wants a name and a password.

use std::fs;

use sidekick_harness::*;

#[tokio::test]
async fn a_key_outlives_many_tokens() {
    // Tokens live one second, and three pass between two renewals.
    let etcd = Etcd::start_with_login(1).await;
    let (_sidekick, redis) = announced(&etcd).await;
    let revision = etcd.revision().await;
    etcd.stays_at(revision, secs(10)).await;
    let key = etcd.get(KEY).await;
    assert!(key.is_some(), "the key is there after three renewals");

    etcd.delete(KEY).await;
    etcd.shows(KEY, &redis.value().await).await;

    etcd.keeps(KEY, secs(2)).await;
    redis.kill().await;
    etcd.loses(KEY).await;
}

#[tokio::test]
async fn an_etcd_that_forgot_all_tokens_is_logged_in_to_again() {
    let etcd = Etcd::start_with_login(300).await;
    let (mut sidekick, redis) = announced(&etcd).await;

    etcd.kill9().await;
    etcd.restart().await;

    etcd.shows(KEY, &redis.value().await).await;
    etcd.delete(KEY).await;
    etcd.shows(KEY, &redis.value().await).await;
    sidekick.leaves().await;
    assert_eq!(etcd.get(KEY).await, None, "leaving takes the key away");
}

#[tokio::test]
async fn the_password_may_stand_in_a_file() {
    let etcd = Etcd::start_with_login(300).await;
    let (sidekick, redis) = beginning(&etcd).await;
    let (sidekick, _write) = with_file(sidekick, &format!("{}\n", Login::PASSWORD));
    let _sidekick = sidekick.spawn();

    etcd.shows(KEY, &redis.value().await).await;
}

#[tokio::test]
async fn a_password_that_was_changed_in_etcd_and_in_its_file_costs_no_key() {
    let etcd = Etcd::start_with_login(300).await;
    let (sidekick, redis) = beginning(&etcd).await;
    let (sidekick, write) = with_file(sidekick, Login::PASSWORD);
    let mut sidekick = sidekick.times(6, 2).spawn();
    let value = redis.value().await;
    etcd.shows(KEY, &value).await;

    etcd.change_password("another:one").await;
    // Between the two, as an operator is never at once everywhere.
    sidekick.logs("authentication failed").await;
    write("another:one\n");

    etcd.keeps(KEY, secs(9)).await;
    etcd.delete(KEY).await;
    etcd.shows(KEY, &value).await;
    // An empty file is half of a change; what it held is kept.
    write("");
    etcd.kill9().await;
    etcd.restart().await;
    sidekick.logs("keeping the password").await;
    etcd.delete(KEY).await;
    etcd.shows(KEY, &value).await;
    sidekick.leaves().await;
    assert_eq!(etcd.get(KEY).await, None, "leaving takes the key away");
    sidekick.never_logs("another:one");
}

#[tokio::test]
async fn the_password_may_stand_in_etcdctls_variable() {
    let etcd = Etcd::start_with_login(300).await;
    let (sidekick, redis) = beginning(&etcd).await;
    let _sidekick = sidekick.login().spawn();

    etcd.shows(KEY, &redis.value().await).await;
}

#[tokio::test]
async fn a_wrong_password_never_announces_and_says_why() {
    let etcd = Etcd::start_with_login(300).await;
    let (sidekick, _redis) = beginning(&etcd).await;
    let wrong = format!("{}:wrong", Login::NAME);
    let mut sidekick = sidekick.environment("ETCDCTL_USER", &wrong).spawn();

    sidekick.logs("authentication failed").await;

    sidekick.waits(&etcd, secs(1)).await;
}

#[tokio::test]
async fn a_user_who_may_not_write_the_key_says_so() {
    let etcd = Etcd::start_with_login(300).await;
    let engine = Engine::shared().await;
    let redis = engine.redis().run().await;
    let announce = Sidekick::announce(redis.name(), "/elsewhere/redis/1").etcd(&etcd);
    let announce = announce.docker(engine).host(HOST);
    let mut sidekick = with_login(announce).spawn();

    sidekick.logs("permission denied").await;

    sidekick.waits(&etcd, secs(1)).await;
}

#[tokio::test]
async fn the_password_is_in_no_log_line() {
    let etcd = Etcd::start_with_login(300).await;
    let (sidekick, redis) = beginning(&etcd).await;
    let mut sidekick = with_login(sidekick).option("--log-level", "trace").spawn();
    etcd.shows(KEY, &redis.value().await).await;
    sidekick.leaves().await;
    sidekick.never_logs(Login::PASSWORD);
}

/// The login with its password in a file, and a way to write that file, which lives as long.
fn with_file(announce: Announce, password: &str) -> (Announce, impl Fn(&str) + use<>) {
    let file = tempfile::NamedTempFile::new().expect("no temporary file can be made");
    let announce = announce.option("--etcd-user", Login::NAME);
    let announce = announce.file("--etcd-password-file", file.path());
    let write = move |text: &str| fs::write(file.path(), text).expect("a file can be written");
    write(password);
    (announce, write)
}

async fn announced(etcd: &Etcd) -> (Sidekick, Container<'static>) {
    let (sidekick, redis) = beginning(etcd).await;
    let sidekick = with_login(sidekick).times(6, 3).spawn();
    etcd.shows(KEY, &redis.value().await).await;
    (sidekick, redis)
}

pub async fn beginning(etcd: &Etcd) -> (Announce, Container<'static>) {
    let engine = Engine::shared().await;
    let redis = engine.redis().run().await;
    (redis.announce(etcd), redis)
}

fn with_login(announce: Announce) -> Announce {
    let user = format!("{}:{}", Login::NAME, Login::PASSWORD);
    announce.environment("ETCDCTL_USER", &user)
}
