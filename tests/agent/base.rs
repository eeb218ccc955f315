//! `--haproxy-base`: the operator's own global and defaults sections, and further sections of that file.

use sidekick_harness::agent::*;
use std::io::Write;
use std::time::Duration;
use tempfile::NamedTempFile;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// How many connections a listener takes in a file with the built-in base.
pub fn listener_maxconn() -> u32 {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let files = limit.maximum.unwrap_or(u64::MAX);
    sidekick::agent::haproxy::base_config::listener_maxconn(
        sidekick::agent::haproxy::render::DEFAULT_BASE,
        files,
    )
    .unwrap()
}

fn file(text: &str) -> (NamedTempFile, String) {
    let mut base = NamedTempFile::new().unwrap();
    base.write_all(text.as_bytes()).unwrap();
    let option = format!("--haproxy-base={}", base.path().display());
    (base, option)
}

/// A base file with a section of the operator's at `port` that leads to `backend`.
fn own_section(port: u16, backend: u16) -> (NamedTempFile, String) {
    file(&format!(
        "global
    maxconn 1234
    hard-stop-after 1s
defaults
    mode http
    timeout connect 1s
    timeout client 1m
    timeout server 1m

listen mine
    mode tcp
    bind 127.0.0.1:{port}
    server s 127.0.0.1:{backend}
"
    ))
}

both_ways! {
    an_operators_own_sections_stay_and_work
}

async fn an_operators_own_sections_stay_and_work(mode: HaproxyMode) {
    let (m, a) = (Backend::start("m").await, Backend::start("a").await);
    let mine = free_port();
    let (_base, option) = own_section(mine, m.port);
    let scene = AgentScene::start(mode, &[&option]).await;
    scene.put("redis", "redis@1", &a.value()).await;
    // No service may have the name of the operator's section.
    scene.put("mine", "i", &elsewhere(free_port())).await;
    let expected = [("mine/s", m.port), ("redis/redis::1", a.port)];
    scene.serves(&expected).await;
    scene
        .says("refused: the base file has a section of that name")
        .await;
    assert_eq!(Connection::dial(mine).await.unwrap().1, "m");
    let mut kept = Connection::to_backend(scene.port, "a").await;
    let info = scene.master("@1 show info").await;
    assert!(info.contains("Maxconn: 1234"), "{info}");
    // After a reload the section is still there, and hard-stop-after holds for the old worker.
    let port = free_port();
    scene.put("web", "i", &elsewhere(port)).await;
    let [mine_s, redis] = expected;
    scene.serves(&[mine_s, redis, ("web/i", port)]).await;
    assert_eq!(Connection::dial(mine).await.unwrap().1, "m");
    assert_eq!(Connection::dial(scene.port).await.unwrap().1, "a");
    kept.ends_within(PATIENCE).await;
}

/// HAProxy binds one port twice without a word, and every second client would get the wrong one.
#[tokio::test]
async fn a_port_of_the_base_files_own_is_no_services() {
    let (m, a) = (Backend::start("m").await, Backend::start("a").await);
    let mine = free_port();
    let (_base, option) = own_section(mine, m.port);
    let bound_too = format!("--bind=bound=:{mine}");
    let scene = AgentScene::start(Supervised, &[&option, &bound_too]).await;
    scene.put("redis", "redis@1", &a.value()).await;
    for service in ["web", "bound"] {
        scene.put(service, "i", &elsewhere(mine)).await;
    }
    let expected = [("mine/s", m.port), ("redis/redis::1", a.port)];
    scene.serves(&expected).await;
    for service in ["web", "bound"] {
        let refused = format!("refused: :{mine} is taken by the base file service=\"{service}\"");
        scene.says(&refused).await;
    }
    Connection::only_to(mine, "m").await;
}

/// The agent ends with status 1 and one line that has these words, and has written no file.
async fn is_refused(option: &str, words: &[&str]) {
    let mut scene = AgentScene::start(Supervised, &[option]).await;
    assert_eq!(scene.agent_ends().await, Some(1));
    let log = scene.log();
    assert!(words.iter().all(|word| log.contains(word)), "{log}");
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(!scene.file().exists());
}

#[tokio::test]
async fn a_base_file_that_is_wrong_ends_it_with_a_word() {
    let (_base, option) = file("globall\n");
    is_refused(&option, &["globall"]).await;
}

#[tokio::test]
async fn a_base_file_that_is_not_there_is_said_in_a_line() {
    is_refused("--haproxy-base=/nowhere", &["--haproxy-base"]).await;
}

/// `default-server` held for the servers of the file, and not for those that came without a reload.
#[tokio::test]
async fn default_server_of_the_base_file_holds_for_servers_added_later() {
    let (_base, option) = file(
        "defaults
    mode tcp
    timeout connect 1s
    timeout client 1m
    timeout server 1m
    default-server maxconn 77 weight 20 # as the operator likes it
    default-server send-proxy init-addr last,none
",
    );
    let scene = AgentScene::start(Supervised, &[&option]).await;
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let at = |draining: &str| format!(r#"{{"host":"{}","port":{port}{draining}}}"#, host());
    scene.says("1 services, 0 instances").await;
    let reloads = scene.reloads().await;
    scene.put("redis", "redis@1", &at("")).await;
    scene.serves(&[("redis/redis::1", port)]).await;
    assert_eq!(scene.reloads().await, reloads, "it came without a reload");
    assert_eq!(scene.stat("redis", "redis::1", "slim").await, "77");
    assert_eq!(scene.stat("redis", "redis::1", "weight").await, "20");
    let first_line = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let mut line = String::new();
            let read = BufReader::new(stream).read_line(&mut line).await;
            // HAProxy's checks connect too, and say nothing.
            if read.is_ok_and(|bytes| bytes > 0) {
                return line;
            }
        }
    });
    let mut client = TcpStream::connect(("127.0.0.1", scene.port)).await.unwrap();
    client.write_all(b"PING\r\n").await.unwrap();
    let line = timeout(Duration::from_secs(10), first_line).await;
    let line = line.expect("a client's connection arrives").unwrap();
    let proxied = line.starts_with("PROXY TCP") && line.contains("127.0.0.1");
    assert!(proxied, "{line}");
    // A server that no longer drains has its weight again. The last one that is up doesn't drain.
    let b = Backend::start("b").await;
    scene.put("redis", "redis@2", &b.value()).await;
    let draining = at(r#","status":"draining""#);
    scene.put("redis", "redis@1", &draining).await;
    let drains = format!("{port} drain");
    let other = ("redis/redis::2", b.port.to_string());
    let drained = [("redis/redis::1", drains), other.clone()];
    scene.serves(&drained).await;
    scene.put("redis", "redis@1", &at("")).await;
    scene
        .serves(&[("redis/redis::1", port.to_string()), other])
        .await;
    assert_eq!(scene.stat("redis", "redis::1", "weight").await, "20");
}

#[tokio::test]
async fn a_default_server_that_add_server_does_not_take_ends_it_with_a_word() {
    let (_base, option) = file("defaults\n    mode tcp\n    default-server tcp-ut 5s\n");
    let words = ["--haproxy-base", "default-server", "tcp-ut", "add server"];
    is_refused(&option, &words).await;
}
