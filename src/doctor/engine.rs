//! The Docker Engine: whether `announce` gets there all that it asks for. Pure.

use super::report::{Finding, Subject};
use super::version::{Release, release};
use crate::announce::docker::calls::{DeathProbe, EngineAnswers, EngineFault, EngineVersion};
use crate::announce::policy::process::NoPidfd;

/// The oldest that the tests run on, of Docker and of Podman.
const OLDEST_DOCKER: Release = (20, 10);
const OLDEST_PODMAN: Release = (4, 3);

/// By how many seconds two clocks may differ. Of two claims to a key the container that started later wins, so that a
/// clock that is wrong by more than a restart takes may have the wrong one win.
pub(super) const CLOCKS_APART: f64 = 2.0;

/// What to do about clocks that differ.
pub(super) const SYNCHRONIZE: &str = "have NTP set both clocks (chrony, systemd-timesyncd): of two containers that claim a key the one that \
     started later gets it";

/// What is to be said of the engine at `host`. `group` is the name or number of the socket's group, where it has one.
pub(super) fn judge(
    host: &str,
    group: Option<&str>,
    answers: &Result<EngineAnswers, EngineFault>,
) -> Vec<Finding> {
    let engine = Subject::new(format!("engine {host}"));
    let answers = match answers {
        Ok(answers) => answers,
        Err(fault) => return vec![unreachable(&engine, group, fault)],
    };
    let mut findings = vec![
        engine.ok("reachable", "it answers"),
        version(&engine, &answers.version),
        events(&engine, &answers.events),
    ];
    findings.extend(answers.list.as_ref().map(|list| listed(&engine, list)));
    findings.push(inspected(&engine, &answers.inspect));
    findings.push(info(&engine, &answers.info));
    findings.extend(clock(&engine, &answers.info));
    findings.push(deaths(&engine, &answers.deaths));
    findings
}

fn unreachable(engine: &Subject, group: Option<&str>, fault: &EngineFault) -> Finding {
    let advice = match fault {
        EngineFault::NoSocket => {
            "start the engine (systemctl start docker), or say where it listens in DOCKER_HOST".to_owned()
        }
        EngineFault::NoRight => {
            let group = group.unwrap_or("docker");
            format!(
                "add the user that sidekick runs as to the group {group} (SupplementaryGroups={group} in the unit, \
                 --group-add in a container)"
            )
        }
        EngineFault::NotListening => {
            "start the engine again (systemctl restart docker): its socket is left over".to_owned()
        }
        EngineFault::Refused(..) => through_proxy("/version"),
        EngineFault::Other(_) => {
            "see what the engine logs (journalctl -u docker), and whether DOCKER_HOST is its address".to_owned()
        }
    };
    engine.fail("reachable", fault.to_string(), advice)
}

fn through_proxy(call: &str) -> String {
    format!("let GET {call} through at the proxy or authorization plugin before the engine")
}

fn version(engine: &Subject, version: &Result<EngineVersion, EngineFault>) -> Finding {
    let EngineVersion { product, version } = match version {
        Ok(version) => version,
        Err(fault) => {
            return engine.fail(
                "version",
                format!("GET /version: {fault}"),
                through_proxy("/version"),
            );
        }
    };
    let oldest = match *product {
        "Podman" => OLDEST_PODMAN,
        _ => OLDEST_DOCKER,
    };
    let text = format!("{product} {version}");
    match release(version) {
        Some(release) if release >= oldest => engine.ok("version", text),
        read => {
            let why = match read {
                Some(_) => "is older than any that sidekick is tested with",
                None => "can't be compared",
            };
            let (major, minor) = oldest;
            let advice = format!("use {product} {major}.{minor:02} or later");
            engine.warn("version", format!("{text} {why}"), advice)
        }
    }
}

fn events(engine: &Subject, events: &Result<(), EngineFault>) -> Finding {
    match events {
        Ok(()) => engine.ok("events", "GET /events is answered"),
        Err(fault) => engine.fail(
            "events",
            format!("GET /events: {fault}"),
            through_proxy("/events"),
        ),
    }
}

