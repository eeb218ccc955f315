//! HAProxy of one's own and of others, with and without rights.

use super::*;
use crate::doctor::report::Grade;

const ROOT: &str = "Uid:\t0\t0\t0\t0\nCapEff:\t000001ffffffffff\nCapAmb:\t0000000000000000\n";
const USER: &str =
    "Uid:\t65534\t65534\t65534\t65534\nCapEff:\t0000000000000000\nCapAmb:\t0000000000000000\n";
const UNIT: &str =
    "Uid:\t61234\t61234\t61234\t61234\nCapEff:\t0000000000000400\nCapAmb:\t0000000000000400\n";

/// Port 80 on both families, and port 8080 with a client.
const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0000000000000000 100 0 0 10 0
   1: 0100007F:1F90 0100007F:0050 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0000000000000000 20 4 30 10 -1
  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0000000000000000 100 0 0 10 0
";

fn running() -> RunningHaproxy {
    RunningHaproxy {
        version: (2, 6),
        failed_reloads: 0,
        status: ROOT.to_owned(),
        sockets: Some(BTreeSet::from([4711])),
    }
}

fn supervised() -> HaproxyAnswers {
    HaproxyAnswers {
        program: "/usr/sbin/haproxy".into(),
        version: Ok(
            "HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/".to_owned(),
        ),
        is_supervised: true,
        socket: "/run/sidekick/haproxy-master.sock".into(),
        running: Err(SocketFault::Absent),
        directory: ("/var/lib/sidekick".into(), Ok(())),
        own_status: UNIT.to_owned(),
        unprivileged: "1024\n".to_owned(),
        tcp: String::new(),
        ports: vec![Port {
            number: 80,
            is_named: true,
            obstacle: None,
        }],
    }
}

fn attached() -> HaproxyAnswers {
    HaproxyAnswers {
        is_supervised: false,
        running: Ok(running()),
        own_status: USER.to_owned(),
        ..supervised()
    }
}

fn bad(answers: &HaproxyAnswers) -> Vec<(&'static str, Grade)> {
    let findings = judge(answers);
    let bad = findings.iter().filter(|it| it.grade > Grade::Ok);
    for finding in bad.clone() {
        assert!(finding.advice.is_some(), "{finding:?}");
    }
    bad.map(|it| (it.check, it.grade)).collect()
}

#[test]
fn a_haproxy_that_the_agent_can_start_is_ok_and_so_is_one_that_answers() {
    assert_eq!(bad(&supervised()), []);
    assert_eq!(bad(&attached()), []);
}

#[test]
fn a_program_that_is_missing_or_too_old_fails() {
    for version in [
        Err("No such file or directory".to_owned()),
        Ok("HA-Proxy version 2.2.9-2+deb11u6 2023/12/09".to_owned()),
        Ok("something else".to_owned()),
    ] {
        let answers = HaproxyAnswers {
            version,
            ..supervised()
        };
        assert_eq!(bad(&answers), [("version", Grade::Fail)]);
    }
}

#[test]
fn a_socket_that_is_wrong_fails_where_the_agent_is_to_attach() {
    for (fault, supervises, attaches) in [
        (SocketFault::Absent, None, Grade::Fail),
        (SocketFault::NotListening, None, Grade::Fail),
        (SocketFault::NoRight, Some(Grade::Warn), Grade::Fail),
        (
            SocketFault::NoMaster("it has no worker".to_owned()),
            Some(Grade::Fail),
            Grade::Fail,
        ),
    ] {
        let with = |answers| HaproxyAnswers {
            running: Err(fault.clone()),
            ..answers
        };
        let expected: Vec<_> = supervises
            .map(|it| ("master socket", it))
            .into_iter()
            .collect();
        assert_eq!(bad(&with(supervised())), expected, "{fault:?}");
        assert_eq!(bad(&with(attached())), [("master socket", attaches)]);
    }
}

#[test]
fn a_haproxy_that_was_upgraded_or_could_not_reload_is_warned_of() {
    let with = |running| HaproxyAnswers {
        running: Ok(running),
        ..attached()
    };
    let upgraded = with(RunningHaproxy {
        version: (2, 4),
        ..running()
    });
    assert_eq!(bad(&upgraded), [("running", Grade::Warn)]);
    let failed = with(RunningHaproxy {
        failed_reloads: 1,
        ..running()
    });
    assert_eq!(bad(&failed), [("running", Grade::Warn)]);
}

#[test]
fn a_port_below_1024_needs_root_or_the_capability() {
    let with = |own_status: &str, number, is_named| HaproxyAnswers {
        own_status: own_status.to_owned(),
        ports: vec![Port {
            number,
            is_named,
            obstacle: None,
        }],
        ..supervised()
    };
    assert_eq!(bad(&with(ROOT, 80, true)), []);
    assert_eq!(bad(&with(UNIT, 80, true)), []);
    assert_eq!(bad(&with(USER, 80, true)), [("port", Grade::Fail)]);
    assert_eq!(bad(&with(USER, 80, false)), [("port", Grade::Warn)]);
    assert_eq!(bad(&with(USER, 1024, true)), []);
    let mut allowed = with(USER, 80, true);
    allowed.unprivileged = "80\n".to_owned();
    assert_eq!(bad(&allowed), []);
    // Effective alone is not for the child of a user's process.
    let effective = UNIT.replace("CapAmb:\t0000000000000400", "CapAmb:\t0000000000000000");
    assert_eq!(bad(&with(&effective, 80, true)), [("port", Grade::Fail)]);
    // Of a HAProxy that runs its own master counts.
    let mut attached = attached();
    attached.running.as_mut().unwrap().status = USER.to_owned();
    assert_eq!(bad(&attached), [("port", Grade::Fail)]);
}

#[test]
fn a_port_that_is_taken_fails_unless_haproxy_itself_has_it() {
    let taken = |answers: HaproxyAnswers| HaproxyAnswers {
        tcp: TCP.to_owned(),
        ports: vec![Port {
            number: 80,
            is_named: true,
            obstacle: Some("another process listens there".to_owned()),
        }],
        ..answers
    };
    assert_eq!(bad(&taken(supervised())), [("port", Grade::Fail)]);
    assert_eq!(bad(&taken(attached())), []);
    let mut others = taken(attached());
    others.running.as_mut().unwrap().sockets = Some(BTreeSet::from([1]));
    assert_eq!(bad(&others), [("port", Grade::Fail)]);
    others.running.as_mut().unwrap().sockets = None;
    assert_eq!(bad(&others), []);
    assert_eq!(listeners(TCP, 80), BTreeSet::from([4711, 4713]));
    assert_eq!(listeners(TCP, 8080), BTreeSet::new());
}

#[test]
fn a_directory_that_may_not_be_written_to_fails_and_ours_may_be_made() {
    let mut closed = supervised();
    closed.directory.1 = Err("Permission denied".to_owned());
    assert_eq!(bad(&closed), [("directory", Grade::Fail)]);
    let ours = Path::new("/var/lib/sidekick");
    let of = |file: &'static str, exists: bool| directory_of(Path::new(file), ours, |_| exists);
    assert_eq!(of("/var/lib/sidekick/haproxy.cfg", true), ours);
    assert_eq!(
        of("/var/lib/sidekick/haproxy.cfg", false),
        Path::new("/var/lib")
    );
    assert_eq!(of("/elsewhere/haproxy.cfg", false), Path::new("/elsewhere"));
    assert_eq!(of("haproxy.cfg", true), Path::new("."));
}
