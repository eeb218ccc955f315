//! An etcd that speaks TLS only, to who shows a certificate.

use std::fs;
use std::path::Path;
use std::time::Instant;

use sidekick_harness::*;

use crate::login::beginning;

#[tokio::test]
async fn a_client_certificate_opens_the_door() {
    let authority = Authority::generate();
    let etcd = Etcd::start_with_tls(&authority).await;
    let (announce, redis) = beginning(&etcd).await;
    let mut sidekick = with_identity(announce, &authority)
        .file("--etcd-cacert", &authority.certificate())
        .times(3, 1)
        .spawn();
    etcd.shows(KEY, &redis.value().await).await;

    etcd.keeps(KEY, secs(4)).await;
    sidekick.leaves().await;
    assert_eq!(etcd.get(KEY).await, None, "leaving takes the key away");
}

#[tokio::test]
async fn certificates_may_stand_in_etcdctls_variables() {
    let authority = Authority::generate();
    let etcd = Etcd::start_with_tls(&authority).await;
    let (announce, redis) = beginning(&etcd).await;
    let _sidekick = announce
        .environment("ETCDCTL_CACERT", text(&authority.certificate()))
        .environment("ETCDCTL_CERT", text(&authority.client_certificate()))
        .environment("ETCDCTL_KEY", text(&authority.client_key()))
        .spawn();
    etcd.shows(KEY, &redis.value().await).await;
}

#[tokio::test]
async fn a_wrong_authority_never_announces_and_says_why() {
    let authority = Authority::generate();
    let etcd = Etcd::start_with_tls(&authority).await;
    let (announce, _redis) = beginning(&etcd).await;
    let stranger = Authority::generate();
    let mut sidekick = with_identity(announce, &authority)
        .file("--etcd-cacert", &stranger.certificate())
        .spawn();

    sidekick.logs("certificate").await;

    sidekick.waits(&etcd, secs(2)).await;
}

#[tokio::test]
async fn who_shows_no_certificate_never_announces_and_says_so() {
    let authority = Authority::generate();
    let etcd = Etcd::start_with_tls(&authority).await;
    let (announce, _redis) = beginning(&etcd).await;
    let mut sidekick = announce
        .file("--etcd-cacert", &authority.certificate())
        .spawn();

    sidekick.logs("etcd").await;

    sidekick.waits(&etcd, secs(2)).await;
}

#[tokio::test]
async fn certificates_that_were_rotated_are_read_at_the_next_connection() {
    let mut authority = Authority::generate();
    let mut etcd = Etcd::start_with_tls(&authority).await;
    let (announce, _redis) = beginning(&etcd).await;
    let mut sidekick = with_identity(announce, &authority)
        .file("--etcd-cacert", &authority.certificate())
        .spawn();
    eventually(secs(5), "the key appears", async || etcd.get(KEY).await).await;

    etcd.kill9().await;
    authority.rotate();
    etcd.takes_certificates_of(&authority).await;
    // Empty: a key that is there was put by who has got in.
    etcd.wipe_and_restart().await;

    is_back(&etcd, "with other certificates and another CA").await;
    sidekick.leaves().await;
    assert_eq!(etcd.get(KEY).await, None, "leaving takes the key away");
}

#[tokio::test]
async fn certificates_whose_directory_is_swapped_by_a_link_are_read_too() {
    let mut authority = Authority::generate();
    let mut etcd = Etcd::start_with_tls(&authority).await;
    let mounted = Mounted::of(&authority);
    let (announce, _redis) = beginning(&etcd).await;
    let _sidekick = announce
        .file("--etcd-cacert", &mounted.file("ca.crt"))
        .file("--etcd-cert", &mounted.file("client.crt"))
        .file("--etcd-key", &mounted.file("client.key"))
        .spawn();
    eventually(secs(5), "the key appears", async || etcd.get(KEY).await).await;

    etcd.kill9().await;
    authority.rotate();
    etcd.takes_certificates_of(&authority).await;
    etcd.wipe_and_restart().await;
    mounted.update(&authority);

    is_back(&etcd, "before a link to the files was renamed").await;
}

#[tokio::test]
async fn a_file_that_is_half_written_keeps_what_it_held_and_says_so() {
    let mut authority = Authority::generate();
    let mut etcd = Etcd::start_with_tls(&authority).await;
    // Files that etcd doesn't read too.
    let mounted = Mounted::of(&authority);
    let [ca, certificate, key] = ["ca.crt", "client.crt", "client.key"].map(|it| mounted.file(it));
    let (announce, _redis) = beginning(&etcd).await;
    let sidekick = announce
        .file("--etcd-cacert", &ca)
        .file("--etcd-cert", &certificate)
        .file("--etcd-key", &key)
        .spawn();
    eventually(secs(5), "the key appears", async || etcd.get(KEY).await).await;

    etcd.kill9().await;
    let whole = fs::read(&key).expect("it is there");
    fs::write(&key, &whole[..whole.len() / 2]).expect("it can be written");
    etcd.wipe_and_restart().await;
    is_back(&etcd, "while a client's key was half written").await;
    sidekick.logged_times("keeping the client certificate", 1);
    sidekick.logs(text(&key)).await;

    // Now what is kept is of no use.
    etcd.kill9().await;
    authority.rotate();
    etcd.takes_certificates_of(&authority).await;
    mounted.update(&authority);
    let whole = fs::read(&ca).expect("it is there");
    fs::write(&ca, &whole[..whole.len() / 2]).expect("it can be written");
    etcd.wipe_and_restart().await;
    sidekick.logs("keeping the CA certificate").await;
    etcd.lacks(KEY, secs(2)).await;

    fs::write(&ca, whole).expect("it can be written");

    is_back(&etcd, "when a file that was half written is whole").await;
}

async fn is_back(etcd: &Etcd, that: &str) {
    let healed = Instant::now();
    eventually(secs(2), "the key is back", async || etcd.get(KEY).await).await;
    let what = format!("key back after an etcd that came back {that}");
    measured::took(2, what, healed.elapsed(), secs(2));
}

fn with_identity(announce: Announce, authority: &Authority) -> Announce {
    announce
        .file("--etcd-cert", &authority.client_certificate())
        .option("--etcd-key", text(&authority.client_key()))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the path is UTF-8")
}