fn listed(engine: &Subject, list: &Result<(usize, usize), EngineFault>) -> Finding {
    match list {
        Ok((all, labelled)) => engine.ok(
            "list",
            format!("{all} containers, {labelled} of them with sidekick labels"),
        ),
        Err(fault) => {
            let call = "/containers/json";
            engine.fail("list", format!("GET {call}: {fault}"), through_proxy(call))
        }
    }
}

fn inspected(engine: &Subject, (name, answer): &(String, Result<bool, EngineFault>)) -> Finding {
    match answer {
        Ok(true) => engine.ok("inspect", format!("{name} is shown")),
        Ok(false) => engine.ok("inspect", format!("answered: there is no container {name}")),
        Err(fault) => {
            let text = format!("GET /containers/{name}/json: {fault}");
            engine.fail("inspect", text, through_proxy("/containers/NAME/json"))
        }
    }
}

fn info(engine: &Subject, info: &Result<Option<f64>, EngineFault>) -> Finding {
    match info {
        Ok(_) => engine.ok("info", "GET /info is answered"),
        Err(fault) => {
            let advice = "let GET /info through, or give each container an address with --host or the label \
                          sidekick.host: without it this machine's own name is announced";
            engine.warn("info", format!("GET /info: {fault}"), advice)
        }
    }
}

fn clock(engine: &Subject, info: &Result<Option<f64>, EngineFault>) -> Option<Finding> {
    let ahead = info.as_ref().ok().copied().flatten()?;
    Some(if ahead.abs() <= CLOCKS_APART {
        engine.ok("clock", "agrees with this machine's")
    } else {
        engine.warn("clock", apart("the engine's clock", ahead), SYNCHRONIZE)
    })
}

/// `whose` clock is so many seconds ahead of ours.
pub(super) fn apart(whose: &str, ahead: f64) -> String {
    let side = if ahead > 0.0 { "ahead of" } else { "behind" };
    format!("{whose} is {:.0} s {side} this machine's", ahead.abs())
}

