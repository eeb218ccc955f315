//! `sidekick doctor announce`: what is wrong is told, with what to do, and nothing is written.

use etcd_client::{AlarmAction, AlarmType};
use serde_json::Value as Json;
use sidekick_harness::*;

/// No group of any system's, and not the socket's.
const GROUP: u32 = 64_243;

/// What the doctor has found.
struct Diagnosis {
    findings: Vec<Json>,
    code: Option<i32>,
}

impl Diagnosis {
    async fn of(doctor: Announce) -> Diagnosis {
        let Explained { code, text, log } = doctor.run().await;
        let findings = serde_json::from_str(&text);
        let findings = findings.unwrap_or_else(|error| panic!("{error}: {text}{log}"));
        assert_eq!(log, "", "the report says it all");
        Diagnosis { findings, code }
    }

    /// The subjects and checks with this grade.
    fn graded(&self, grade: &str) -> Vec<(&str, &str)> {
        let graded = self.findings.iter().filter(|it| it["grade"] == grade);
        let word = |it: &'_ Json| it["subject"].as_str().expect("a subject").find(' ');
        graded
            .map(|it| {
                let subject = it["subject"].as_str().expect("a subject");
                let subject = &subject[..word(it).unwrap_or(subject.len())];
                (subject, it["check"].as_str().expect("a check"))
            })
            .collect()
    }

    /// The advice on a check that is not ok.
    fn advice(&self, check: &str) -> &str {
        let mut bad = self.findings.iter().filter(|it| it["grade"] != "ok");
        let found = bad.find(|it| it["check"] == check);
        let found = found.unwrap_or_else(|| panic!("{check} is ok: {:#?}", self.findings));
        found["advice"].as_str().expect("an advice")
    }

    fn text(&self, check: &str) -> &str {
        let found = self.findings.iter().find(|it| it["check"] == check);
        found.expect("it was checked")["text"]
            .as_str()
            .expect("a text")
    }
}

/// `sidekick doctor announce CONTAINER --key KEY`.
fn doctor(container: &str, etcd: &Etcd) -> Announce {
    let doctor = Sidekick::doctor("announce").flag(container).etcd(etcd);
    doctor.option("--key", KEY)
}

#[tokio::test]
async fn what_is_well_is_ok_and_stays_as_it_was() {
    let (engine, etcd) = tokio::join!(Engine::shared(), Etcd::start());
    let redis = engine.redis().run().await;
    etcd.put(KEY, "another's").await;
    let before = etcd.revision().await;
    let doctor = doctor(redis.name(), &etcd).docker(engine);
    let found = Diagnosis::of(doctor.option("--drain", "1s").within(&engine.beside())).await;
    assert_eq!(found.code, Some(0));
    assert_eq!(found.graded("warn"), []);
    let ok = [
        ("engine", "reachable"),
        ("engine", "version"),
        ("engine", "events"),
        ("engine", "inspect"),
        ("engine", "info"),
        ("engine", "clock"),
        ("engine", "pid namespace"),
        ("etcd", "reachable"),
        ("etcd", "version"),
        ("etcd", "leader"),
        ("etcd", "alarm"),
        ("etcd", "latency"),
        ("etcd", "auth"),
        ("etcd", "write"),
        ("etcd", "read"),
        ("etcd", "read"),
        ("etcd", "clock"),
    ];
    assert_eq!(found.graded("ok")[..ok.len()], ok);
    let shared = found.text("pid namespace");
    assert!(shared.contains("is the init of"), "{shared}");
    let clocks = found.findings.iter().filter(|it| it["check"] == "clock");
    for clock in clocks {
        assert_eq!(clock["text"], "agrees with this machine's");
    }
    assert_eq!(etcd.revision().await, before, "nothing is written");
    let stands = etcd.get(KEY).await.expect("the key stands");
    assert_eq!(stands.value, "another's");
}

#[tokio::test]
async fn a_whole_machine_is_looked_at_without_any_option() {
    let (engine, etcd) = tokio::join!(Engine::start(), Etcd::start());
    let all = Sidekick::doctor("announce").etcd(&etcd).docker(&engine);
    let found = Diagnosis::of(all.within(&engine.beside())).await;
    assert_eq!((found.code, found.graded("warn")), (Some(0), vec![]));
    let listed = found.text("list");
    assert_eq!(listed, "0 containers, 0 of them with sidekick labels");
    let inspected = found.text("inspect");
    assert!(inspected.contains("there is no container"), "{inspected}");
    assert_eq!(etcd.revision().await, 1);
}

