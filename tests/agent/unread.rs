//! Commands whose stderr is read by no process, or no longer: they do their work and end.

use sidekick_harness::agent::*;
use std::io::{ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Output, Stdio};
use tokio::process::Command;
use tokio::time::timeout;

/// A stderr whose reader is gone.
fn broken() -> (Option<UnixStream>, OwnedFd) {
    (None, UnixStream::pair().unwrap().1.into())
}

/// A stderr that is full and isn't read, and its reader, which has to live as long.
fn full() -> (Option<UnixStream>, OwnedFd) {
    let (reader, mut writer) = UnixStream::pair().unwrap();
    writer.set_nonblocking(true).unwrap();
    let mut end = writer.write(&[b'x'; 4096]);
    while end.is_ok() {
        end = writer.write(b"x");
    }
    assert_eq!(end.unwrap_err().kind(), ErrorKind::WouldBlock);
    writer.set_nonblocking(false).unwrap();
    (Some(reader), writer.into())
}

async fn ends(mut command: Command, stderr: OwnedFd) -> Output {
    let command = command.stdout(Stdio::piped()).stderr(stderr);
    let output = command.spawn().unwrap().wait_with_output();
    let output = timeout(PATIENCE, output).await;
    output.expect("the command doesn't end").unwrap()
}

#[tokio::test]
async fn list_and_a_dry_run_end_well_where_stderr_is_a_broken_pipe_or_full() {
    let scene = AgentScene::new(Supervised, &[]).await;
    scene.put("redis", "redis@1", &elsewhere(6379)).await;
    scene.put("redis", "bad", "{").await;
    for pipe in [broken, full] {
        let (_reader, stderr) = pipe();
        let output = ends(scene.command("list"), stderr).await;
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("10.255.255.1:6379"));
        let (_reader, stderr) = pipe();
        let mut dry_run = scene.command("agent");
        dry_run.args(["--dry-run", "--stats=off"]);
        let output = ends(dry_run, stderr).await;
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("listen redis"));
    }
}

/// More lines than stderr's pipe and sidekick's own queue hold are all there for a process that reads them.
#[tokio::test]
async fn a_list_loses_no_line_of_ten_thousand_bad_keys() {
    let scene = AgentScene::new(Supervised, &[]).await;
    let bad = (0..10_000).map(|n| (format!("/services/redis/bad-{n}"), "{".to_owned()));
    scene.etcd.put_all(&bad.collect::<Vec<_>>()).await;
    let (_, err, _) = output_of(&mut scene.command("list")).await;
    // The last line says that no instance is registered.
    assert_eq!(err.lines().count(), 10_001);
}

#[tokio::test]
async fn wrong_usage_is_status_2_where_stderr_is_a_broken_pipe_or_full() {
    let wrong = [
        &[][..],
        &["list", "--no-such-option"],
        &["list", "no such service"],
    ];
    for words in wrong {
        for pipe in [broken, full] {
            let (_reader, stderr) = pipe();
            let mut command = Command::new(env!("CARGO_BIN_EXE_sidekick"));
            command.args(words).kill_on_drop(true);
            let output = ends(command, stderr).await;
            assert_eq!(output.status.code(), Some(2), "{words:?}: {output:?}");
        }
    }
}
