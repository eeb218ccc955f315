//! `sidekick agent --dry-run`.

use crate::base::listener_maxconn;
use sidekick_harness::agent::*;
use std::time::Duration;

async fn run(command: &mut tokio::process::Command) -> (String, String, Option<i32>) {
    let output = command.output().await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        text(output.stdout),
        text(output.stderr),
        output.status.code(),
    )
}

#[tokio::test]
async fn it_prints_what_would_be_written_to_the_letter_and_on_stderr_what_is_left_out() {
    let mut scene = Scene::new(Way::Supervised, &[]).await;
    let port = free_port();
    let value = |host: &str| format!(r#"{{"host":"{host}","port":{port}}}"#);
    scene.put("redis", "redis@1", &value("10.255.255.1")).await;
    let draining = format!(r#"{{"host":"fd00::7","port":{port},"status":"draining"}}"#);
    scene.put("redis", "redis@2", &draining).await;
    scene.put("redis", "a;b", &value("10.255.255.1")).await;
    scene.put("redis", "n", &value("nobody.invalid")).await;
    scene.put("web", "w", &value("10.255.255.1")).await;
    scene.put("worse", "w", &value("10.255.255.1")).await;
    let (out, err, code) = run(scene.agent().arg("--dry-run")).await;
    assert_eq!(code, Some(0), "{err}");
    assert!(!scene.file().exists());
    for line in [
        "quarantined: /services/redis/a;b: ",
        "left out: cannot resolve nobody.invalid",
        &format!("refused: worse: :{port} is taken by web"),
    ] {
        assert!(err.contains(line), "{line} isn't in {err}");
    }
    assert_eq!(err.matches("sidekick: ").count(), 3, "{err}");
    // And that is what is written.
    scene.start_agent();
    becomes(PATIENCE, "the file", out, async || scene.config()).await;
}

/// Unless told otherwise.
#[tokio::test]
async fn what_is_built_in() {
    let scene = Scene::new(Way::Supervised, &[]).await;
    let value = r#"{"host":"10.255.255.1","port":6379}"#;
    scene.put("redis", "redis@1", value).await;
    let (out, err, code) = run(scene.command("agent").arg("--dry-run")).await;
    assert_eq!((err.as_str(), code), ("", Some(0)));
    let (before, after) = out.split_once("    setenv SIDEKICK_STRUCTURE ").unwrap();
    let (_, after) = after.split_once('\n').unwrap();
    let maxconn = listener_maxconn();
    let expected = format!(
        "\
# Written by sidekick agent, and written anew whenever etcd changes: edit --haproxy-base instead.

global
    fd-hard-limit 100000
    hard-stop-after 1h

defaults
    mode tcp
    timeout connect 2s
    timeout client 50s
    timeout server 50s
    retries 3
    option redispatch 1

global
    mworker-max-reloads 2147483647

listen sidekick:stats
    bind 127.0.0.1:1936
    mode http
    stats enable
    stats uri /

# The services that stand in etcd.

listen redis
    bind :::6379 v4v6
    mode tcp
    balance roundrobin
    tcp-request connection reject if {{ nbsrv eq 0 }} !{{ stopping }}
    maxconn {maxconn}
    server redis::1 10.255.255.1:6379 check inter 1s fastinter 500ms downinter 1s rise 3 fall 2
"
    );
    assert_eq!(format!("{before}{after}"), expected);
}

#[tokio::test]
async fn without_etcd_it_fails_and_says_why_once() {
    let scene = Scene::around(Etcd::not_yet().await, Way::Supervised, &[]);
    let mut command = scene.agent();
    let dry_run = run(command.arg("--dry-run"));
    let (out, err, code) = tokio::time::timeout(Duration::from_secs(15), dry_run)
        .await
        .expect("it waits for ever");
    assert_eq!((out.as_str(), code), ("", Some(1)));
    assert_eq!(err.matches(" ERROR ").count(), 1, "{err}");
    assert!(err.contains("Connection refused"), "{err}");
}