#[tokio::test]
async fn another_pid_namespace_is_warned_of() {
    let (engine, etcd) = tokio::join!(Engine::shared(), Etcd::start());
    let redis = engine.redis().run().await;
    // The test's own namespace is above the engine's, whose numbers mean other processes here.
    let found = Diagnosis::of(doctor(redis.name(), &etcd).docker(engine)).await;
    assert_eq!(found.code, Some(0));
    assert_eq!(found.graded("warn"), [("engine", "pid namespace")]);
    assert!(found.advice("pid namespace").contains("--pid=host"));
}

#[tokio::test]
async fn an_engine_that_is_not_there_is_told() {
    let etcd = Etcd::start().await;
    let missing = "unix:///nowhere/docker.sock";
    let doctor = doctor("redis1", &etcd).option("--docker-host", missing);
    let found = Diagnosis::of(doctor).await;
    assert_eq!(found.code, Some(1));
    assert_eq!(found.graded("fail"), [("engine", "reachable")]);
    assert!(found.advice("reachable").contains("DOCKER_HOST"));
}

#[tokio::test]
async fn a_socket_that_the_user_may_not_open_is_told_with_its_group() {
    let (engine, etcd) = tokio::join!(Engine::start(), Etcd::start());
    engine.opens_to(GROUP + 1);
    let alone = doctor("redis1", &etcd).docker(&engine);
    let found = Diagnosis::of(alone.unprivileged_in(GROUP)).await;
    assert_eq!(found.code, Some(1));
    assert_eq!(found.graded("fail"), [("engine", "reachable")]);
    let group = format!("SupplementaryGroups={}", GROUP + 1);
    let advice = found.advice("reachable");
    assert!(advice.contains(&group), "{advice}");

    let member = doctor("redis1", &etcd).docker(&engine);
    let found = Diagnosis::of(member.unprivileged_in(GROUP + 1)).await;
    assert_eq!((found.code, found.graded("fail")), (Some(0), vec![]));
}

#[tokio::test]
async fn a_call_that_a_socket_proxy_refuses_is_told_and_no_other_is_made() {
    let (engine, etcd) = tokio::join!(Engine::shared(), Etcd::start());
    let redis = engine.redis().run().await;
    let proxy = SocketProxy::without_info(engine).await;
    let doctor = doctor(redis.name(), &etcd).option("--docker-host", &proxy.host());
    let found = Diagnosis::of(doctor).await;
    assert_eq!(found.code, Some(0));
    let expected = [("engine", "info"), ("engine", "pid namespace")];
    assert_eq!(found.graded("warn"), expected);
    assert!(found.advice("info").contains("--host"));
    let asked = proxy.requests();
    let refused: Vec<_> = asked.keys().filter(|it| it.starts_with("403")).collect();
    assert_eq!(refused, ["403 GET /info"], "{asked:?}");
}

#[tokio::test]
async fn one_of_three_members_may_be_gone_but_not_all() {
    let cluster = EtcdCluster::start(3).await;
    let urls: Vec<&str> = cluster.members.iter().map(Etcd::url).collect();
    let engine = Engine::shared().await;
    let doctor = || {
        let doctor = Sidekick::doctor("announce").endpoints(&urls);
        doctor.docker(engine).within(&engine.beside())
    };
    cluster.members[0].kill9().await;
    // The others may have to elect a leader first.
    let well = eventually(PATIENCE, "the others serve", async || {
        let found = Diagnosis::of(doctor()).await;
        match found.code {
            Some(0) => Ok(found),
            _ => Err(format!("{:?}", found.graded("fail"))),
        }
    });
    let well = well.await;
    assert_eq!(well.graded("warn"), [("etcd", "reachable")]);
    assert!(well.advice("reachable").contains("the others serve"));
    let written = well.findings.iter().filter(|it| it["check"] == "write");
    assert_eq!(written.count(), 2);
    assert_eq!(cluster.members[1].revision().await, 1);

    for member in &cluster.members[1..] {
        member.kill9().await;
    }
    let found = Diagnosis::of(doctor()).await;
    assert_eq!(found.code, Some(1));
    assert_eq!(found.graded("fail"), [("etcd", "reachable"); 3]);
}

