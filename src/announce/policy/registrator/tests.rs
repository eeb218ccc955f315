//! The cases of registrator's documentation and source, in our own words, and the results for hostile metadata.

use super::*;
use crate::announce::policy::labels::services;
use proptest::prelude::*;

fn ports(ports: &[&str]) -> BTreeSet<ContainerPort> {
    ports.iter().map(|port| port.parse().unwrap()).collect()
}

fn translated(
    published: &[&str],
    labels: &[(&str, &str)],
    environment: &[&str],
) -> Result<BTreeMap<String, String>, MetadataRefusal> {
    let labels = labels.iter().copied();
    as_labels(labels, environment.iter().copied(), &ports(published))
}

/// What is announced, a line for each port: `web 80/tcp`, `web/ID 80/tcp tags=a,b`; or why nothing is.
fn outcome(published: &[&str], labels: &[(&str, &str)], environment: &[&str]) -> Vec<String> {
    let translated = match translated(published, labels, environment) {
        Ok(translated) if translated.is_empty() => return vec!["asks for nothing".to_owned()],
        Ok(translated) => translated,
        Err(MetadataRefusal::Ignored) => return vec!["ignored".to_owned()],
        Err(MetadataRefusal::Refused { metadata, problem }) => {
            return vec![format!("{metadata} {problem}")];
        }
    };
    let lines = services(&translated).unwrap().into_iter().map(|service| {
        let port = service.wanted.port.unwrap();
        let instance = service.instance.map(|instance| format!("/{instance}"));
        let suffix = service.suffix.unwrap_or_default();
        let check = service.checks.settings().into_iter().map(|check| {
            let [interval, timeout] =
                [check.interval, check.timeout].map(humantime::format_duration);
            format!(" {} every {interval} within {timeout}", check.kind)
        });
        let check: String = check.collect();
        let meta = service.wanted.meta.iter();
        let meta: String = meta.map(|(key, text)| format!(" {key}={text}")).collect();
        let instance = instance.unwrap_or_default();
        format!("{}{instance}{suffix} {port}{meta}{check}", service.name)
    });
    lines.collect()
}

/// What is published, the environment, and what is announced.
type Example = (
    &'static [&'static str],
    &'static [&'static str],
    &'static [&'static str],
);

const EXAMPLES: &[Example] = &[
    (&["6379"], &["SERVICE_NAME=db"], &["db 6379/tcp"]),
    (
        &["6379"],
        &[
            "SERVICE_NAME=db",
            "SERVICE_TAGS=master,backups",
            "SERVICE_REGION=us2",
        ],
        &["db 6379/tcp tags=master,backups"],
    ),
    (&["6379"], &[], &["asks for nothing"]),
    (&["443", "80"], &["SERVICE_TAGS=www"], &["asks for nothing"]),
    (
        &["443", "80"],
        &[
            "SERVICE_443_NAME=https",
            "SERVICE_443_ID=https.12345",
            "SERVICE_443_SNI=enabled",
            "SERVICE_80_NAME=http",
            "SERVICE_TAGS=www",
        ],
        &["http 80/tcp tags=www", "https/https.12345 443/tcp tags=www"],
    ),
    // A name for all ports gets the port at its end.
    (
        &["80", "443"],
        &["SERVICE_NAME=web"],
        &["web-80 80/tcp", "web-443 443/tcp"],
    ),
    (
        &["80", "443"],
        &["SERVICE_NAME=web", "SERVICE_443_NAME=tls"],
        &["web-80 80/tcp", "tls 443/tcp"],
    ),
    // The container is ignored, or one port of it; any value does.
    (
        &["80"],
        &["SERVICE_NAME=web", "SERVICE_IGNORE=true"],
        &["ignored"],
    ),
    (
        &["80"],
        &["SERVICE_NAME=web", "SERVICE_IGNORE=false"],
        &["ignored"],
    ),
    (
        &["80"],
        &["SERVICE_NAME=web", "SERVICE_IGNORE="],
        &["web 80/tcp"],
    ),
    (
        &["80", "443"],
        &["SERVICE_NAME=web", "SERVICE_443_IGNORE=true"],
        &["web-80 80/tcp"],
    ),
    (
        &["80"],
        &["SERVICE_NAME=web", "SERVICE_80_IGNORE=1"],
        &["ignored"],
    ),
    (&[], &["SERVICE_NAME=web", "SERVICE_IGNORE=1"], &["ignored"]),
    (
        &["6379"],
        &["SERVICE_NAME=redis", "SERVICE_ID=redis-1"],
        &["redis/redis-1 6379/tcp"],
    ),
    // As with -explicit, a port without a name isn't announced.
    (&["80", "443"], &["SERVICE_80_NAME=web"], &["web 80/tcp"]),
    (
        &["53", "53/udp"],
        &["SERVICE_53_NAME=dns"],
        &["dns:53 53/tcp", "dns:53.udp 53/udp"],
    ),
];

