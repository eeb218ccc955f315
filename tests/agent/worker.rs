//! examples/worker.rs dials a real Redis through HAProxy.

use sidekick_harness::agent::*;
use std::path::Path;
use std::process::Stdio;
use tokio::process::{Child, Command};

/// The worker, printing into a file.
struct Worker {
    dir: tempfile::TempDir,
    _process: Child,
}

impl Worker {
    /// rustc alone builds it, as `make demo` does: the rustc of the cargo that built this test.
    async fn start(address: &str) -> Worker {
        let dir = tempfile::tempdir().unwrap();
        let (binary, printed) = (dir.path().join("worker"), dir.path().join("printed"));
        let rustc = Path::new(env!("CARGO")).with_file_name("rustc");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/worker.rs");
        let mut build = Command::new(rustc);
        build
            .args(["--edition", "2024", "-o"])
            .arg(&binary)
            .arg(source);
        assert!(build.status().await.unwrap().success());
        let process = Command::new(binary)
            .args([address, "20"])
            .stdout(std::fs::File::create(printed).unwrap())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Worker {
            dir,
            _process: process,
        }
    }

    fn lines(&self) -> Vec<String> {
        let printed = std::fs::read_to_string(self.dir.path().join("printed")).unwrap();
        printed.lines().map(str::to_owned).collect()
    }

    /// Waits until its next five lines are all such lines.
    async fn goes_on_with(&self, what: &str, is: fn(&str) -> bool) {
        let before = self.lines().len();
        eventually(PATIENCE, what, async || {
            let lines = self.lines();
            lines.len() >= before + 5 && lines[lines.len() - 5..].iter().all(|line| is(line))
        })
        .await;
    }
}

fn redis(port: u16) -> Child {
    let port = port.to_string();
    let arguments = ["--port", &port, "--protected-mode", "no", "--save", ""];
    let mut redis = Command::new("redis-server");
    redis
        .args(arguments)
        .stdout(Stdio::null())
        .kill_on_drop(true);
    redis
        .spawn()
        .expect("redis-server can't be started; is it installed?")
}

#[tokio::test]
async fn the_worker_prints_bar_and_on_an_error_prints_it_and_goes_on() {
    let (ports, name) = ([free_port(), free_port()], host());
    let value = |port| value_of(&name, port);
    let (mut first, _second) = (redis(ports[0]), redis(ports[1]));
    let scene = AgentScene::start(Supervised, &[]).await;
    let address = format!("127.0.0.1:{}", scene.port);
    // Without a listener and without a server each dial is an error, and the worker goes on.
    let worker = Worker::start(&address).await;
    let is_error = |line: &str| line.starts_with("127.0.0.1:") && line.contains(": ");
    worker.goes_on_with("errors", is_error).await;
    scene.put("redis", "redis@1", &value(ports[0])).await;
    worker.goes_on_with("bar", |line| line == "bar").await;
    // The death of one Redis of two costs no more than an error or two.
    scene.put("redis", "redis@2", &value(ports[1])).await;
    let served = [("redis/redis::1", ports[0]), ("redis/redis::2", ports[1])];
    scene.serves(&served).await;
    first.kill().await.unwrap();
    worker.goes_on_with("bar", |line| line == "bar").await;
    scene.delete("redis", "redis@1").await;
    worker.goes_on_with("bar", |line| line == "bar").await;
    // The last instance leaves, and another one comes.
    scene.delete("redis", "redis@2").await;
    worker.goes_on_with("errors", is_error).await;
    scene.put("redis", "redis@3", &value(ports[1])).await;
    worker.goes_on_with("bar", |line| line == "bar").await;
}
