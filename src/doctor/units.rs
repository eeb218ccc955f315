//! systemd's units: whether sidekick's is bound to its container's, and has the time to drain. Pure.

mod probe;

pub(super) use probe::{Units, ask};

use super::report::{Finding, Subject};
use crate::config::duration;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// How long `announce` takes to stop beside its drain, and the agent to end HAProxy, at most.
const STOPS_WITHIN: Duration = Duration::from_secs(5);

/// The properties that are asked for (systemctl(1), org.freedesktop.systemd1(5)).
const PROPERTIES: &str = "Id,LoadState,NeedDaemonReload,BindsTo,After,WantedBy,RequiredBy,UpheldBy,TimeoutStopUSec,\
                          ExecStart,Environment,EnvironmentFiles";

/// One unit, as `systemctl show` describes it: each property with its lines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Unit(BTreeMap<String, Vec<String>>);

impl Unit {
    /// All units of an output, which an empty line separates.
    pub(super) fn all(shown: &str) -> Vec<Self> {
        let blocks = shown.split("\n\n").map(Self::read);
        blocks.filter(|unit| !unit.id().is_empty()).collect()
    }

    fn read(block: &str) -> Self {
        let mut properties: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, value) in block.lines().filter_map(|line| line.split_once('=')) {
            let values = properties.entry(name.to_owned()).or_default();
            values.push(value.to_owned());
        }
        Self(properties)
    }

    fn lines(&self, property: &str) -> impl Iterator<Item = &str> {
        let lines = self.0.get(property).into_iter().flatten();
        lines.map(String::as_str).filter(|line| !line.is_empty())
    }

    fn one(&self, property: &str) -> &str {
        self.lines(property).next().unwrap_or_default()
    }

    fn names(&self, property: &str) -> Vec<&str> {
        self.lines(property)
            .flat_map(str::split_whitespace)
            .collect()
    }

    fn id(&self) -> &str {
        self.one("Id")
    }

    /// The words behind `sidekick JOB` of the command line; `None` where the unit runs no such.
    fn arguments(&self, job: &str) -> Option<Vec<&str>> {
        self.lines("ExecStart").find_map(|line| {
            let (_, argv) = line.split_once("argv[]=")?;
            let argv = argv.split(" ; ").next()?;
            let words: Vec<_> = argv.split_whitespace().collect();
            let at = words.windows(2).position(|pair| {
                let program = Path::new(pair[0]).file_name();
                program.is_some_and(|name| name == "sidekick") && pair[1] == job
            })?;
            Some(words[at + 2..].to_vec())
        })
    }

    /// The files of its environment, in the order in which the later one counts.
    pub(super) fn environment_files(&self) -> Vec<&str> {
        let lines = self.lines("EnvironmentFiles");
        let path = |line: &'_ str| line.find(" (ignore_errors=").unwrap_or(line.len());
        lines.map(|line| &line[..path(line)]).collect()
    }

    /// Whether it runs a sidekick.
    pub(super) fn runs_sidekick(&self) -> bool {
        let mut jobs = ["announce", "agent"].into_iter();
        jobs.any(|job| self.arguments(job).is_some())
    }

    /// The text of its `--drain`: on the command line, else in the last file that has it, else in `Environment=`.
    fn drain<'a>(
        &'a self,
        arguments: &[&'a str],
        files: &'a BTreeMap<String, String>,
    ) -> Option<&'a str> {
        let option = arguments.iter().enumerate().find_map(|(at, word)| {
            let value = word.strip_prefix("--drain=");
            value.or_else(|| (*word == "--drain").then(|| arguments.get(at + 1).copied())?)
        });
        let in_files = self.environment_files().into_iter().rev();
        let in_files = in_files
            .filter_map(|file| files.get(file))
            .find_map(|text| {
                let mut values = text.lines().filter_map(assigned);
                values.next_back()
            });
        let words = self.lines("Environment").flat_map(str::split_whitespace);
        option
            .or(in_files)
            .or_else(|| words.filter_map(assigned).last())
    }

    /// How long it may take to stop; `None`: for ever, or systemd doesn't tell.
    fn stop_timeout(&self) -> Option<Duration> {
        humantime::parse_duration(self.one("TimeoutStopUSec")).ok()
    }
}

/// The value that a line gives SIDEKICK_DRAIN.
fn assigned(line: &str) -> Option<&str> {
    let line = line.trim().trim_matches('"');
    let value = line.strip_prefix("SIDEKICK_DRAIN=")?;
    Some(value.trim_matches(['"', '\'']))
}

/// What `doctor` was asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct UnitsAsked<'a> {
    /// `announce` is asked for: which container, where it is one, and its `--drain`.
    pub(super) announce: Option<(Option<&'a str>, Duration)>,
    /// `agent` is asked for.
    pub(super) agent: bool,
}

