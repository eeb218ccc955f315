//! `--listen`: metrics, health, readiness and the page, asked for as bytes.

use sidekick_harness::agent::*;
use sidekick_harness::http::{
    EventStream, answers, are_described, ask_http, get, open_metrics, promtool_takes,
};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// An agent of that scene, not yet begun, that listens there.
pub(crate) fn listening(mut scene: AgentScene) -> (AgentScene, SocketAddr) {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    scene.argument(&format!("--listen={address}"));
    (scene, address)
}

/// With everything up, and the page answering.
pub(crate) async fn started(mode: HaproxyMode) -> (AgentScene, SocketAddr) {
    let (mut scene, address) = listening(AgentScene::new(mode, &[]).await);
    scene.begin().await;
    answers(address, "/readyz", 200).await;
    (scene, address)
}

#[tokio::test]
async fn what_the_agent_counts_can_be_scraped() {
    let (scene, address) = started(Supervised).await;
    let a = Backend::start("a").await;
    scene.put("redis", "redis@1", &a.value()).await;
    scene.put("redis", "redis@2", &a.draining()).await;
    scene.put("redis", "bad", "{").await;
    let sample = async |name: &str| {
        let text = get(address, "/metrics").await?.body;
        open_metrics(&text).get(name).copied()
    };
    for (name, value) in [
        ("sidekick_agent_services", 1.0),
        ("sidekick_agent_instances", 2.0),
        ("sidekick_agent_instances_draining", 1.0),
        ("sidekick_agent_keys_quarantined", 1.0),
        ("sidekick_etcd_up", 1.0),
        ("sidekick_ready", 1.0),
        ("sidekick_agent_passes_total{result=\"failure\"}", 0.0),
    ] {
        becomes(PATIENCE, name, Some(value), async || sample(name).await).await;
    }
    let answer = get(address, "/metrics").await.unwrap();
    assert!(
        answer
            .head
            .contains("application/openmetrics-text; version=1.0.0"),
        "{}",
        answer.head
    );
    let samples = open_metrics(&answer.body);
    are_described(&samples, include_str!("../../docs/observing.md"));
    let histogram = "sidekick_agent_convergence_duration_seconds";
    let converged = samples[&format!("{histogram}_count")];
    assert!(converged >= 1.0, "{converged}");
    // Event to agreement takes milliseconds; the bound is a loaded machine's.
    let mean = samples[&format!("{histogram}_sum")] / converged;
    assert!(mean < 1.0, "{mean} s");
    assert!(samples["sidekick_agent_runtime_commands_total"] >= 1.0);
    let answered = format!(
        "sidekick_etcd_last_answer_timestamp_seconds{{endpoint=\"{}\"}}",
        scene.endpoints
    );
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    assert!(
        (now - 30.0..=now).contains(&samples[&answered]),
        "{answered}"
    );
    // No service and no instance is a label.
    assert!(!answer.body.contains("redis"), "{}", answer.body);
    let plain = "GET /metrics HTTP/1.0\r\nAccept: text/plain\r\n\r\n";
    promtool_takes(&ask_http(address, plain).await.unwrap().body).await;
}

#[tokio::test]
async fn it_is_ready_once_haproxy_is_at_etcds_truth_and_stays_so_without_etcd() {
    let (mut scene, address) =
        listening(AgentScene::around(Etcd::not_yet().await, Supervised, &[]));
    scene.begin().await;
    let waits = async || {
        let answer = get(address, "/readyz").await?;
        let waits = answer.body.starts_with("etcd has not answered yet (");
        waits.then_some((answer.status, answer.body.lines().count()))
    };
    let told = eventually(PATIENCE, "it waits for etcd", waits).await;
    assert_eq!(told, (503, 1));
    // It lives all the same.
    let answer = answers(address, "/healthz", 200).await;
    assert!(answer.body.starts_with("the loop came round"), "{answer:?}");

    scene.etcd.launch();
    scene.etcd.until_it_answers().await;
    answers(address, "/readyz", 200).await;
    let a = Backend::start("a").await;
    scene.put("redis", "redis@1", &a.value()).await;
    scene.serves_redis(&[&a]).await;
    let answer = answers(address, "/readyz", 200).await;
    assert!(
        answer.body.starts_with("serving 1 services, 1 instances"),
        "{answer:?}"
    );

    // HAProxy goes on with what etcd said last, and so does its readiness.
    scene.etcd.kill9().await;
    let lost = async || {
        let answer = get(address, "/readyz").await?;
        answer
            .body
            .contains("etcd unreachable")
            .then_some(answer.status)
    };
    assert_eq!(
        eventually(PATIENCE, "it tells of the outage", lost).await,
        200
    );
}

