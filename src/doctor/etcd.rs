//! etcd: which rights the jobs need, and what is to be said of each member. Pure.

mod probe;

pub(super) use probe::ask_each;

use super::config::{DRY_KEY, DoctorConfig};
use super::engine::{CLOCKS_APART, SYNCHRONIZE, apart};
use super::report::{Finding, Grade, Subject};
use super::version::{Release, release};
use crate::announce::AnnounceConfig;
use crate::announce::policy::target::Target;
use crate::endpoint::{Endpoint, Key};
use crate::etcd::EtcdError;
use std::collections::BTreeSet;
use std::time::Duration;

/// The oldest that the tests run on.
const OLDEST: Release = (3, 4);

/// A quarter of a call's deadline (`CALL_DEADLINE`), after which sidekick turns to the next member. On a disk of its own
/// etcd takes a few milliseconds.
const SLOW: Duration = Duration::from_millis(500);

/// An id that no agent has.
const NO_AGENT: &str = "sidekick-doctor";

/// What may be refused.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Access {
    /// All keys that begin so are read.
    ReadBelow(String),
    /// This key is read and written.
    Write(String),
}

/// A right that a job asks for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Right {
    pub(super) access: Access,
    /// How bad it is without.
    without: Grade,
    /// What becomes of the job without.
    consequence: &'static str,
}

/// The rights that the jobs ask for.
pub(super) fn rights(config: &DoctorConfig) -> Vec<Right> {
    let announce = config.announce.as_ref().map(announcers).into_iter();
    let mut rights: Vec<_> = announce.flatten().collect();
    if let Some(agent) = &config.agent {
        rights.push(Right {
            access: Access::ReadBelow(format!("{}/", agent.prefix)),
            without: Grade::Fail,
            consequence: "the agent can't see any instance",
        });
        rights.push(Right {
            access: Access::Write(agent.control.agent(NO_AGENT)),
            without: Grade::Warn,
            consequence: "the agent can't tell announcers what has drained: they wait for the whole --drain",
        });
    }
    let mut known = BTreeSet::new();
    rights.retain(|right| known.insert(right.access.clone()));
    rights
}

fn announcers(config: &AnnounceConfig) -> Vec<Right> {
    let key = match &config.target {
        Target::One { key, .. } => Some(key.clone()),
        Target::All { prefix, .. } => format!("{prefix}/{DRY_KEY}").parse().ok(),
    };
    let mut rights = Vec::new();
    if let Some(key) = &key {
        rights.push(Right {
            access: Access::Write(key.to_string()),
            without: Grade::Fail,
            consequence: "announce can't keep its key",
        });
    }
    for key in key.iter().flat_map(|key| further_keys(config, key)) {
        rights.push(Right {
            access: Access::Write(key.to_string()),
            without: Grade::Warn,
            consequence: "the further key (--also) is not put",
        });
    }
    if !config.drain.is_zero() {
        for below in [config.control.wishes(), config.control.agents()] {
            rights.push(Right {
                access: Access::ReadBelow(format!("{below}/")),
                without: Grade::Warn,
                consequence: "sidekick drain has no effect, and a stop takes the whole --drain",
            });
        }
    }
    rights
}

/// The further keys of an instance that does not exist.
fn further_keys(config: &AnnounceConfig, key: &Key) -> Vec<Key> {
    let endpoint = Endpoint::decode(
        br#"{"host":"192.0.2.1","port":1,"container":"000000000000","since":"1970-01-01T00:00:01Z"}"#,
    );
    let all = endpoint.map(|endpoint| config.layouts.further_keys(key, &endpoint));
    let all = all.unwrap_or_default();
    all.into_iter()
        .filter_map(|made| Some(made.ok()?.0))
        .collect()
}

/// A member's status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MemberStatus {
    pub(super) version: String,
    pub(super) cluster: u64,
    pub(super) has_leader: bool,
    pub(super) is_learner: bool,
    /// Alarms and other errors, in etcd's words.
    pub(super) errors: Vec<String>,
}