#[tokio::test]
async fn a_member_that_has_lost_the_others_has_no_leader() {
    let cluster = EtcdCluster::start(3).await;
    let engine = Engine::shared().await;
    cluster.members[0].kill9().await;
    cluster.members[1].kill9().await;
    let alone = [cluster.members[2].url()];
    // It takes an election's timeout until it knows.
    eventually(PATIENCE, "the member knows no leader", async || {
        let doctor = Sidekick::doctor("announce").endpoints(&alone);
        let found = Diagnosis::of(doctor.docker(engine)).await;
        assert_eq!(found.code, Some(1));
        match found.graded("fail") {
            failed if failed == [("etcd", "leader")] => Ok(()),
            failed => Err(format!("{failed:?}")),
        }
    })
    .await;
}

#[tokio::test]
async fn a_login_and_its_rights_are_told() {
    let (engine, etcd) = tokio::join!(Engine::shared(), Etcd::start_with_login(300));
    etcd.put(KEY, "another's").await;
    let before = etcd.revision().await;
    let redis = engine.redis().run().await;
    let doctor = || {
        let doctor = doctor(redis.name(), &etcd).docker(engine);
        doctor.within(&engine.beside())
    };
    let found = Diagnosis::of(doctor().login()).await;
    assert_eq!((found.code, found.graded("warn")), (Some(0), vec![]));
    assert_eq!(found.text("auth"), "logged in as sidekick");

    // Whoever has no right to the control keys does without.
    let drains = Diagnosis::of(doctor().login().option("--drain", "1s")).await;
    assert_eq!(drains.code, Some(0));
    assert_eq!(drains.graded("warn"), [("etcd", "read"); 2]);

    let elsewhere = doctor().login().option("--key", "/elsewhere/redis/redis@1");
    let found = Diagnosis::of(elsewhere).await;
    assert_eq!(found.code, Some(1));
    assert_eq!(found.graded("fail"), [("etcd", "write")]);
    let advice = "etcdctl role grant-permission ROLE --prefix=true readwrite /elsewhere/redis/";
    assert_eq!(found.advice("write"), advice);

    let found = Diagnosis::of(doctor()).await;
    assert_eq!(found.code, Some(1));
    assert_eq!(found.graded("fail"), [("etcd", "auth")]);
    assert!(found.advice("auth").contains("ETCDCTL_USER"));

    let wrong = doctor().login().environment("ETCDCTL_PASSWORD", "wrong");
    let found = Diagnosis::of(wrong).await;
    assert_eq!(found.code, Some(1));
    assert_eq!(found.graded("fail"), [("etcd", "auth")]);
    let version = found.text("version");
    assert!(!version.is_empty(), "it is told without a login");
    assert_eq!(etcd.revision().await, before, "nothing is written");
}

#[tokio::test]
async fn a_user_where_etcd_knows_none_is_told() {
    let (engine, etcd) = tokio::join!(Engine::shared(), Etcd::start());
    let redis = engine.redis().run().await;
    let doctor = doctor(redis.name(), &etcd).docker(engine).login();
    let found = Diagnosis::of(doctor).await;
    assert_eq!(found.code, Some(1));
    assert_eq!(found.graded("fail"), [("etcd", "auth")]);
    let advice = found.advice("auth");
    assert!(advice.contains("leave ETCDCTL_USER out"), "{advice}");
}

/// The right to write is told all the same.
#[tokio::test]
async fn an_etcd_without_space_is_told() {
    let (engine, etcd) = tokio::join!(Engine::shared(), Etcd::start());
    let redis = engine.redis().run().await;
    let mut client = etcd.client().maintenance_client();
    let alarm = client.alarm(AlarmAction::Activate, AlarmType::Nospace, None);
    alarm.await.expect("the alarm can be raised");
    let doctor = doctor(redis.name(), &etcd).docker(engine);
    let found = Diagnosis::of(doctor.within(&engine.beside())).await;
    assert_eq!(found.code, Some(1));
    assert_eq!(found.graded("fail"), [("etcd", "alarm")]);
    assert!(found.advice("alarm").contains("etcdctl alarm disarm"));
    assert!(found.graded("ok").contains(&("etcd", "write")));
}

/// A frozen engine and a frozen member cost their deadlines, side by side.
#[tokio::test]
async fn what_does_not_answer_is_told_after_its_deadline() {
    let (engine, etcd) = tokio::join!(Engine::start(), Etcd::start());
    engine.freeze();
    etcd.freeze();
    let begun = std::time::Instant::now();
    let mut doctor = doctor("redis1", &etcd).docker(&engine).spawn();
    let status = doctor.wait_exit(secs(20)).await;
    assert_eq!(status.code(), Some(1));
    println!("both were silent, for {:?}", begun.elapsed());
    engine.thaw();
    etcd.thaw();
}
