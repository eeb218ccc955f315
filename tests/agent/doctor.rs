//! `sidekick doctor agent` on a real HAProxy: the part that is about it.

use serde_json::Value as Json;
use sidekick_harness::agent::*;
use std::collections::BTreeSet;
use std::path::Path;

/// Check and grade of each finding about HAProxy, and its text; and the exit status.
async fn doctor(
    scene: &AgentScene,
    arguments: &[&str],
) -> (Vec<(String, String, String)>, Option<i32>) {
    let mut doctor = scene.command("doctor");
    doctor.args(["agent", "-o", "json", "--haproxy", haproxy()]);
    let (out, err, code) = output_of(doctor.args(arguments)).await;
    assert_eq!(err, "", "the report says it all");
    let findings: Vec<Json> = serde_json::from_str(&out).unwrap();
    let of_haproxy = findings.iter().filter(|it| it["subject"] == "haproxy");
    let text = |it: &Json, field: &str| it[field].as_str().unwrap().to_owned();
    let found = of_haproxy.map(|it| (text(it, "check"), text(it, "grade"), text(it, "text")));
    (found.collect(), code)
}

fn graded(found: &[(String, String, String)]) -> Vec<(&str, &str)> {
    let found = found.iter();
    found
        .map(|(check, grade, _)| (check.as_str(), grade.as_str()))
        .collect()
}

/// What lies in the scene's directory.
fn files(directory: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
    entries
        .map(|entry| name(entry).into_string().unwrap())
        .collect()
}

#[tokio::test]
async fn a_haproxy_that_runs_answers_and_has_its_port() {
    let mut scene = AgentScene::start(Attached, &[]).await;
    let a = Backend::start("a").await;
    scene.put("redis", "redis@1", &a.value()).await;
    scene.serves_redis(&[&a]).await;
    let (socket, file) = (scene.socket(), scene.file());
    let bind = format!("--bind=redis=:{}", scene.port);
    let options = [
        "--haproxy-master",
        socket.to_str().unwrap(),
        "--haproxy-config",
        file.to_str().unwrap(),
        &bind,
    ];
    let (revision, before) = (scene.etcd.revision().await, files(scene.dir.path()));
    let config = scene.config();
    let (found, code) = doctor(&scene, &options).await;
    let expected = [
        ("version", "ok"),
        ("master socket", "ok"),
        ("directory", "ok"),
        ("port", "ok"),
    ];
    assert_eq!((graded(&found).as_slice(), code), (&expected[..], Some(0)));
    let listens = format!("{}: HAProxy listens there", scene.port);
    assert_eq!(found[3].2, listens);
    assert_eq!(scene.etcd.revision().await, revision);
    assert_eq!((files(scene.dir.path()), scene.config()), (before, config));
    assert_eq!(scene.stop_agent().await, Some(0));
}

#[tokio::test]
async fn a_path_that_is_no_master_socket_is_told() {
    let scene = AgentScene::start(Attached, &[]).await;
    let directory = scene.dir.path().to_str().unwrap();
    let file = scene.file();
    // The second one is a listener of HAProxy's, and no master.
    for (name, words) in [
        ("nothing", "there is no "),
        ("other", "is no socket of a HAProxy master"),
    ] {
        let socket = format!("{directory}/{name}");
        let options = [
            "--haproxy-master",
            &socket,
            "--haproxy-config",
            file.to_str().unwrap(),
        ];
        let (found, code) = doctor(&scene, &options).await;
        assert_eq!(code, Some(1), "{found:?}");
        let (check, grade, text) = &found[1];
        assert_eq!((check.as_str(), grade.as_str()), ("master socket", "fail"));
        assert!(text.contains(words), "{text}");
    }
}

#[tokio::test]
async fn a_haproxy_that_is_yet_to_be_started_needs_its_program_its_directory_and_its_port() {
    let scene = AgentScene::new(Supervised, &[]).await;
    let file = scene.file();
    let config = ["--haproxy-config", file.to_str().unwrap()];
    let bind = format!("--bind=redis=:{}", scene.port);
    let before = files(scene.dir.path());
    let (found, code) = doctor(&scene, &[&config[..], &[&bind]].concat()).await;
    assert_eq!(code, Some(0), "{found:?}");
    assert!(found[1].2.contains("the agent starts a HAProxy there"));
    assert_eq!(files(scene.dir.path()), before, "nothing is made");

    let _taken = std::net::TcpListener::bind(("0.0.0.0", scene.port)).unwrap();
    let (found, code) = doctor(&scene, &[&config[..], &[&bind]].concat()).await;
    assert_eq!(code, Some(1), "{found:?}");
    assert_eq!(graded(&found)[3], ("port", "fail"));

    let nowhere = ["--haproxy-config", "/nowhere/haproxy.cfg"];
    let (found, code) = doctor(&scene, &nowhere).await;
    assert_eq!(code, Some(1), "{found:?}");
    assert_eq!(graded(&found)[2], ("directory", "fail"));

    let mut missing = scene.command("doctor");
    missing
        .args(["agent", "--haproxy=/nowhere/haproxy"])
        .args(config);
    let (out, _, code) = output_of(&mut missing).await;
    assert_eq!(code, Some(1));
    let line = out.lines().find(|line| line.contains("/nowhere/haproxy:"));
    assert!(line.is_some_and(|it| it.contains("FAIL  version")), "{out}");
    assert!(out.contains("to do: install HAProxy"), "{out}");
}

#[tokio::test]
async fn the_agents_rights_in_etcd_are_told() {
    let scene = AgentScene::around(Etcd::start_with_login(300).await, Supervised, &[]);
    let file = scene.file();
    let ask = async |prefix: &str| {
        let mut doctor = scene.command("doctor");
        doctor
            .args([
                "agent",
                "-o",
                "json",
                "--haproxy",
                haproxy(),
                "--prefix",
                prefix,
            ])
            .args(["--haproxy-config", file.to_str().unwrap()])
            .env("ETCDCTL_USER", Login::NAME)
            .env("ETCDCTL_PASSWORD", Login::PASSWORD);
        let (out, _, code) = output_of(&mut doctor).await;
        let findings: Vec<Json> = serde_json::from_str(&out).unwrap();
        let of = |check: &str| {
            let found = findings.iter().find(|it| it["check"] == check).unwrap();
            found["grade"].as_str().unwrap().to_owned()
        };
        (of("read"), of("write"), code)
    };
    let word = |text: &str| text.to_owned();
    assert_eq!(ask("/services").await, (word("ok"), word("warn"), Some(0)));
    assert_eq!(ask("/other").await, (word("fail"), word("warn"), Some(1)));
}
