//! Members that are well, and members that are not.

use super::*;
use crate::doctor::config::DoctorArgs;
use clap::Parser;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: DoctorArgs,
}

fn config(words: &[&str]) -> DoctorConfig {
    let words = ["sidekick"].iter().chain(words);
    DoctorConfig::new(Line::try_parse_from(words).unwrap().args).unwrap()
}

fn wanted(words: &[&str]) -> Vec<(Access, Grade)> {
    let rights = rights(&config(words)).into_iter();
    rights.map(|right| (right.access, right.without)).collect()
}

fn read(below: &str) -> Access {
    Access::ReadBelow(below.to_owned())
}

fn write(key: &str) -> Access {
    Access::Write(key.to_owned())
}

fn member(endpoint: &str) -> MemberAnswers {
    let right = Right {
        access: write("/services/redis/redis@1"),
        without: Grade::Fail,
        consequence: "announce can't keep its key",
    };
    MemberAnswers {
        endpoint: endpoint.to_owned(),
        status: Ok(MemberStatus {
            version: "3.4.23".to_owned(),
            cluster: 7,
            has_leader: true,
            is_learner: false,
            errors: Vec::new(),
        }),
        login: None,
        rights: vec![(right, Ok(Duration::from_millis(3)))],
        clock_ahead: Some(-0.3),
    }
}

fn bad(members: &[MemberAnswers], writes: bool) -> Vec<(&'static str, Grade)> {
    let findings = judge(members, writes);
    let bad = findings.iter().filter(|it| it.grade > Grade::Ok);
    for finding in bad.clone() {
        assert!(finding.advice.is_some(), "{finding:?}");
    }
    bad.map(|it| (it.check, it.grade)).collect()
}

fn dead(endpoint: &str) -> MemberAnswers {
    MemberAnswers {
        status: Err(EtcdError::Unreachable("Connection refused".to_owned())),
        rights: Vec::new(),
        clock_ahead: None,
        ..member(endpoint)
    }
}

#[test]
fn each_job_asks_for_its_own_rights() {
    let one = ["announce", "redis1", "--key=/services/redis/redis@1"];
    let expected = [(write("/services/redis/redis@1"), Grade::Fail)];
    assert_eq!(wanted(&one), expected);
    let more = ["--drain=10s", "--also=traefik-tcp"];
    let expected = [
        (write("/services/redis/redis@1"), Grade::Fail),
        (
            write("traefik/tcp/services/redis/loadBalancer/servers/redis@1/address"),
            Grade::Warn,
        ),
        (read("/sidekick/services/drain/"), Grade::Warn),
        (read("/sidekick/services/agents/"), Grade::Warn),
    ];
    assert_eq!(wanted(&[&one[..], &more].concat()), expected);
    let both = [
        (write("/here/sidekick-doctor/dry-run"), Grade::Fail),
        (read("/here/"), Grade::Fail),
        (write("/sidekick/here/agents/sidekick-doctor"), Grade::Warn),
    ];
    assert_eq!(wanted(&["--prefix=/here"]), both);
    assert_eq!(wanted(&["agent", "--prefix=/here"]), both[1..]);
}

#[test]
fn members_that_answer_everything_are_ok() {
    let members = [member("http://a:1"), member("http://b:1")];
    assert_eq!(bad(&members, true), []);
    let checks: Vec<_> = judge(&members[..1], true)
        .iter()
        .map(|it| it.check)
        .collect();
    let expected = [
        "reachable",
        "version",
        "leader",
        "alarm",
        "latency",
        "auth",
        "write",
        "clock",
    ];
    assert_eq!(checks, expected);
}

#[test]
fn a_member_that_is_gone_is_a_warning_as_long_as_another_answers() {
    let members = [dead("http://a:1"), member("http://b:1")];
    assert_eq!(bad(&members, true), [("reachable", Grade::Warn)]);
    let members = [dead("http://a:1"), dead("http://b:1")];
    assert_eq!(bad(&members, true), [("reachable", Grade::Fail); 2]);
}