#[test]
fn the_examples_of_its_documentation() {
    for (published, environment, expected) in EXAMPLES {
        assert_eq!(
            outcome(published, &[], environment),
            *expected,
            "{environment:?}"
        );
        // Labels say the same.
        let labels: Vec<_> = environment
            .iter()
            .filter_map(|it| it.split_once('='))
            .collect();
        assert_eq!(outcome(published, &labels, &[]), *expected, "{labels:?}");
    }
}

#[test]
fn the_port_counts_before_the_general_and_the_label_before_the_environment() {
    let name = |labels: &[(&str, &str)], environment: &[&str]| {
        let lines = outcome(&["80"], labels, environment);
        lines[0]
            .strip_suffix(" 80/tcp")
            .unwrap_or(&lines[0])
            .to_owned()
    };
    let (general, port) = ("SERVICE_NAME", "SERVICE_80_NAME");
    let all = ["SERVICE_NAME=env", "SERVICE_80_NAME=env80"];
    assert_eq!(
        name(&[(general, "label"), (port, "label80")], &all),
        "label80"
    );
    assert_eq!(name(&[(general, "label")], &all), "env80");
    assert_eq!(name(&[(general, "label")], &all[..1]), "label");
    assert_eq!(name(&[], &all), "env80");
    assert_eq!(name(&[], &all[..1]), "env");
    assert_eq!(
        name(&[], &["SERVICE_NAME=a", "SERVICE_NAME=b"]),
        "b",
        "the later one"
    );
    // An empty one hides what is behind it.
    assert_eq!(
        name(
            &[("SERVICE_IGNORE", "")],
            &["SERVICE_NAME=env", "SERVICE_IGNORE=1"]
        ),
        "env"
    );
    let unnamed = outcome(&["80"], &[(port, "")], &all);
    let why = "variable SERVICE_NAME names none of the published ports: 80/tcp";
    assert_eq!(unnamed, [why]);
    // Whatever comes after the prefix is read in either case; the prefix is not.
    assert_eq!(name(&[("SERVICE_80_name", "lower")], &[]), "lower");
    assert_eq!(
        name(&[("service_80_name", "lower")], &[]),
        "asks for nothing"
    );
}

