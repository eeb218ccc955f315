//! An etcd that wants a name and a password.

use std::fs;

use sidekick_harness::{
    Announce, Container, Engine, Etcd, HOST, KEY, Login, Sidekick, never_for, secs,
};

#[tokio::test]
async fn a_key_outlives_many_tokens() {
    // Tokens live one second, and three pass between two renewals.
    let etcd = Etcd::start_with_login(1).await;
    let (_sidekick, redis) = announced(&etcd).await;
    let revision = etcd.revision().await;
    never_for(secs(10), "etcd's revision moves", async || {
        etcd.revision().await != revision
    })
    .await;
    assert!(
        etcd.get(KEY).await.is_some(),
        "the key is there after three renewals"
    );

    etcd.delete(KEY).await;
    etcd.shows(KEY, &redis.value().await).await;

    never_for(secs(2), "the key goes", async || {
        etcd.get(KEY).await.is_none()
    })
    .await;
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
    let file = tempfile::NamedTempFile::new().expect("no temporary file can be made");
    fs::write(&file, format!("{}\n", Login::PASSWORD))
        .expect("the password file cannot be written");
    let path = file
        .path()
        .to_str()
        .expect("the temporary directory's name is UTF-8");

    let (sidekick, redis) = beginning(&etcd).await;
    let _sidekick = sidekick
        .option("--etcd-user", Login::NAME)
        .option("--etcd-password-file", path)
        .spawn();

    etcd.shows(KEY, &redis.value().await).await;
}

#[tokio::test]
async fn a_password_that_was_changed_in_etcd_and_in_its_file_costs_no_key() {
    let etcd = Etcd::start_with_login(300).await;
    let file = tempfile::NamedTempFile::new().expect("no temporary file can be made");
    let write = |text: &str| fs::write(file.path(), text).expect("a file can be written");
    write(Login::PASSWORD);
    let path = file
        .path()
        .to_str()
        .expect("the temporary directory's name is UTF-8");
    let (sidekick, redis) = beginning(&etcd).await;
    let mut sidekick = sidekick
        .option("--etcd-user", Login::NAME)
        .option("--etcd-password-file", path)
        .times(6, 2)
        .spawn();
    let value = redis.value().await;
    etcd.shows(KEY, &value).await;

    etcd.change_password("another:one").await;
    // Between the two, as an operator is never at once everywhere.
    sidekick.logs("authentication failed").await;
    write("another:one\n");

    never_for(secs(9), "the key goes", async || {
        etcd.get(KEY).await.is_none()
    })
    .await;
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
    assert_eq!(
        sidekick.times_logged("another:one"),
        0,
        "{:#?}",
        sidekick.log()
    );
}

#[tokio::test]
async fn the_password_may_stand_in_etcdctls_variable() {
    let etcd = Etcd::start_with_login(300).await;
    let (sidekick, redis) = beginning(&etcd).await;
    let _sidekick = sidekick
        .environment("ETCDCTL_USER", Login::NAME)
        .environment("ETCDCTL_PASSWORD", Login::PASSWORD)
        .spawn();

    etcd.shows(KEY, &redis.value().await).await;
}

#[tokio::test]
async fn a_wrong_password_never_announces_and_says_why() {
    let etcd = Etcd::start_with_login(300).await;
    let (sidekick, _redis) = beginning(&etcd).await;
    let mut sidekick = sidekick
        .environment("ETCDCTL_USER", &format!("{}:wrong", Login::NAME))
        .spawn();

    sidekick.logs("authentication failed").await;

    never_for(secs(1), "sidekick exits or writes", async || {
        !sidekick.is_up() || !etcd.keys().await.is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_user_who_may_not_write_the_key_says_so() {
    let etcd = Etcd::start_with_login(300).await;
    let engine = Engine::shared().await;
    let redis = engine.redis().run().await;
    let mut sidekick = with_login(Sidekick::announce(redis.name(), "/elsewhere/redis/1"))
        .etcd(&etcd)
        .docker(engine)
        .host(HOST)
        .spawn();

    sidekick.logs("permission denied").await;

    never_for(secs(1), "sidekick exits or writes", async || {
        !sidekick.is_up() || !etcd.keys().await.is_empty()
    })
    .await;
}

#[tokio::test]
async fn the_password_is_in_no_log_line() {
    let etcd = Etcd::start_with_login(300).await;
    let (sidekick, redis) = beginning(&etcd).await;
    let mut sidekick = with_login(sidekick).option("--log-level", "trace").spawn();
    etcd.shows(KEY, &redis.value().await).await;
    sidekick.leaves().await;
    assert_eq!(
        sidekick.times_logged(Login::PASSWORD),
        0,
        "{:#?}",
        sidekick.log()
    );
}

async fn announced(etcd: &Etcd) -> (Sidekick, Container<'static>) {
    let (sidekick, redis) = beginning(etcd).await;
    let sidekick = with_login(sidekick).times(6, 3).spawn();
    etcd.shows(KEY, &redis.value().await).await;
    (sidekick, redis)
}

async fn beginning(etcd: &Etcd) -> (Announce, Container<'static>) {
    let engine = Engine::shared().await;
    let redis = engine.redis().run().await;
    (redis.announce(etcd), redis)
}

fn with_login(announce: Announce) -> Announce {
    announce.environment(
        "ETCDCTL_USER",
        &format!("{}:{}", Login::NAME, Login::PASSWORD),
    )
}
