//! Units as Debian 12's systemd 252 shows them.

use super::*;
use crate::doctor::report::Grade;

/// The shipped pair, and two units that are none of sidekick's.
const SHOWN: &str = "\
Id=redis@1.service
LoadState=loaded
NeedDaemonReload=no
BindsTo=
After=docker.service system-redis.slice systemd-journald.socket basic.target
WantedBy=multi-user.target
TimeoutStopUSec=30s
ExecStart={ path=/usr/bin/docker ; argv[]=/usr/bin/docker run --name redis1 -p 6379:6379 redis ; ignore_errors=no ; start_time=[n/a] ; stop_time=[n/a] ; pid=0 ; code=(null) ; status=0/0 }

Id=redis-discovery@1.service
LoadState=loaded
NeedDaemonReload=no
BindsTo=redis@1.service
After=redis@1.service basic.target
WantedBy=redis@1.service
TimeoutStopUSec=20s
ExecStart={ path=/usr/local/bin/sidekick ; argv[]=/usr/local/bin/sidekick announce redis1 --key /services/redis/redis@1 --host worker-1 ; ignore_errors=no ; start_time=[n/a] ; stop_time=[n/a] ; pid=0 ; code=(null) ; status=0/0 }
Environment=SIDEKICK_DRAIN=10s
EnvironmentFiles=/etc/default/sidekick (ignore_errors=yes)

Id=cron.service
LoadState=loaded
TimeoutStopUSec=infinity
ExecStart={ path=/usr/sbin/cron ; argv[]=/usr/sbin/cron -f $EXTRA_OPTS ; ignore_errors=no ; start_time=[n/a] ; stop_time=[n/a] ; pid=0 ; code=(null) ; status=0/0 }

Id=auditd.service
LoadState=not-found
";

const BOTH: UnitsAsked<'_> = UnitsAsked {
    announce: Some((None, Duration::ZERO)),
    agent: true,
};

const ANNOUNCE: UnitsAsked<'_> = UnitsAsked {
    agent: false,
    ..BOTH
};

/// The checks that are not ok, and how bad they are.
fn bad(shown: &str, asked: UnitsAsked<'_>, file: &str) -> Vec<(&'static str, Grade)> {
    let files = BTreeMap::from([("/etc/default/sidekick".to_owned(), file.to_owned())]);
    let findings = judge(&Units::Shown(Unit::all(shown), files), asked);
    let bad = findings.iter().filter(|it| it.grade > Grade::Ok);
    for finding in bad.clone() {
        assert!(finding.advice.is_some(), "{finding:?}");
    }
    bad.map(|it| (it.check, it.grade)).collect()
}