#[test]
fn what_can_not_be_done_is_refused_with_a_reason() {
    let told = |label: (&str, &str)| {
        let labels = [("SERVICE_NAME", "web"), label];
        outcome(&["80"], &labels, &[]).join("; ")
    };
    let big = "x,".repeat(MAX_META);
    for (label, value, reason) in [
        ("SERVICE_TAGS", r"a\,b,c", "has a tag with a comma in it"),
        (
            "SERVICE_TAGS",
            big.as_str(),
            "holds 16384 bytes, more than 8192",
        ),
        ("SERVICE_80_ID", "a/b", r#""a/b" "#),
        ("SERVICE_80_NAME", "a b", r#""a b" "#),
        ("SERVICE_80_NAME", "..\n", r#""..\n" "#),
    ] {
        let told = told((label, value));
        assert!(
            told.starts_with(&format!("label {label} {reason}")),
            "{told}"
        );
    }
    let names = ["SERVICE_NAME=dns", "SERVICE_ID=one"];
    assert_eq!(
        outcome(&["53", "53/udp"], &[], &[names[0], names[1]]).join("; "),
        r#"variable SERVICE_ID is the ID of two ports of the service "dns-53""#
    );
    assert_eq!(
        outcome(&[], &[], &names).join("; "),
        "variable SERVICE_NAME names a service, and the container publishes no port"
    );
    assert_eq!(
        outcome(&["80"], &[], &["SERVICE_8080_NAME=x"]).join("; "),
        "variable SERVICE_8080_NAME names none of the published ports: 80/tcp"
    );
}

type Fields = &'static [(&'static str, &'static str)];

const HTTP: (&str, &str) = ("80_CHECK_HTTP", "/health/endpoint/path");
const TCP: (&str, &str) = ("CHECK_TCP", "true");
const SCRIPT: (&str, &str) = ("CHECK_SCRIPT", "curl localhost");

const CHECKED: &[(Fields, &str)] = &[
    (
        &[
            HTTP,
            ("80_CHECK_INTERVAL", "15s"),
            ("80_CHECK_TIMEOUT", "1s"),
        ],
        "http:/health/endpoint/path every 15s within 1s",
    ),
    (&[HTTP], "http:/health/endpoint/path every 10s within 10s"),
    (
        &[TCP, ("CHECK_INTERVAL", "1m30s")],
        "tcp every 1m 30s within 10s",
    ),
    (&[("CHECK_TCP", "false")], "tcp every 10s within 10s"),
    // The first of its kinds counts, whatever else is there.
    (
        &[TCP, HTTP, SCRIPT],
        "http:/health/endpoint/path every 10s within 10s",
    ),
    (
        &[("80_CHECK_HTTP", ""), ("CHECK_HTTP", "/"), TCP],
        "tcp every 10s within 10s",
    ),
    (
        &[HTTP, ("CHECK_HTTP_METHOD", "get")],
        "http:/health/endpoint/path every 10s within 10s",
    ),
    (
        &[
            TCP,
            ("CHECK_INITIAL_STATUS", "critical"),
            ("CHECK_DEREGISTER_AFTER", "5m"),
        ],
        "tcp every 10s within 10s",
    ),
    (&[("CHECK_INTERVAL", "nonsense")], "web 80/tcp"),
];

/// The label that is refused, and the first words of why.
const REFUSED: &[(Fields, &str, &str)] = &[
    (
        &[SCRIPT, TCP],
        "CHECK_SCRIPT",
        "asks for a check that sidekick doesn't make; ",
    ),
    (
        &[("CHECK_CMD", "/check"), TCP],
        "CHECK_CMD",
        "asks for a check that ",
    ),
    (
        &[("CHECK_TTL", "30s"), TCP],
        "CHECK_TTL",
        "asks for a check that ",
    ),
    (
        &[("CHECK_HTTPS", "/health"), TCP],
        "CHECK_HTTPS",
        "asks for a check that ",
    ),
    (
        &[("80_CHECK_GRPC", "true")],
        "80_CHECK_GRPC",
        "asks for a check that ",
    ),
    (
        &[("CHECK_HTTP", "health")],
        "CHECK_HTTP",
        "\"health\" is no check: write ",
    ),
    (
        &[("CHECK_HTTP", "/ HTTP/1.1\r\nX: y")],
        "CHECK_HTTP",
        "\"/ HTTP/1.1\\r\\nX: y\" is ",
    ),
    (
        &[HTTP, ("CHECK_HTTP_METHOD", "HEAD")],
        "CHECK_HTTP_METHOD",
        "is \"HEAD\", and a check ",
    ),
    (
        &[TCP, ("CHECK_INTERVAL", "1x")],
        "CHECK_INTERVAL",
        "\"1x\" is no duration like ",
    ),
    (
        &[TCP, ("CHECK_TIMEOUT", "2h")],
        "CHECK_TIMEOUT",
        "\"2h\" is no duration like ",
    ),
    (
        &[TCP, ("CHECK_INITIAL_STATUS", "passing")],
        "CHECK_INITIAL_STATUS",
        "is \"passing\", and sidekick announces nothing before its check has passed; ",
    ),
];

#[test]
fn checks_are_those_that_consul_would_make_or_refused() {
    let checked = |fields: &[(&str, &str)]| {
        let named = fields
            .iter()
            .map(|(field, text)| (format!("SERVICE_{field}"), *text));
        let labels: Vec<_> = named.collect();
        let mut labels: Vec<_> = labels.iter().map(|(k, v)| (k.as_str(), *v)).collect();
        labels.push(("SERVICE_NAME", "web"));
        let told = outcome(&["80"], &labels, &[]).join("; ");
        told.strip_prefix("web 80/tcp ").unwrap_or(&told).to_owned()
    };
    for (fields, expected) in CHECKED {
        assert_eq!(checked(fields), *expected, "{fields:?}");
    }
    for (fields, wrong, why) in REFUSED {
        let told = checked(fields);
        assert!(
            told.starts_with(&format!("label SERVICE_{wrong} {why}")),
            "{told}"
        );
    }
}

#[test]
fn numbers_that_are_no_ports_as_registrator_writes_them_count_for_none() {
    for number in [
        "99999",
        "0",
        "080",
        "+80",
        "-1",
        "65536",
        "18446744073709551696",
        "٨٠",
    ] {
        let labels = [
            (&*format!("SERVICE_{number}_NAME"), "x"),
            ("SERVICE_NAME", "web"),
        ];
        assert_eq!(outcome(&["80"], &labels, &[]), ["web 80/tcp"], "{number}");
        assert_eq!(
            outcome(&["80"], &labels[..1], &[]),
            ["asks for nothing"],
            "{number}"
        );
    }
}

#[test]
fn nothing_else_of_the_environment_is_kept() {
    let environment = [
        "SERVICE_NAME=web",
        "SERVICE_PASSWORD=secret",
        "SERVICE_80_TOKEN=secret",
        "SERVICE_=secret",
        "DATABASE_URL=secret",
        "secret",
        "=secret",
        "",
    ];
    let labels = translated(&["80"], &[("SERVICE_REGION", "secret")], &environment).unwrap();
    assert!(!format!("{labels:?}").contains("secret"), "{labels:?}");
    let refused = [environment.as_slice(), &["SERVICE_NAME=a/b"]].concat();
    let refusal = translated(&["80"], &[], &refused).unwrap_err();
    assert!(!format!("{refusal:?}").contains("secret"), "{refusal:?}");
}

proptest! {
    /// Whatever the metadata is, what is translated makes services, and what isn't is told in one short line.
    #[test]
    fn what_is_translated_is_valid(
        labels in proptest::collection::vec(("SERVICE_(80_|53_|099_)?(NAME|ID|TAGS|IGNORE|CHECK_\\PC{0,9}|\\PC{0,9})|\\PC{0,20}", "[a-z/, \\n]{0,12}|\\PC{0,300}"), 0..8),
        environment in proptest::collection::vec("SERVICE_(80_|53_)?(NAME|ID|TAGS|IGNORE)=[a-z.,\\\\]{0,12}|\\PC{0,40}", 0..8),
        published in proptest::sample::subsequence(vec!["80", "53", "53/udp", "443"], 0..4),
    ) {
        let labels: Vec<_> = labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let environment: Vec<_> = environment.iter().map(String::as_str).collect();
        match translated(&published, &labels, &environment) {
            Ok(translated) if translated.is_empty() => {}
            Ok(translated) => {
                let made = services(&translated).expect("what is translated is valid");
                prop_assert!(!made.is_empty() && made.len() <= published.len());
            }
            Err(MetadataRefusal::Ignored) => {}
            Err(MetadataRefusal::Refused { metadata, problem }) => {
                let told = format!("{metadata} {problem}");
                prop_assert!(!told.contains(char::is_control) && told.len() < 1_500, "{}", told);
            }
        }
    }
}
