//! What registrator's labels and environment variables ask for, in sidekick's own labels. Pure.
//!
//! The rules are registrator's, at commit 6bfadbc: docs/user/services.md; `serviceMetaData` in bridge/util.go (which
//! variable counts: that of the port before the general one, then the label before the environment);
//! `add` and `newService` in bridge/bridge.go (names, SERVICE_IGNORE); `buildCheck` in consul/consul.go (which of
//! several checks counts). As with its option -explicit, only what has a name is announced.
//!
//! Of the environment only the variables that are understood here are read, and nothing of it is kept.

use super::check_settings::{CheckKind, CheckTime};
use super::container::ContainerPort;
use super::labels::{MAX_META, PREFIX};
use super::refusal::MetadataRefusal;
use crate::endpoint::check_part;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What the names of all of registrator's labels and variables begin with.
const SERVICE: &str = "SERVICE_";

/// The field that asks for a container to be announced.
const NAME: &str = "name";

/// How much of a wrong value is told, in characters.
const MAX_TOLD: usize = 64;

/// Consul's kinds of checks, the one first that counts where there are several.
const CHECKS: [&str; 7] = [
    "check_http",
    "check_https",
    "check_cmd",
    "check_script",
    "check_ttl",
    "check_tcp",
    "check_grpc",
];

/// The other fields that are understood.
const FIELDS: [&str; 8] = [
    NAME,
    "ignore",
    "tags",
    "id",
    "check_interval",
    "check_timeout",
    "check_http_method",
    "check_initial_status",
];

/// Consul's interval and timeout of a check that says none.
const CONSULS_TIME: &str = "10s";

/// A label, or a variable of the environment.
#[derive(Debug, Clone, Copy)]
struct Variable<'a> {
    is_label: bool,
    name: &'a str,
    text: &'a str,
}

/// The variables that are understood, by their fields in lower case: `name`, `check_http`.
#[derive(Debug, Default)]
struct Metadata<'a> {
    general: BTreeMap<String, Variable<'a>>,
    of_ports: BTreeMap<(u16, String), Variable<'a>>,
}

/// The labels of sidekick that say the same; none where the container asks registrator for no name.
///
/// `environment` holds `NAME=VALUE` each; `ports` are those that the container is to publish, whether it runs or not.
///
/// # Errors
/// The container is to be ignored, or asks for what can't be done.
pub fn as_labels<'a>(
    labels: impl Iterator<Item = (&'a str, &'a str)>,
    environment: impl Iterator<Item = &'a str>,
    ports: &BTreeSet<ContainerPort>,
) -> Result<BTreeMap<String, String>, MetadataRefusal> {
    let metadata = Metadata::read(labels, environment);
    let Some(asks) = metadata.asks() else {
        return Ok(BTreeMap::new());
    };
    let is_ignored = |port: &&ContainerPort| metadata.of(port.number.get(), "ignore").is_some();
    let ignores_all = match ports.is_empty() {
        true => metadata.general.get("ignore").is_some_and(is_set),
        false => ports.iter().all(|port| is_ignored(&port)),
    };
    if ignores_all {
        return Err(MetadataRefusal::Ignored);
    }
    let (mut translated, mut keys) = (BTreeMap::new(), BTreeSet::new());
    for port in ports.iter().filter(|port| !is_ignored(port)) {
        let service = metadata.service(*port, ports.len() > 1, &mut keys)?;
        translated.extend(service);
    }
    if translated.is_empty() {
        let ports: Vec<_> = ports.iter().map(ContainerPort::to_string).collect();
        let why = match ports.is_empty() {
            true => "names a service, and the container publishes no port".to_owned(),
            false => format!("names none of the published ports: {}", ports.join(", ")),
        };
        return Err(asks.refused(why));
    }
    Ok(translated)
}

impl<'a> Metadata<'a> {
    fn read(
        labels: impl Iterator<Item = (&'a str, &'a str)>,
        environment: impl Iterator<Item = &'a str>,
    ) -> Self {
        let mut metadata = Self::default();
        let environment = environment.filter_map(|variable| variable.split_once('='));
        let environment = environment.map(|(name, text)| (false, name, text));
        // A label comes later, and takes the place of the variable.
        for (is_label, name, text) in environment.chain(labels.map(|(n, t)| (true, n, t))) {
            let variable = Variable {
                is_label,
                name,
                text,
            };
            match field(name) {
                Some((None, field)) => drop(metadata.general.insert(field, variable)),
                Some((Some(port), field)) => {
                    metadata.of_ports.insert((port, field), variable);
                }
                None => {}
            }
        }
        metadata
    }