#[tokio::test]
async fn it_is_not_ready_while_haproxy_does_not_answer() {
    let (scene, address) = started(Supervised).await;
    scene.freeze_haproxy(true);
    let a = Backend::start("a").await;
    scene.put("redis", "redis@1", &a.value()).await;
    answers(address, "/readyz", 503).await;
    scene.freeze_haproxy(false);
    scene.serves_redis(&[&a]).await;
    answers(address, "/readyz", 200).await;
}

#[tokio::test]
async fn only_get_and_head_are_answered_and_only_what_there_is() {
    let (_scene, address) = started(Supervised).await;
    let answer = get(address, "/nowhere").await.unwrap();
    assert_eq!(answer.status, 404);
    let post = "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";
    let answer = ask_http(address, post).await.unwrap();
    assert!(
        answer.status == 405 && answer.head.contains("allow: get, head"),
        "{answer:?}"
    );
    for path in ["/", "/metrics", "/healthz", "/readyz", "/events"] {
        let head = format!("HEAD {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        let answer = ask_http(address, &head).await.unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (200, ""), "{path}");
    }
    let long = format!("GET /{} HTTP/1.0\r\n\r\n", "x".repeat(100_000));
    // Cut off, or told so: it is not read to its end.
    let answer = ask_http(address, &long).await;
    assert!(answer.is_none_or(|it| it.status >= 400));
}

#[tokio::test]
async fn a_connection_has_five_seconds_and_there_are_64_of_them() {
    let (scene, address) = started(Supervised).await;
    let began = Instant::now();
    let mut clients = JoinSet::new();
    // Half of them say nothing, half send their request a byte at a time.
    for n in 0..64 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        clients.spawn(async move {
            if n % 2 == 0 {
                let mut answer = Vec::new();
                let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
            } else {
                let mut bytes = b"GET /metrics HTTP/1.1\r\nX: "
                    .iter()
                    .chain(std::iter::repeat(&b'x'));
                while stream.write_all(&[*bytes.next().unwrap()]).await.is_ok() {
                    assert!(began.elapsed() < PATIENCE, "a trickle is never cut off");
                    // A client's pace.
                    sleep(millis(100)).await;
                }
            }
            began.elapsed()
        });
    }
    // The 65th waits for its turn, and is answered.
    let answer = get(address, "/healthz").await.unwrap();
    let waited = began.elapsed();
    assert_eq!(answer.status, 200);
    assert!((secs(4)..secs(7)).contains(&waited), "{waited:?}");
    let a = Backend::start("a").await;
    scene.put("redis", "redis@1", &a.value()).await;
    scene.serves_redis(&[&a]).await;
    while let Some(ended) = clients.join_next().await {
        let lasted = ended.unwrap();
        assert!((secs(4)..secs(8)).contains(&lasted), "{lasted:?}");
    }
}