/// What a member answered.
#[derive(Debug)]
pub(super) struct MemberAnswers {
    pub(super) endpoint: String,
    pub(super) status: Result<MemberStatus, EtcdError>,
    /// The user's name, where there is one, and why etcd doesn't take it.
    pub(super) login: Option<(String, Result<(), EtcdError>)>,
    /// How long each took, or why it is refused; empty where no user could log in.
    pub(super) rights: Vec<(Right, Result<Duration, EtcdError>)>,
    /// By how many seconds its clock is ahead of ours; `None` where it doesn't tell.
    pub(super) clock_ahead: Option<f64>,
}

/// What is to be said of the members. `writes`: a job is asked for that writes instances.
pub(super) fn judge(members: &[MemberAnswers], writes: bool) -> Vec<Finding> {
    let one_answers = members.iter().any(|member| member.status.is_ok());
    let mut findings: Vec<_> = members
        .iter()
        .flat_map(|member| judge_member(member, one_answers, writes))
        .collect();
    let clusters: BTreeSet<_> = members
        .iter()
        .filter_map(|member| Some(member.status.as_ref().ok()?.cluster))
        .collect();
    if clusters.len() > 1 {
        let text = format!("the members belong to {} clusters", clusters.len());
        let advice = "name the members of one cluster in ETCDCTL_ENDPOINTS";
        findings.push(Subject::new("etcd").fail("cluster", text, advice));
    }
    findings
}

fn judge_member(member: &MemberAnswers, one_answers: bool, writes: bool) -> Vec<Finding> {
    let etcd = Subject::new(format!("etcd {}", member.endpoint));
    let status = match &member.status {
        Ok(status) => status,
        // sidekick asks for a leader with each call.
        Err(fault) if fault.to_string().contains("no leader") => {
            let answers = etcd.ok("reachable", "it answers");
            return vec![answers, leaderless(&etcd, one_answers)];
        }
        Err(fault) => return vec![unreachable(&etcd, fault, one_answers)],
    };
    let mut findings = vec![
        etcd.ok("reachable", "it answers"),
        version(&etcd, &status.version),
    ];
    if status.is_learner {
        let text = "it is a learner, which serves neither reads nor writes";
        let advice =
            "promote it (etcdctl member promote), or leave it out of ETCDCTL_ENDPOINTS until then";
        findings.push(etcd.warn("leader", text, advice));
        return findings;
    }
    findings.push(match status.has_leader {
        true => etcd.ok("leader", "the cluster has one"),
        false => leaderless(&etcd, false),
    });
    findings.push(alarm(&etcd, &status.errors, writes));
    findings.extend(latency(&etcd, member));
    findings.push(auth(&etcd, member));
    let asked = member.rights.iter();
    findings.extend(asked.filter_map(|(right, answer)| judge_right(&etcd, right, answer)));
    findings.push(clock(&etcd, member.clock_ahead));
    findings
}

fn leaderless(etcd: &Subject, one_answers: bool) -> Finding {
    let text = "it knows no leader: a majority of the members does not answer it";
    let advice = "start the other members, and see that this one reaches their peer ports";
    match one_answers {
        true => etcd.warn("leader", text, advice),
        false => etcd.fail("leader", text, advice),
    }
}

fn unreachable(etcd: &Subject, fault: &EtcdError, one_answers: bool) -> Finding {
    let text = fault.to_string();
    match one_answers {
        true => etcd.warn(
            "reachable",
            text,
            "start this member again: the others serve, and fewer of them may be lost now",
        ),
        false => etcd.fail(
            "reachable",
            text,
            "start etcd, or say where it listens in ETCDCTL_ENDPOINTS; sidekick waits for it until then",
        ),
    }
}

fn version(etcd: &Subject, version: &str) -> Finding {
    let (major, minor) = OLDEST;
    match release(version) {
        Some(release) if release >= OLDEST => etcd.ok("version", format!("etcd {version}")),
        _ => etcd.warn(
            "version",
            format!("etcd {version:?} is older than any that sidekick is tested with"),
            format!("use etcd {major}.{minor} or later"),
        ),
    }
}

