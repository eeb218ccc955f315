//! An etcd that speaks TLS only, to who shows a certificate.

use std::fs;
use std::path::Path;
use std::time::Instant;

use sidekick_harness::*;

use crate::login::beginning;

#[tokio::test]
async fn a_client_certificate_opens_the_door() {
    let (authority, etcd, announce, redis) = locked().await;
    let announce = with_identity(announce, &authority);
    let mut sidekick = announce
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
    let (authority, etcd, announce, redis) = locked().await;
    let _sidekick = announce
        .environment("ETCDCTL_CACERT", text(&authority.certificate()))
        .environment("ETCDCTL_CERT", text(&authority.client_certificate()))
        .environment("ETCDCTL_KEY", text(&authority.client_key()))
        .spawn();
    etcd.shows(KEY, &redis.value().await).await;
}

#[tokio::test]
async fn a_wrong_authority_never_announces_and_says_why() {
    let (authority, etcd, announce, _redis) = locked().await;
    let stranger = Authority::generate();
    let announce = with_identity(announce, &authority);
    let mut sidekick = announce
        .file("--etcd-cacert", &stranger.certificate())
        .spawn();

    sidekick.logs("certificate").await;

    sidekick.waits(&etcd, secs(2)).await;
}

#[tokio::test]
async fn who_shows_no_certificate_never_announces_and_says_so() {
    let (authority, etcd, announce, _redis) = locked().await;
    let mut sidekick = announce
        .file("--etcd-cacert", &authority.certificate())
        .spawn();

    sidekick.logs("etcd").await;

    sidekick.waits(&etcd, secs(2)).await;
}

#[tokio::test]
async fn certificates_that_were_rotated_are_read_at_the_next_connection() {
    let (mut authority, mut etcd, announce, _redis) = locked().await;
    let announce = with_identity(announce, &authority);
    let mut sidekick = announce
        .file("--etcd-cacert", &authority.certificate())
        .spawn();
    eventually(secs(5), "the key appears", async || etcd.get(KEY).await).await;

    rotate(&mut authority, &mut etcd).await;
    // Empty: a key that is there was put by who has got in.
    etcd.wipe_and_restart().await;

    is_back(&etcd, "with other certificates and another CA").await;
    sidekick.leaves().await;
    assert_eq!(etcd.get(KEY).await, None, "leaving takes the key away");
}

#[tokio::test]
async fn certificates_whose_directory_is_swapped_by_a_link_are_read_too() {
    let (mut authority, mut etcd, announce, _redis) = locked().await;
    let mounted = Mounted::of(&authority);
    let files = ["ca.crt", "client.crt", "client.key"].map(|it| mounted.file(it));
    let _sidekick = with_files(announce, files.each_ref().map(|it| &**it)).spawn();
    eventually(secs(5), "the key appears", async || etcd.get(KEY).await).await;

    rotate(&mut authority, &mut etcd).await;
    etcd.wipe_and_restart().await;
    mounted.update(&authority);

    is_back(&etcd, "before a link to the files was renamed").await;
}

#[tokio::test]
async fn a_file_that_is_half_written_keeps_what_it_held_and_says_so() {
    let (mut authority, mut etcd, announce, _redis) = locked().await;
    // Files that etcd doesn't read too.
    let mounted = Mounted::of(&authority);
    let [ca, certificate, key] = ["ca.crt", "client.crt", "client.key"].map(|it| mounted.file(it));
    let sidekick = with_files(announce, [&ca, &certificate, &key]).spawn();
    eventually(secs(5), "the key appears", async || etcd.get(KEY).await).await;

    etcd.kill9().await;
    halve(&key);
    etcd.wipe_and_restart().await;
    is_back(&etcd, "while a client's key was half written").await;
    sidekick.logged_times("keeping the client certificate", 1);
    sidekick.logs(text(&key)).await;

    // Now what is kept is of no use.
    rotate(&mut authority, &mut etcd).await;
    mounted.update(&authority);
    let whole = halve(&ca);
    etcd.wipe_and_restart().await;
    sidekick.logs("keeping the CA certificate").await;
    etcd.lacks(KEY, secs(2)).await;

    fs::write(&ca, whole).expect("it can be written");

    is_back(&etcd, "when a file that was half written is whole").await;
}

/// While etcd is down, the authority becomes another one, which etcd has certificates of at its next start.
async fn rotate(authority: &mut Authority, etcd: &mut Etcd) {
    etcd.kill9().await;
    authority.rotate();
    etcd.takes_certificates_of(authority).await;
}

async fn is_back(etcd: &Etcd, that: &str) {
    let healed = Instant::now();
    eventually(secs(2), "the key is back", async || etcd.get(KEY).await).await;
    let what = format!("key back after an etcd that came back {that}");
    measured::took(2, what, healed.elapsed(), secs(2));
}

/// An etcd that wants a client certificate of the authority, and what announces a container there.
async fn locked() -> (Authority, Etcd, Announce, Container<'static>) {
    let authority = Authority::generate();
    let etcd = Etcd::start_with_tls(&authority).await;
    let (announce, redis) = beginning(&etcd).await;
    (authority, etcd, announce, redis)
}

/// The options for these three files.
fn with_files(announce: Announce, [ca, certificate, key]: [&Path; 3]) -> Announce {
    let announce = announce.file("--etcd-cacert", ca);
    announce
        .file("--etcd-cert", certificate)
        .file("--etcd-key", key)
}

fn with_identity(announce: Announce, authority: &Authority) -> Announce {
    announce
        .file("--etcd-cert", &authority.client_certificate())
        .option("--etcd-key", text(&authority.client_key()))
}

/// Leaves half of a file; returns what it held.
fn halve(file: &Path) -> Vec<u8> {
    let whole = fs::read(file).expect("it is there");
    fs::write(file, &whole[..whole.len() / 2]).expect("it can be written");
    whole
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the path is UTF-8")
}
