//! A DNS server that doesn't answer.

use sidekick_harness::agent::*;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use tokio::net::UdpSocket;

/// Answers A queries for `honest.test` with 10.5.0.8, and no others. Returns the number of its queries.
async fn nearly_silent_dns(address: &str) -> Arc<AtomicUsize> {
    let socket = UdpSocket::bind((address, 53)).await.unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    tokio::spawn(async move {
        let mut query = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut query).await {
            counted.fetch_add(1, Ordering::Relaxed);
            let question = &query[12..length];
            if !question.starts_with(b"\x06honest\x04test\x00") {
                continue;
            }
            // RFC 1035, section 4.1: the header's flags and counts, the question, one answer to A (1).
            let end = 13 + b"\x06honest\x04test".len() + 4;
            let is_a = query[end - 3] == 1;
            let mut answer = query[..end].to_vec();
            answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
            if is_a {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 5, 0, 8]);
            }
            let _ = socket.send_to(&answer, from).await;
        }
    });
    count
}

/// 400 names that are never answered delayed one that is by 131 s.
#[test]
fn names_at_a_silent_dns_server_do_not_delay_an_honest_one() {
    let test = "names::names_at_a_silent_dns_server_do_not_delay_an_honest_one";
    apart(test, async {
        let conf = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(conf.path(), "nameserver 10.5.0.7\n").unwrap();
        let mount = Command::new("mount")
            .arg("--bind")
            .args([conf.path().to_str().unwrap(), "/etc/resolv.conf"])
            .status();
        assert!(mount.unwrap().success());
        let queries = nearly_silent_dns("10.5.0.7").await;
        let scene = AgentScene::start(Supervised, &[]).await;
        let a = Backend::at("10.5.0.8:0", "a").await;
        let value = |host: &str| value_of(host, a.port);
        let silent = (0..400).map(|n| (format!("n{n}"), value(&format!("n{n}.dead.test"))));
        let silent = silent.map(|(name, value)| (format!("/services/redis/{name}"), value));
        scene.etcd.put_all(&silent.collect::<Vec<_>>()).await;
        let asked = async || queries.load(Ordering::Relaxed) >= 16;
        eventually(PATIENCE, "they are looked up", asked).await;
        let began = Instant::now();
        scene.put("redis", "honest", &value("honest.test")).await;
        let address = format!("10.5.0.8 {}", a.port);
        scene.leads(secs(10), "redis/honest", &address).await;
        let what = "a new name beside 400 that are never answered: served";
        measured::took(7, what, began.elapsed(), secs(5));
    });
}