fn alarm(etcd: &Subject, errors: &[String], writes: bool) -> Finding {
    let about = |word: &str| errors.iter().find(|error| error.contains(word));
    if let Some(text) = about("NOSPACE") {
        let advice = "compact and defragment each member, then etcdctl alarm disarm; or raise \
                      --quota-backend-bytes: until then etcd refuses every put";
        return match writes {
            true => etcd.fail("alarm", text, advice),
            false => etcd.warn("alarm", text, advice),
        };
    }
    if let Some(text) = about("CORRUPT") {
        let advice = "replace the member that is corrupt (etcdctl member remove, member add)";
        return etcd.fail("alarm", text, advice);
    }
    match errors {
        [] => etcd.ok("alarm", "none"),
        errors => etcd.warn("alarm", errors.join("; "), "see what etcd logs"),
    }
}

/// Of the calls that need the cluster's consent the fastest: the first one may have had to connect.
fn latency(etcd: &Subject, member: &MemberAnswers) -> Option<Finding> {
    let took = member
        .rights
        .iter()
        .filter_map(|(_, answer)| answer.as_ref().ok());
    let took = *took.min()?;
    let text = format!("{:.1} ms", took.as_secs_f64() * 1000.0);
    Some(match took < SLOW {
        true => etcd.ok("latency", text),
        false => etcd.warn(
            "latency",
            text,
            "give etcd a disk of its own and a network without loss: after 2 s sidekick turns to the next member",
        ),
    })
}

fn auth(etcd: &Subject, member: &MemberAnswers) -> Finding {
    const CHECK: &str = "auth";
    match &member.login {
        Some((user, Ok(()))) => etcd.ok(CHECK, format!("logged in as {user}")),
        Some((user, Err(fault))) if fault.to_string().contains("not enabled") => etcd.fail(
            CHECK,
            format!("no login as {user}: {fault}"),
            "leave ETCDCTL_USER out, or turn etcd's authentication on (etcdctl auth enable)",
        ),
        Some((user, Err(fault))) => etcd.fail(
            CHECK,
            format!("no login as {user}: {fault}"),
            "see that ETCDCTL_USER and the password (--etcd-password-file, ETCDCTL_PASSWORD) are those of etcdctl user list",
        ),
        None if member.rights.iter().any(|(_, answer)| wants_login(answer)) => etcd.fail(
            CHECK,
            "etcd asks for a login",
            "give the user in ETCDCTL_USER (--etcd-user), and the password in a file (--etcd-password-file)",
        ),
        None => etcd.ok(CHECK, "no login is asked for"),
    }
}

const fn wants_login(answer: &Result<Duration, EtcdError>) -> bool {
    matches!(answer, Err(EtcdError::Auth(_)))
}

/// `None`: the lack of a login says it all.
fn judge_right(
    etcd: &Subject,
    right: &Right,
    answer: &Result<Duration, EtcdError>,
) -> Option<Finding> {
    let (check, what, range) = match &right.access {
        Access::ReadBelow(key) => ("read", format!("keys below {key}"), key),
        Access::Write(key) => ("write", key.clone(), key),
    };
    let fault = match answer {
        Ok(_) => return Some(etcd.ok(check, what)),
        Err(EtcdError::Auth(_)) => return None,
        Err(fault) => fault,
    };
    let text = format!("{what}: {fault}: {}", right.consequence);
    let advice = if fault.to_string().contains("permission denied") {
        let below = range.rsplit_once('/').map_or("", |(below, _)| below);
        let kind = match right.access {
            Access::ReadBelow(_) => "read",
            Access::Write(_) => "readwrite",
        };
        format!("etcdctl role grant-permission ROLE --prefix=true {kind} {below}/")
    } else {
        "see what etcd logs, and whether a majority of its members is up".to_owned()
    };
    Some(match right.without {
        Grade::Fail => etcd.fail(check, text, advice),
        Grade::Warn | Grade::Ok => etcd.warn(check, text, advice),
    })
}

fn clock(etcd: &Subject, ahead: Option<f64>) -> Finding {
    match ahead {
        None => etcd.ok("clock", "not told"),
        Some(ahead) if ahead.abs() <= CLOCKS_APART => {
            etcd.ok("clock", "agrees with this machine's")
        }
        Some(ahead) => etcd.warn("clock", apart("its clock", ahead), SYNCHRONIZE),
    }
}

#[cfg(test)]
mod tests;