fn deaths(engine: &Subject, deaths: &DeathProbe) -> Finding {
    const CHECK: &str = "pid namespace";
    let (text, why) = match deaths {
        DeathProbe::Kernel(name, pid) => {
            let text = format!(
                "shared: process {pid} here is the init of {name}, so that deaths are known from the kernel"
            );
            return engine.ok(CHECK, text);
        }
        DeathProbe::NoContainer(Ok(())) => {
            let text =
                "shared with the engine; no container runs whose first process could be looked at";
            return engine.ok(CHECK, text);
        }
        DeathProbe::Unsettled => {
            let text = "the containers were started again while they were looked at";
            return engine.warn(CHECK, text, "ask again once a container stays up");
        }
        DeathProbe::NoContainer(Err(why)) => {
            (format!("deaths are known by events alone: {why}"), why)
        }
        DeathProbe::Events(name, why) => (
            format!("the death of {name} is known by events alone: {why}"),
            why,
        ),
    };
    let advice = match why {
        NoPidfd::Tcp => "run sidekick on the engine's machine, at the engine's unix:// socket",
        NoPidfd::OtherNamespace | NoPidfd::NoProcess(_) => {
            "run sidekick in the engine's pid namespace: on the machine itself, or with docker run --pid=host"
        }
        NoPidfd::NoInit(_) => {
            "start the container without --pid, if its death is to be known at once"
        }
        NoPidfd::OpenFiles(_) => "raise the limit of open files (LimitNOFILE= in the unit)",
        NoPidfd::Refused(_) => {
            "allow pidfd_open(2), which is in @system-service (SystemCallFilter=, seccomp), on Linux 5.3 or later"
        }
    };
    engine.warn(CHECK, text, advice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::report::Grade;

    fn docker(version: &str) -> EngineVersion {
        EngineVersion {
            product: "Docker",
            version: version.to_owned(),
        }
    }

    fn answers() -> EngineAnswers {
        EngineAnswers {
            version: Ok(docker("20.10.24+dfsg1")),
            info: Ok(Some(0.1)),
            events: Ok(()),
            list: Some(Ok((3, 1))),
            inspect: ("redis1".to_owned(), Ok(true)),
            deaths: DeathProbe::Kernel("redis1".to_owned(), 42.try_into().unwrap()),
        }
    }

    fn worst(answers: EngineAnswers) -> Vec<(&'static str, Grade)> {
        let findings = judge("unix:///run/docker.sock", None, &Ok(answers));
        let bad = findings.iter().filter(|it| it.grade > Grade::Ok);
        for finding in bad.clone() {
            assert!(finding.advice.is_some(), "{finding:?}");
        }
        bad.map(|it| (it.check, it.grade)).collect()
    }

    #[test]
    fn an_engine_that_answers_everything_is_ok() {
        assert_eq!(worst(answers()), []);
        let findings = judge("unix:///run/docker.sock", None, &Ok(answers()));
        assert_eq!(findings.len(), 8);
    }

    #[test]
    fn each_call_that_is_refused_is_a_failure_but_info_which_can_be_done_without() {
        let refused = || EngineFault::Refused(403, "no".to_owned());
        let mut all = answers();
        all.version = Err(refused());
        all.events = Err(refused());
        all.list = Some(Err(refused()));
        all.inspect.1 = Err(refused());
        all.info = Err(refused());
        let expected = [
            ("version", Grade::Fail),
            ("events", Grade::Fail),
            ("list", Grade::Fail),
            ("inspect", Grade::Fail),
            ("info", Grade::Warn),
        ];
        assert_eq!(worst(all), expected);
    }

    #[test]
    fn an_engine_that_is_older_than_the_tests_is_warned_of() {
        for (product, version, grade) in [
            ("Docker", "20.10.24+dfsg1", None),
            ("Docker", "28.5.2", None),
            ("Docker", "19.03.15", Some(Grade::Warn)),
            ("Docker", "", Some(Grade::Warn)),
            ("Podman", "4.3.1", None),
            ("Podman", "3.4.4", Some(Grade::Warn)),
        ] {
            let version = EngineVersion {
                product,
                version: version.to_owned(),
            };
            let all = EngineAnswers {
                version: Ok(version.clone()),
                ..answers()
            };
            let expected: Vec<_> = grade.map(|grade| ("version", grade)).into_iter().collect();
            assert_eq!(worst(all), expected, "{version:?}");
        }
    }

    #[test]
    fn a_socket_that_may_not_be_opened_names_its_group() {
        let findings = judge("unix:///s", Some("podman"), &Err(EngineFault::NoRight));
        assert_eq!(findings[0].grade, Grade::Fail);
        let advice = findings[0].advice.as_deref().unwrap();
        assert!(advice.contains("SupplementaryGroups=podman"), "{advice}");
        let findings = judge("unix:///s", None, &Err(EngineFault::NoSocket));
        let advice = findings[0].advice.as_deref().unwrap();
        assert!(advice.contains("DOCKER_HOST"), "{advice}");
    }

    #[test]
    fn clocks_that_differ_and_deaths_that_events_tell_are_warned_of() {
        for (ahead, bad) in [(0.0, false), (-2.0, false), (2.1, true), (-7.0, true)] {
            let all = EngineAnswers {
                info: Ok(Some(ahead)),
                ..answers()
            };
            assert_eq!(!worst(all).is_empty(), bad, "{ahead}");
        }
        assert_eq!(
            apart("its clock", -7.2),
            "its clock is 7 s behind this machine's"
        );
        for deaths in [
            DeathProbe::NoContainer(Err(NoPidfd::Tcp)),
            DeathProbe::Events("a".to_owned(), NoPidfd::OtherNamespace),
            DeathProbe::Unsettled,
        ] {
            let all = EngineAnswers {
                deaths,
                ..answers()
            };
            assert_eq!(worst(all), [("pid namespace", Grade::Warn)]);
        }
        let all = EngineAnswers {
            deaths: DeathProbe::NoContainer(Ok(())),
            ..answers()
        };
        assert_eq!(worst(all), []);
    }
}
