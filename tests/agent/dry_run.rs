//! `sidekick agent --dry-run`.

use crate::base::listener_maxconn;
use sidekick_harness::agent::*;

#[tokio::test]
async fn it_prints_what_would_be_written_to_the_letter_and_on_stderr_what_is_left_out() {
    let mut scene = AgentScene::new(Supervised, &[]).await;
    let port = free_port();
    let value = |host: &str| value_of(host, port);
    scene.put("redis", "redis@1", &value("10.255.255.1")).await;
    let draining = format!(r#"{{"host":"fd00::7","port":{port},"status":"draining"}}"#);
    scene.put("redis", "redis@2", &draining).await;
    scene.put("redis", "a;b", &value("10.255.255.1")).await;
    scene.put("redis", "n", &value("absent.invalid")).await;
    scene.put("web", "w", &value("10.255.255.1")).await;
    scene.put("worse", "w", &value("10.255.255.1")).await;
    let (out, err, code) = output_of(scene.agent().arg("--dry-run")).await;
    assert_eq!(code, Some(0), "{err}");
    assert!(!scene.file().exists());
    for line in [
        "quarantined: /services/redis/a;b: ",
        "left out: cannot resolve absent.invalid",
        &format!("refused: worse: :{port} is taken by web"),
    ] {
        assert!(err.contains(line), "{line} isn't in {err}");
    }
    assert_eq!(err.matches("sidekick: ").count(), 3, "{err}");
    // And that is what is written.
    scene.start_agent();
    becomes(PATIENCE, "the file", out, async || scene.config()).await;
}

/// The whole file, without any option.
#[tokio::test]
async fn what_is_built_in() {
    let scene = AgentScene::new(Supervised, &[]).await;
    scene.put("redis", "redis@1", &elsewhere(6379)).await;
    let (out, err, code) = output_of(scene.command("agent").arg("--dry-run")).await;
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
    http-request use-service prometheus-exporter if {{ path /metrics }}

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
    let scene = AgentScene::around(Etcd::not_yet().await, Supervised, &[]);
    let mut command = scene.agent();
    let dry_run = output_of(command.arg("--dry-run"));
    let ended = tokio::time::timeout(PATIENCE, dry_run).await;
    let (out, err, code) = ended.expect("it waits for ever");
    assert_eq!((out.as_str(), code), ("", Some(1)));
    assert_eq!(err.matches(" ERROR ").count(), 1, "{err}");
    assert!(err.contains("Connection refused"), "{err}");
}