#[tokio::test]
async fn the_page_follows_an_instance_that_is_put_moved_drained_and_deleted() {
    let (scene, address) = started(Supervised).await;
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let mut events = EventStream::of(address, "/events").await;
    events
        .until("that nothing is there", |it| {
            it.contains("Nothing is registered")
        })
        .await;
    scene.put("redis", "redis@0", &b.value()).await;
    events
        .until("the first instance", |it| {
            it.contains("redis/redis@0</b> is new")
        })
        .await;
    for (value, row, change) in [
        (Some(a.value()), "serving", "is new at "),
        (Some(b.value()), "serving", "moved from "),
        (Some(b.draining()), "draining", "drains"),
        (None, "", "is gone"),
    ] {
        let began = Instant::now();
        match &value {
            Some(value) => scene.put("redis", "redis@1", value).await,
            None => scene.delete("redis", "redis@1").await,
        }
        let change = format!("redis/redis@1</b> {change}");
        let html = events.until(&change, |it| it.contains(&change)).await;
        let took = began.elapsed();
        assert!(took < secs(1), "{change} after {took:?}");
        let shown = format!("<tr class=\"{row}\"><td data-title=\"Instance\">redis@1<");
        assert_eq!(html.contains(&shown), value.is_some(), "{html}");
    }
    // Without a script: the same on the page itself.
    let page = get(address, "/").await.unwrap();
    assert!(
        page.head
            .contains("content-security-policy: default-src 'none';"),
        "{}",
        page.head
    );
    assert!(
        page.body.contains("<td data-title=\"Instance\">redis@0<"),
        "{}",
        page.body
    );
    assert!(
        page.body.contains("redis/redis@1</b> is gone"),
        "{}",
        page.body
    );
}

#[tokio::test]
async fn a_hostile_key_is_text_on_the_page() {
    let (scene, address) = started(Supervised).await;
    let key = "/services/redis/<img src=x onerror=alert(1)>\"'&";
    scene.etcd.put(key, "{\"host\":\"<script>\"}").await;
    let shown = "/services/redis/&lt;img src=x onerror=alert(1)&gt;";
    let page = eventually(PATIENCE, "the key is shown", async || {
        let body = get(address, "/").await?.body;
        body.contains(shown).then_some(body)
    })
    .await;
    assert!(
        !page.contains("<img") && page.matches("<script>").count() == 1,
        "{page}"
    );
}

#[tokio::test]
async fn an_address_that_is_taken_is_one_line_and_status_1() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let mut scene = AgentScene::new(Supervised, &[]).await;
    scene.argument(&format!("--listen={address}"));
    let (out, err, code) = output_of(&mut scene.agent()).await;
    assert_eq!((out.as_str(), code), ("", Some(1)), "{err}");
    let line = format!("--listen: cannot listen on {address}: Address already in use");
    assert!(err.contains(&line) && err.lines().count() == 1, "{err}");
}

#[tokio::test]
async fn healthcheck_tells_by_its_exit_status() {
    let (scene, address) = started(Supervised).await;
    let ask = async |words: &[&str], variable: Option<String>| {
        let mut healthcheck = Command::new(&scene.program);
        healthcheck.arg("healthcheck").args(words);
        healthcheck.env_remove("SIDEKICK_LISTEN");
        healthcheck.envs(variable.map(|it| ("SIDEKICK_LISTEN", it)));
        output_of(&mut healthcheck).await
    };
    let (out, err, code) = ask(&[&address.to_string()], None).await;
    assert_eq!((err.as_str(), code), ("", Some(0)));
    assert!(out.starts_with("the loop came round"), "{out}");
    let (_, _, code) = ask(&[], Some(address.to_string())).await;
    assert_eq!(code, Some(0));
    let (out, _, code) = ask(&[&format!("http://{address}/readyz")], None).await;
    assert_eq!((out.starts_with("serving"), code), (true, Some(0)), "{out}");
    let (out, _, code) = ask(&[&format!("http://{address}/nowhere")], None).await;
    assert_eq!((out.starts_with("404"), code), (true, Some(1)), "{out}");
    let (_, err, code) = ask(&[&format!("127.0.0.1:{}", free_port())], None).await;
    assert!(
        err.contains("Connection refused") && code == Some(1),
        "{err}"
    );
    let (_, err, code) = ask(&[], None).await;
    assert!(err.contains("SIDEKICK_LISTEN") && code == Some(2), "{err}");
    let (_, err, code) = ask(&["--if-listening"], None).await;
    assert_eq!((err.as_str(), code), ("", Some(0)));
    // Nobody accepts there: the connection stands, and no answer comes.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mute = mute.local_addr().map(|at| (mute, at)).unwrap();
    let (_, err, code) = ask(&[&mute.1.to_string(), "--timeout=300ms"], None).await;
    assert!(
        err.contains("no answer within 0.3 s") && code == Some(1),
        "{err}"
    );
}