    /// A variable that asks for an announcement by giving a name.
    fn asks(&self) -> Option<Variable<'a>> {
        let of_ports = self.of_ports.iter();
        let names = of_ports.filter(|((_, field), _)| field == NAME);
        let mut names = self
            .general
            .get(NAME)
            .into_iter()
            .chain(names.map(|it| it.1));
        names.find(|variable| is_set(variable)).copied()
    }

    /// The variable that counts for a port. An empty one counts as none, and hides the one behind it all the same.
    fn of(&self, port: u16, field: &str) -> Option<Variable<'a>> {
        let of_port = self.of_ports.get(&(port, field.to_owned()));
        let variable = of_port.or_else(|| self.general.get(field));
        variable.copied().filter(is_set)
    }

    /// The labels for one port; none where it has no name. `keys` are those that other ports have.
    fn service(
        &self,
        port: ContainerPort,
        one_of_several: bool,
        keys: &mut BTreeSet<(String, String)>,
    ) -> Result<BTreeMap<String, String>, MetadataRefusal> {
        let number = port.number.get();
        let mut labels = BTreeMap::new();
        let Some(name) = self.of(number, NAME) else {
            return Ok(labels);
        };
        let of_port = self.of_ports.contains_key(&(number, NAME.to_owned()));
        let service = match one_of_several && !of_port {
            true => format!("{}-{number}", name.text),
            false => name.text.to_owned(),
        };
        check_part(&service).map_err(|why| name.refused(format!("{} {why}", Told(&service))))?;
        let mut say =
            |label: &str, text: String| labels.insert(format!("{PREFIX}{port}.{label}"), text);
        if let Some(id) = self.of(number, "id") {
            let text = id.text.to_owned();
            check_part(&text).map_err(|why| id.refused(format!("{} {why}", Told(&text))))?;
            if !keys.insert((service.clone(), text.clone())) {
                let of = Told(&service);
                return Err(id.refused(format!("is the ID of two ports of the service {of}")));
            }
            say("instance", text);
        }
        if let Some(tags) = self.of(number, "tags")
            && let Some(tags) = tags_of(tags)?
        {
            say("meta.tags", tags);
        }
        for (label, text) in self.check(number)? {
            say(label, text);
        }
        say("service", service);
        Ok(labels)
    }

    /// The labels of the port's check, as Consul would make it.
    fn check(&self, port: u16) -> Result<Vec<(&'static str, String)>, MetadataRefusal> {
        let mut checks = CHECKS
            .iter()
            .filter_map(|kind| Some((*kind, self.of(port, kind)?)));
        let Some((kind, check)) = checks.next() else {
            return Ok(Vec::new());
        };
        let asked = match kind {
            "check_http" => format!("http:{}", check.text),
            "check_tcp" => "tcp".to_owned(),
            _ => {
                let why = "asks for a check that sidekick doesn't make; give the container a HEALTHCHECK instead";
                return Err(check.refused(why.to_owned()));
            }
        };
        let not_that = |why: String| check.refused(format!("{} {why}", Told(check.text)));
        asked.parse::<CheckKind>().map_err(not_that)?;
        let method = self
            .of(port, "check_http_method")
            .filter(|_| kind == "check_http");
        if let Some(method) = method.filter(|it| !it.text.eq_ignore_ascii_case("get")) {
            let told = Told(method.text);
            return Err(method.refused(format!("is {told}, and a check of sidekick is a GET")));
        }
        let initial = self.of(port, "check_initial_status");
        if let Some(initial) = initial.filter(|it| it.text != "critical") {
            let told = Told(initial.text);
            let why = "and sidekick announces nothing before its check has passed; leave it out";
            return Err(initial.refused(format!("is {told}, {why}")));
        }
        let mut labels = vec![("check", asked)];
        for (field, label) in [
            ("check_interval", "check-interval"),
            ("check_timeout", "check-timeout"),
        ] {
            let time = self.of(port, field);
            if let Some(time) = time {
                let told = |why: String| time.refused(format!("{} {why}", Told(time.text)));
                time.text.parse::<CheckTime>().map_err(told)?;
            }
            let text = time.map_or(CONSULS_TIME, |time| time.text);
            labels.push((label, text.to_owned()));
        }
        Ok(labels)
    }
}

impl Variable<'_> {
    fn refused(self, problem: String) -> MetadataRefusal {
        let kind = if self.is_label { "label" } else { "variable" };
        MetadataRefusal::Refused {
            metadata: format!("{kind} {}", self.name),
            problem,
        }
    }
}

fn is_set(variable: &Variable<'_>) -> bool {
    !variable.text.is_empty()
}

/// `SERVICE_80_NAME` → 80 and `name`. `None` for what is not understood, and for numbers that no port has as
/// registrator writes it.
fn field(name: &str) -> Option<(Option<u16>, String)> {
    let name = name.strip_prefix(SERVICE)?.to_ascii_lowercase();
    let (port, field) = match name.split_once('_') {
        Some((number, field)) if number.bytes().all(|b| b.is_ascii_digit()) => {
            let is_port = !number.starts_with('0');
            (Some(number.parse().ok().filter(|_| is_port)?), field)
        }
        _ => (None, name.as_str()),
    };
    let known = FIELDS.contains(&field) || CHECKS.contains(&field);
    known.then(|| (port, field.to_owned()))
}

/// Tags as one text with commas between them; `None` where there are none.
fn tags_of(variable: Variable<'_>) -> Result<Option<String>, MetadataRefusal> {
    let bytes = variable.text.len();
    if bytes > MAX_META {
        return Err(variable.refused(format!("holds {bytes} bytes, more than {MAX_META}")));
    }
    if variable.text.contains("\\,") {
        let why = "has a tag with a comma in it, and the value in etcd has commas between tags";
        return Err(variable.refused(why.to_owned()));
    }
    let tags: Vec<_> = variable
        .text
        .split(',')
        .filter(|tag| !tag.is_empty())
        .collect();
    Ok((!tags.is_empty()).then(|| tags.join(",")))
}

/// A value as far as it is told, in one line.
struct Told<'a>(&'a str);

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told: String = self.0.chars().take(MAX_TOLD).collect();
        let more = if told.len() < self.0.len() { "…" } else { "" };
        write!(f, "{told:?}{more}")
    }
}

#[cfg(test)]
mod tests;
