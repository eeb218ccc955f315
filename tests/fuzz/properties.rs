//! What has to be true of every decoder of what others write: of etcd's keys and values, of labels, of
//! HAProxy's answers and of our own file. What the Docker Engine says is in `src/announce/fuzz.rs`.

use sidekick::agent::haproxy::parse::parse;
use sidekick::agent::haproxy::process_list::ProcessList;
use sidekick::agent::haproxy::render::{DEFAULT_BASE, FixedConfig, render};
use sidekick::agent::haproxy::runtime::diff;
use sidekick::agent::haproxy::server_defaults::ServerDefaults;
use sidekick::agent::haproxy::server_state::{RunningServers, parse_state};
use sidekick::agent::model::backends::Backends;
use sidekick::agent::model::host_addresses::HostAddresses;
use sidekick::agent::model::listeners::{ListenerRules, Model, assign_listeners};
use sidekick::announce::policy::labels::services;
use sidekick::catalog::{Catalog, RawKeyValue};
use sidekick::clock::Moment;
use sidekick::endpoint::control::{AgentRecord, DrainWish, DrainWord};
use sidekick::endpoint::{Endpoint, Key, check_part};
use sidekick::membership::{Membership, Retention};
use std::collections::{BTreeMap, BTreeSet};

/// Signs by which a word could become two, or something else, in a file, on a socket or in a log.
const DANGEROUS: &[char] = &[';', '"', '\'', '\\', '$', '|', '<', '>', '`', '\r', '\0'];

/// A value that is read is written so that it is read the same; those of the control keys too.
pub fn value(input: &[u8]) {
    let wish = DrainWish::decode(input);
    assert!(!wish.to_string().contains(char::is_control));
    assert_eq!(DrainWish::decode(wish.encode().as_bytes()), wish);
    if let Some(record) = AgentRecord::decode(input) {
        let names = record.services.iter();
        assert!(names.map(|name| check_part(name)).all(|it| it.is_ok()));
        let written = record.encode();
        assert_eq!(AgentRecord::decode(written.as_bytes()), Some(record));
    }
    if let Some(word) = DrainWord::decode(input) {
        let written = word.encode();
        assert_eq!(DrainWord::decode(written.as_bytes()), Some(word));
    }
    let Ok(endpoint) = Endpoint::decode(input) else {
        return;
    };
    let written = endpoint.encode();
    assert_eq!(Endpoint::decode(written.as_bytes()), Ok(endpoint.clone()));
    let shown = endpoint.to_string();
    assert!(!shown.contains(DANGEROUS) && !shown.contains(char::is_whitespace));
}

/// A key that is read is harmless.
pub fn key(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let Ok(key) = text.parse::<Key>() else {
        return;
    };
    assert_eq!(key.to_string(), text);
    assert_eq!(check_part(key.service()), Ok(()));
    assert_eq!(check_part(key.instance()), Ok(()));
    assert!(key.as_str().bytes().all(|b| b.is_ascii_graphic()));
    assert!(!key.as_str().contains(DANGEROUS));
}

/// Labels that are read make good keys, each once.
pub fn labels(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let lines = text.lines().filter_map(|line| line.split_once('='));
    let labels = lines.map(|(name, value)| (name.to_owned(), value.to_owned()));
    match services(&labels.collect()) {
        Ok(services) => {
            let mut keys = BTreeSet::new();
            assert!(!services.is_empty());
            for service in services {
                assert_eq!(check_part(&service.name), Ok(()));
                let instance = service.instance.unwrap_or_else(|| "c@h".to_owned());
                let instance = instance + &service.suffix.unwrap_or_default();
                assert!(keys.insert((service.name, instance)), "one key twice");
            }
        }
        // It is told in one line of the log.
        Err(reason) => assert!(!reason.to_string().contains('\n'), "{reason}"),
    }
}

/// Whatever stands in etcd, the file and the commands hold nothing but words of ours.
pub fn etcd(input: &[u8]) {
    let model = model_of(input);
    let text = render(&frame(), &model);
    assert_eq!(parse(&text), Some(model.listeners.clone()));
    assert!(!text.contains(DANGEROUS) && text.is_ascii(), "{text}");
    let usual = [
        "listen",
        "bind",
        "mode",
        "balance",
        "maxconn",
        "tcp-request",
        "server",
        "global",
        "mworker-max-reloads",
        "setenv",
        "stats",
        "#",
    ];
    for line in text
        .replace(DEFAULT_BASE, "")
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
    {
        let first = line.split(' ').next().unwrap();
        assert!(usual.contains(&first), "{line}");
    }
    for line in commands(&model, &RunningServers::new()) {
        assert!(!line.contains(DANGEROUS) && !line.contains('\n'), "{line}");
    }
}

/// A file that is taken for ours is written the same.
pub fn haproxy_cfg(input: &[u8]) {
    if let Some(listeners) = parse(&String::from_utf8_lossy(input)) {
        let model = Model {
            stats: None,
            listeners,
        };
        assert_eq!(parse(&render(&frame(), &model)), Some(model.listeners));
    }
}

/// Whatever HAProxy says of its servers, the commands are lines.
pub fn haproxy_servers(input: &[u8]) {
    let model = model_of(br#"/services/redis/redis@1 {"host":"10.0.0.7","port":6379}"#);
    if let Ok(running) = parse_state(&String::from_utf8_lossy(input)) {
        for line in commands(&model, &running) {
            assert!(!line.contains('\n'), "{line}");
        }
    }
}

/// Whatever the master says of its processes is read, or not.
pub fn haproxy_processes(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    if let Some(processes) = ProcessList::parse(&text) {
        assert!(text.contains(&processes.worker.to_string()) || text.contains('+'));
    }
}

fn commands(model: &Model, running: &RunningServers) -> Vec<String> {
    diff(model.listeners.iter(), running)
        .iter()
        .flat_map(|command| command.lines(&ServerDefaults::default(), false))
        .collect()
}

fn frame() -> FixedConfig {
    FixedConfig {
        base: DEFAULT_BASE.to_owned(),
        ipv6: true,
        idle: "/run/idle".to_owned(),
        listener_maxconn: Some(25_000),
        exporter: false,
    }
}

/// What HAProxy is to be when this stands in etcd: a key and a value a line, with a blank between.
fn model_of(dump: &[u8]) -> Model {
    let mut catalog = Catalog::new("/services".to_owned());
    for line in dump.split(|byte| *byte == b'\n') {
        let blank = line
            .iter()
            .position(|byte| *byte == b' ')
            .unwrap_or(line.len());
        let (key, value) = line.split_at(blank);
        catalog.put(RawKeyValue {
            key,
            value,
            create_revision: 0,
        });
    }
    for junk in catalog.take_quarantined() {
        let told = format!("{} {}", junk.key, junk.reason);
        assert!(!told.contains(['\n', '\0']), "{told:?}");
    }
    let settings = Retention {
        hold: Moment::ZERO,
        forget: Moment::ZERO,
        drain: Moment::ZERO,
    };
    let now = Moment::from_secs(1);
    let mut membership = Membership::new(settings, BTreeMap::new(), now);
    membership.observe(&catalog.services(), now);
    let mut backends = Backends::default();
    backends.update(membership.desired(now), &HostAddresses::default());
    let (services, nothing) = (backends.services(), BTreeMap::new());
    assign_listeners(
        &ListenerRules::default(),
        services,
        &nothing,
        &BTreeMap::new(),
    )
    .0
}