#[tokio::test]
async fn the_shipped_alerts_are_rules_and_each_of_them_fires() {
    for words in [
        ["check", "rules", "deploy/alerts.yml"],
        ["test", "rules", "tests/alerts.yml"],
    ] {
        let mut promtool = Command::new("promtool");
        promtool.args(words).current_dir(env!("CARGO_MANIFEST_DIR"));
        let (out, err, code) = output_of(&mut promtool).await;
        assert_eq!(code, Some(0), "{words:?}: {out}{err}");
    }
    let rules = include_str!("../../deploy/alerts.yml");
    let tests = include_str!("../alerts.yml");
    let names = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "));
    for name in names {
        assert!(
            tests.contains(&format!("- name: {name} fires\n")),
            "{name} is not shown to fire"
        );
    }
}

/// What Prometheus there answers to a query: each instance's value.
async fn query(prometheus: SocketAddr, query: &str) -> Option<Vec<(String, String)>> {
    let answer = get(prometheus, &format!("/api/v1/query?query={query}")).await?;
    let json: serde_json::Value = serde_json::from_str(&answer.body).ok()?;
    let results = json["data"]["result"].as_array()?.iter();
    let results = results.map(|it| {
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        (text(&it["metric"]["instance"]), text(&it["value"][1]))
    });
    Some(results.collect())
}

#[tokio::test]
async fn a_real_prometheus_scrapes_both_jobs() {
    let (scene, agent) = started(Supervised).await;
    let announcer = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let _announce = scene
        .command("announce")
        .args([
            "redis1",
            "--key",
            "/services/redis/redis@1",
            "--docker-host",
        ])
        .arg(format!("unix://{}/no.sock", scene.dir.path().display()))
        .arg(format!("--listen={announcer}"))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let config = format!(
        "global: {{ scrape_interval: 1s, scrape_timeout: 1s }}\n\
         rule_files: ['{}/deploy/alerts.yml']\n\
         scrape_configs:\n- job_name: sidekick\n  static_configs: [{{ targets: ['{agent}', '{announcer}'] }}]\n",
        env!("CARGO_MANIFEST_DIR")
    );
    std::fs::write(dir.path().join("prometheus.yml"), config).unwrap();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let _prometheus = Command::new("prometheus")
        .arg(format!(
            "--config.file={}/prometheus.yml",
            dir.path().display()
        ))
        .arg(format!("--storage.tsdb.path={}/data", dir.path().display()))
        .arg(format!("--web.listen-address={address}"))
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("prometheus can't be started; is Debian's prometheus installed?");
    for (metric, of_agent, of_announcer) in [
        ("up", Some("1"), Some("1")),
        ("sidekick_ready", Some("1"), Some("0")),
        ("sidekick_etcd_up", Some("1"), Some("1")),
        ("sidekick_engine_up", None, Some("0")),
        ("sidekick_agent_services", Some("1"), None),
    ] {
        let value = |at: SocketAddr, value: Option<&str>| Some((at.to_string(), value?.to_owned()));
        let expected = [value(agent, of_agent), value(announcer, of_announcer)];
        let mut expected: Vec<_> = expected.into_iter().flatten().collect();
        expected.sort();
        becomes(PATIENCE, metric, Some(expected), async || {
            let mut all = query(address, metric).await?;
            all.sort();
            Some(all)
        })
        .await;
    }
}

#[tokio::test]
async fn haproxys_own_exporter_answers_on_the_statistics_page() {
    let stats = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let mut scene = AgentScene::new(Supervised, &[&format!("--stats={stats}")]).await;
    scene.begin().await;
    let a = Backend::start("a").await;
    scene.put("redis", "redis@1", &a.value()).await;
    scene.serves_redis(&[&a]).await;
    let metrics = answers(stats, "/metrics", 200).await.body;
    assert!(
        metrics.contains("haproxy_server_status{proxy=\"redis\",server=\"redis::1\""),
        "{metrics}"
    );
    // And the page is still there.
    let page = answers(stats, "/", 200).await.body;
    assert!(page.contains("Statistics Report"), "{page}");
}