/// What is to be said of the units.
pub(super) fn judge(units: &Units, asked: UnitsAsked<'_>) -> Vec<Finding> {
    let systemd = Subject::new("systemd");
    let (shown, files) = match units {
        Units::NoSystemd => {
            return vec![systemd.ok("units", "systemd does not run here; no unit is looked at")];
        }
        Units::Unreadable(why) => {
            let advice = "run it as a user who may ask systemd (systemctl show)";
            return vec![systemd.warn("units", format!("systemctl show: {why}"), advice)];
        }
        Units::Shown(shown, files) => (shown, files),
    };
    let mut findings = Vec::new();
    if let Some((container, drain)) = asked.announce {
        let all = shown
            .iter()
            .filter_map(|unit| Some((unit, unit.arguments("announce")?)));
        let all: Vec<_> = all.collect();
        let is_of_it = |words: &[&str]| container.is_some_and(|name| words.contains(&name));
        let any_is = all.iter().any(|(_, words)| is_of_it(words));
        for (unit, words) in all.iter().filter(|(_, words)| !any_is || is_of_it(words)) {
            findings.extend(judge_announce(unit, words, shown, files, drain));
        }
        if all.is_empty() {
            findings.push(no_unit(
                &systemd,
                "announce",
                "systemd/redis-discovery@.service",
            ));
        }
    }
    if asked.agent {
        let all = shown
            .iter()
            .filter(|unit| unit.arguments("agent").is_some());
        let all: Vec<_> = all.collect();
        for unit in &all {
            let subject = Subject::new(format!("unit {}", unit.id()));
            findings.extend(reload_needed(&subject, unit));
            findings.push(stop_timeout(&subject, unit, Duration::ZERO));
        }
        if all.is_empty() {
            findings.push(no_unit(&systemd, "agent", "systemd/sidekick-agent.service"));
        }
    }
    findings
}

fn no_unit(systemd: &Subject, job: &str, file: &str) -> Finding {
    systemd.warn(
        "units",
        format!("no unit that systemd has loaded runs sidekick {job}"),
        format!(
            "start one ({file} is an example), unless something else keeps sidekick {job} running"
        ),
    )
}

fn reload_needed(subject: &Subject, unit: &Unit) -> Option<Finding> {
    let text = "its file has changed since systemd read it";
    (unit.one("NeedDaemonReload") == "yes")
        .then(|| subject.warn("file", text, "systemctl daemon-reload"))
}

fn judge_announce(
    unit: &Unit,
    words: &[&str],
    all: &[Unit],
    files: &BTreeMap<String, String>,
    asked: Duration,
) -> Vec<Finding> {
    let subject = Subject::new(format!("unit {}", unit.id()));
    let mut findings: Vec<_> = reload_needed(&subject, unit).into_iter().collect();
    match words.contains(&"--all") {
        true => findings.push(after_the_engine(&subject, unit)),
        false => findings.extend(bound(&subject, unit, all)),
    }
    let drain = unit.drain(words, files);
    match drain.map(|text| duration("--drain", text)).transpose() {
        Ok(drain) => {
            let drain = drain.unwrap_or_default().max(asked);
            findings.push(stop_timeout(&subject, unit, drain));
        }
        Err(why) => findings.push(subject.fail("drain", why.to_string(), "write 10s, for example")),
    }
    findings
}

fn after_the_engine(subject: &Subject, unit: &Unit) -> Finding {
    const ENGINES: [&str; 4] = [
        "docker.service",
        "docker.socket",
        "podman.service",
        "podman.socket",
    ];
    let after = unit.names("After");
    match ENGINES.iter().find(|engine| after.contains(*engine)) {
        Some(engine) => subject.ok("After", *engine),
        None => subject.warn(
            "After",
            "is not ordered after the engine's unit: on a shutdown the containers may get their signal first",
            "After=docker.service",
        ),
    }
}

fn bound(subject: &Subject, unit: &Unit, all: &[Unit]) -> Vec<Finding> {
    let (bound, after) = (unit.names("BindsTo"), unit.names("After"));
    let Some(main) = bound.iter().find(|name| name.ends_with(".service")) else {
        return vec![subject.warn(
            "BindsTo",
            "is bound to no service: it goes on when the container's unit is stopped, and nothing drains before that",
            "BindsTo= and After= the unit that runs the container, as in systemd/redis-discovery@.service",
        )];
    };
    let mut findings = Vec::new();
    let other = all.iter().find(|it| it.id() == *main);
    if other.is_some_and(|it| it.one("LoadState") == "not-found") {
        let text = format!("is bound to {main}, and there is no such unit");
        findings.push(subject.fail("BindsTo", text, "correct the name in BindsTo= and After="));
    } else {
        findings.push(subject.ok("BindsTo", *main));
    }
    findings.push(match after.contains(main) {
        true => subject.ok("After", *main),
        false => subject.fail(
            "After",
            format!("is bound to {main} and not ordered after it: both stop at once, and the key goes too late"),
            format!("After={main}"),
        ),
    });
    let pulls = ["WantedBy", "RequiredBy", "UpheldBy"];
    let mut pulled = pulls.iter().flat_map(|property| unit.names(property));
    if !pulled.any(|by| by == *main) {
        let id = unit.id();
        findings.push(subject.warn(
            "Wants",
            format!("{main} does not want it: when {main} starts again, nothing starts this unit"),
            format!("Wants={id} in {main}"),
        ));
    }
    findings
}

fn stop_timeout(subject: &Subject, unit: &Unit, drain: Duration) -> Finding {
    const CHECK: &str = "TimeoutStopSec";
    let needed = drain + STOPS_WITHIN;
    let seconds = |time: Duration| format!("{} s", time.as_secs_f64());
    let Some(timeout) = unit.stop_timeout() else {
        return subject.ok(CHECK, unit.one("TimeoutStopUSec"));
    };
    let text = match drain.is_zero() {
        true => seconds(timeout),
        false => format!("{}, with a drain of {}", seconds(timeout), seconds(drain)),
    };
    match timeout >= needed {
        true => subject.ok(CHECK, text),
        false => subject.fail(
            CHECK,
            format!("{text}: systemd kills it before it is done, and its key stays for the rest of the TTL"),
            format!("TimeoutStopSec={} or more", needed.as_secs_f64().ceil()),
        ),
    }
}

#[cfg(test)]
mod tests;
