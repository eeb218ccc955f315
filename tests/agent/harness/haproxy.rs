//! What a HAProxy says of its servers, and what a file says of them, in one form.

use super::{SOON, real};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::time::timeout;

/// The HAProxy of these tests: this machine's own, or the path in `SIDEKICK_TEST_HAPROXY`.
pub fn haproxy() -> &'static str {
    real::program("SIDEKICK_TEST_HAPROXY", "/usr/sbin/haproxy")
}

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

/// `backend/server` → its address, and ` drain` or ` maint` if it is.
pub type Servers = BTreeMap<String, String>;

/// Whether `haproxy -c` takes the file; what it said if not.
pub async fn boots(file: &Path) -> Result<(), String> {
    let mut check = Command::new(haproxy());
    let check = check.arg("-c").arg("-f").arg(file).output().await.unwrap();
    let said = String::from_utf8_lossy(&check.stderr).into_owned();
    if check.status.success() {
        Ok(())
    } else {
        Err(said)
    }
}

/// One line at a master's socket; empty if nobody answers.
pub async fn ask(socket: &Path, line: &str) -> String {
    let ask = async {
        let mut stream = UnixStream::connect(socket).await.ok()?;
        stream
            .write_all(format!("{line}\n").as_bytes())
            .await
            .ok()?;
        stream.shutdown().await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer)
    };
    timeout(Duration::from_secs(2), ask)
        .await
        .ok()
        .flatten()
        .unwrap_or_default()
}

/// What `show servers state` says. A weight of 0 is how a file says `drain`.
pub async fn running_at(socket: &Path) -> Servers {
    let mut text = ask(socket, "@1 show servers state").await;
    if text.starts_with("Can't find the target") {
        // HAProxy 3.2 after a reload that failed: the worker that serves is listed as an old one.
        let processes = ask(socket, "show proc").await;
        let old = processes
            .lines()
            .skip_while(|line| *line != "# old workers");
        let pid = old.skip(1).find_map(|line| line.split_whitespace().next());
        text = ask(
            socket,
            &format!("@!{} show servers state", pid.unwrap_or("0")),
        )
        .await;
    }
    let rows = text
        .lines()
        .skip(2)
        .map(|line| line.split(' ').collect::<Vec<_>>());
    let servers = rows.filter(|row| row.len() > 18).map(|row| {
        let state = match (row[6], row[7]) {
            // 20: what the base file of one test says.
            ("0", "1" | "20") => "",
            ("0" | "8", "0") => " drain",
            _ => " maint",
        };
        (
            format!("{}/{}", row[1], row[3]),
            format!("{}{state}", address(row[4], row[18])),
        )
    });
    servers.collect()
}

/// What a file says.
pub fn servers_in(text: &str) -> Servers {
    let (mut backend, mut servers) = ("", Servers::new());
    for line in text.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        match words.as_slice() {
            ["listen", name] => backend = name,
            ["server", name, at, rest @ ..] => {
                let (ip, port) = at.rsplit_once(':').unwrap();
                let drain = if rest.contains(&"weight") {
                    " drain"
                } else {
                    ""
                };
                let at = address(ip.trim_matches(['[', ']']), port);
                servers.insert(format!("{backend}/{name}"), format!("{at}{drain}"));
            }
            _ => {}
        }
    }
    servers
}

fn address(ip: &str, port: &str) -> String {
    format!("{ip} {port}")
}

/// What a HAProxy serves that is started from a copy of that file, listening elsewhere. It ends at
/// once.
pub async fn fresh_haproxy_on(text: &str) -> Servers {
    let dir = tempfile::tempdir().unwrap();
    let lines = text.lines().enumerate().map(|(n, line)| {
        if line.trim_start().starts_with("bind ") {
            format!("    bind unix@{}/{n}\n", dir.path().display())
        } else {
            format!("{line}\n")
        }
    });
    let (file, socket) = (dir.path().join("cfg"), dir.path().join("master"));
    std::fs::write(&file, lines.collect::<String>()).unwrap();
    let mut haproxy = Command::new(haproxy());
    haproxy.args(["-W", "-db", "-S"]).arg(&socket).arg("-f");
    let haproxy = haproxy.arg(file).stderr(Stdio::null()).kill_on_drop(true);
    let mut haproxy = haproxy.spawn().unwrap();
    real::eventually(SOON, "a fresh HAProxy answers", async || {
        ask(&socket, "@1 show info").await.contains("Uptime")
    })
    .await;
    let servers = running_at(&socket).await;
    // Its worker ends with it.
    haproxy.kill().await.unwrap();
    servers
}