#[test]
fn a_cluster_without_a_leader_fails_and_a_learner_is_warned_of() {
    let status = |change: fn(&mut MemberStatus)| {
        let mut member = member("http://a:1");
        change(member.status.as_mut().unwrap());
        member
    };
    let leaderless = status(|it| it.has_leader = false);
    assert_eq!(bad(&[leaderless], true), [("leader", Grade::Fail)]);
    let cut_off = || MemberAnswers {
        status: Err(EtcdError::Unreachable("etcdserver: no leader".to_owned())),
        ..dead("http://c:1")
    };
    assert_eq!(bad(&[cut_off()], true), [("leader", Grade::Fail)]);
    let members = [cut_off(), member("http://a:1")];
    assert_eq!(bad(&members, true), [("leader", Grade::Warn)]);
    let learner = status(|it| it.is_learner = true);
    assert_eq!(bad(&[learner], true), [("leader", Grade::Warn)]);
    let old = status(|it| it.version = "3.3.27".to_owned());
    assert_eq!(bad(&[old], true), [("version", Grade::Warn)]);
    let other = status(|it| it.cluster = 8);
    let members = [member("http://b:1"), other];
    assert_eq!(bad(&members, true), [("cluster", Grade::Fail)]);
}

#[test]
fn an_alarm_fails_where_keys_are_put() {
    let alarmed = |text: &str| {
        let mut member = member("http://a:1");
        member.status.as_mut().unwrap().errors = vec![text.to_owned()];
        [member]
    };
    let space = alarmed("memberID:10276657743932975437 alarm:NOSPACE ");
    assert_eq!(bad(&space, true), [("alarm", Grade::Fail)]);
    assert_eq!(bad(&space, false), [("alarm", Grade::Warn)]);
    let corrupt = alarmed("memberID:1 alarm:CORRUPT ");
    assert_eq!(bad(&corrupt, false), [("alarm", Grade::Fail)]);
    assert_eq!(bad(&alarmed("something"), true), [("alarm", Grade::Warn)]);
}

#[test]
fn a_right_that_is_missing_says_which_command_grants_it() {
    let mut member = member("http://a:1");
    let refused = "etcdserver: permission denied".to_owned();
    member.rights[0].1 = Err(EtcdError::Refused(refused));
    let findings = judge(&[member], true);
    let write = findings.iter().find(|it| it.check == "write").unwrap();
    assert_eq!(write.grade, Grade::Fail);
    assert_eq!(
        write.advice.as_deref(),
        Some("etcdctl role grant-permission ROLE --prefix=true readwrite /services/redis/")
    );
}

#[test]
fn a_login_is_told_from_a_right() {
    let mut wants = member("http://a:1");
    wants.rights[0].1 = Err(EtcdError::Auth("user name is empty".to_owned()));
    assert_eq!(bad(&[wants], true), [("auth", Grade::Fail)]);
    for (text, advice) in [
        ("authentication is not enabled", "leave ETCDCTL_USER out"),
        ("invalid user ID or password", "see that ETCDCTL_USER"),
    ] {
        let mut refused = member("http://a:1");
        refused.login = Some(("u".to_owned(), Err(EtcdError::Auth(text.to_owned()))));
        refused.rights.clear();
        let findings = judge(&[refused], true);
        let auth = findings.iter().find(|it| it.check == "auth").unwrap();
        assert_eq!(auth.grade, Grade::Fail);
        assert!(
            auth.advice.as_deref().unwrap().starts_with(advice),
            "{auth:?}"
        );
    }
}

#[test]
fn slow_calls_and_clocks_that_differ_are_warned_of() {
    let mut slow = member("http://a:1");
    slow.rights[0].1 = Ok(SLOW);
    assert_eq!(bad(&[slow], true), [("latency", Grade::Warn)]);
    let mut apart = member("http://a:1");
    apart.clock_ahead = Some(-3.0);
    assert_eq!(bad(&[apart], true), [("clock", Grade::Warn)]);
    let mut silent = member("http://a:1");
    silent.clock_ahead = None;
    assert_eq!(bad(&[silent], true), []);
}