#[test]
fn the_shipped_pair_is_ok() {
    assert_eq!(bad(SHOWN, ANNOUNCE, ""), []);
    let files = BTreeMap::new();
    let findings = judge(&Units::Shown(Unit::all(SHOWN), files), ANNOUNCE);
    let found: Vec<_> = findings
        .iter()
        .map(|it| (it.subject.as_str(), it.check, it.text.as_str()))
        .collect();
    let unit = "unit redis-discovery@1.service";
    let expected = [
        (unit, "BindsTo", "redis@1.service"),
        (unit, "After", "redis@1.service"),
        (unit, "TimeoutStopSec", "20 s, with a drain of 10 s"),
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_pair_that_is_not_bound_ordered_or_wanted_is_told() {
    for (from, to, expected) in [
        (
            "BindsTo=redis@1.service",
            "BindsTo=",
            ("BindsTo", Grade::Warn),
        ),
        (
            "After=redis@1.service basic",
            "After=basic",
            ("After", Grade::Fail),
        ),
        (
            "WantedBy=redis@1.service",
            "WantedBy=multi-user.target",
            ("Wants", Grade::Warn),
        ),
        (
            "NeedDaemonReload=no\nBindsTo=redis",
            "NeedDaemonReload=yes\nBindsTo=redis",
            ("file", Grade::Warn),
        ),
        (
            "Id=redis@1.service\nLoadState=loaded",
            "Id=redis@1.service\nLoadState=not-found",
            ("BindsTo", Grade::Fail),
        ),
    ] {
        assert!(SHOWN.contains(from), "{from}");
        assert_eq!(bad(&SHOWN.replace(from, to), ANNOUNCE, ""), [expected]);
    }
}

#[test]
fn the_time_to_stop_has_to_be_five_seconds_longer_than_the_drain() {
    let too_short = [("TimeoutStopSec", Grade::Fail)];
    let with = |timeout: &str, file: &str| {
        let shown = SHOWN.replace("TimeoutStopUSec=20s", &format!("TimeoutStopUSec={timeout}"));
        bad(&shown, ANNOUNCE, file)
    };
    assert_eq!(with("15s", ""), []);
    assert_eq!(with("14.999s", ""), too_short);
    assert_eq!(with("1min 30s", ""), []);
    assert_eq!(with("infinity", ""), []);
    // The file counts more than Environment=, and its last line more than the first.
    assert_eq!(with("20s", "SIDEKICK_DRAIN=15s\n"), []);
    assert_eq!(
        with("20s", "# SIDEKICK_DRAIN=1s\nSIDEKICK_DRAIN=\"16s\"\n"),
        too_short
    );
    assert_eq!(with("5s", "SIDEKICK_DRAIN=30s\nSIDEKICK_DRAIN=0\n"), []);
    assert_eq!(
        with("20s", "SIDEKICK_DRAIN=soon\n"),
        [("drain", Grade::Fail)]
    );
    // The command line counts most.
    for option in ["--drain=30s", "--drain 30s"] {
        let shown = SHOWN.replace("--host worker-1", option);
        assert_eq!(bad(&shown, ANNOUNCE, "SIDEKICK_DRAIN=1s"), too_short);
    }
    // What doctor itself is asked for.
    let asked = UnitsAsked {
        announce: Some((Some("redis1"), Duration::from_secs(16))),
        agent: false,
    };
    assert_eq!(bad(SHOWN, asked, ""), too_short);
}

#[test]
fn the_unit_of_a_whole_machine_comes_after_the_engine() {
    let all = SHOWN
        .replace(
            "announce redis1 --key /services/redis/redis@1",
            "announce --all",
        )
        .replace("BindsTo=redis@1.service", "BindsTo=");
    assert_eq!(bad(&all, ANNOUNCE, ""), [("After", Grade::Warn)]);
    let after = all.replace("After=redis@1.service", "After=docker.service");
    assert_eq!(bad(&after, ANNOUNCE, ""), []);
}

#[test]
fn a_job_without_a_unit_is_warned_of() {
    assert_eq!(bad(SHOWN, BOTH, ""), [("units", Grade::Warn)]);
    let agent = "Id=sidekick-agent.service\nTimeoutStopUSec=15s\nExecStart={ path=/usr/local/bin/sidekick ; \
                 argv[]=/usr/local/bin/sidekick agent ; ignore_errors=no ; pid=0 }\n";
    assert_eq!(bad(&format!("{SHOWN}\n{agent}"), BOTH, ""), []);
    let short = agent.replace("15s", "4s");
    assert_eq!(
        bad(&format!("{SHOWN}\n{short}"), BOTH, ""),
        [("TimeoutStopSec", Grade::Fail)]
    );
}

#[test]
fn where_systemd_does_not_run_no_unit_is_looked_at() {
    let findings = judge(&Units::NoSystemd, BOTH);
    assert_eq!(findings.len(), 1);
    assert_eq!(findings[0].grade, Grade::Ok);
    let findings = judge(&Units::Unreadable("no bus".to_owned()), BOTH);
    assert_eq!(findings[0].grade, Grade::Warn);
}
