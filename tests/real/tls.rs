//! An etcd that speaks TLS only, to who shows a certificate.

use std::path::Path;

use crate::harness::{
    Announce, Authority, Container, Engine, Etcd, HOST, KEY, Sidekick, never_for, secs,
};

#[tokio::test]
async fn a_client_certificate_opens_the_door() {
    let authority = Authority::new();
    let etcd = Etcd::start_with_tls(&authority).await;
    let (announce, redis) = beginning(&etcd).await;
    let mut sidekick = with_identity(announce, &authority)
        .option("--etcd-cacert", text(&authority.certificate()))
        .times(3, 1)
        .spawn();
    etcd.shows(
        KEY,
        &redis.at(HOST, redis.host_port("6379/tcp").await).await,
    )
    .await;

    never_for(secs(4), "the key expires", async || {
        etcd.get(KEY).await.is_none()
    })
    .await;
    sidekick.leaves().await;
    assert_eq!(etcd.get(KEY).await, None, "leaving takes the key away");
}

#[tokio::test]
async fn certificates_may_stand_in_etcdctls_variables() {
    let authority = Authority::new();
    let etcd = Etcd::start_with_tls(&authority).await;
    let (announce, redis) = beginning(&etcd).await;
    let _sidekick = announce
        .environment("ETCDCTL_CACERT", text(&authority.certificate()))
        .environment("ETCDCTL_CERT", text(&authority.client_certificate()))
        .environment("ETCDCTL_KEY", text(&authority.client_key()))
        .spawn();
    etcd.shows(
        KEY,
        &redis.at(HOST, redis.host_port("6379/tcp").await).await,
    )
    .await;
}

#[tokio::test]
async fn a_wrong_authority_never_announces_and_says_why() {
    let authority = Authority::new();
    let etcd = Etcd::start_with_tls(&authority).await;
    let (announce, _redis) = beginning(&etcd).await;
    let stranger = Authority::new();
    let mut sidekick = with_identity(announce, &authority)
        .option("--etcd-cacert", text(&stranger.certificate()))
        .spawn();

    sidekick.logs("certificate").await;

    never_for(secs(2), "sidekick exits or writes", async || {
        !sidekick.is_up() || !etcd.keys().await.is_empty()
    })
    .await;
}

#[tokio::test]
async fn who_shows_no_certificate_never_announces_and_says_so() {
    let authority = Authority::new();
    let etcd = Etcd::start_with_tls(&authority).await;
    let (announce, _redis) = beginning(&etcd).await;
    let mut sidekick = announce
        .option("--etcd-cacert", text(&authority.certificate()))
        .spawn();

    sidekick.logs("etcd").await;

    never_for(secs(2), "sidekick exits or writes", async || {
        !sidekick.is_up() || !etcd.keys().await.is_empty()
    })
    .await;
}

async fn beginning(etcd: &Etcd) -> (Announce, Container<'static>) {
    let engine = Engine::shared().await;
    let redis = engine
        .container(&engine.name("redis1"))
        .publish("6379")
        .run()
        .await;
    (
        Sidekick::announce(redis.name(), KEY)
            .etcd(etcd)
            .docker(engine)
            .host(HOST),
        redis,
    )
}

fn with_identity(announce: Announce, authority: &Authority) -> Announce {
    announce
        .option("--etcd-cert", text(&authority.client_certificate()))
        .option("--etcd-key", text(&authority.client_key()))
}

fn text(path: &Path) -> &str {
    path.to_str()
        .expect("the temporary directory's name is UTF-8")
}
