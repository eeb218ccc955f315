use super::*;
use proptest::prelude::*;

fn endpoint() -> Endpoint {
    Endpoint {
        host: "ip-172-31-24-253".parse().unwrap(),
        port: NonZeroU16::new(6379).unwrap(),
        protocol: Protocol::Tcp,
        container: Some("593ee5d76755".to_owned()),
        since: Since::parse("2026-11-23T05:06:06.123456789Z"),
        status: None,
        meta: BTreeMap::new(),
    }
}

#[test]
fn the_value_is_the_contract_to_the_letter() {
    assert_eq!(
        endpoint().encode(),
        r#"{"host":"ip-172-31-24-253","port":6379,"container":"593ee5d76755","since":"2026-11-23T05:06:06.123456789Z"}"#
    );
}

#[test]
fn a_bare_value_of_the_shell_loop_is_read() {
    let bare = Endpoint::decode(br#" { "host": "10.0.0.7", "port": 6379 } "#).unwrap();
    assert_eq!(bare.to_string(), "10.0.0.7:6379");
    assert_eq!((bare.container, bare.since), (None, None));
}

#[test]
fn unknown_and_misshapen_optional_fields_are_ignored() {
    let value = br#"{"port":1,"host":"a","since":7,"container":["x"],"status":"?","meta":{"k":1,"l":"m"},"new":{}}"#;
    let read = Endpoint::decode(value).unwrap();
    assert_eq!(read.meta, BTreeMap::from([("l".into(), "m".into())]));
    assert_eq!(
        (read.container, read.since, read.status),
        (None, None, None)
    );
}

#[test]
fn values_that_no_client_can_dial_are_refused() {
    for value in [
        "",
        "null",
        "[]",
        "{}",
        r#""x""#,
        r#"{"host":"a"}"#,
        r#"{"host":"a","port":0}"#,
        r#"{"host":"a","port":70000}"#,
        r#"{"host":"a","port":"6379"}"#,
        r#"{"host":"a","port":-1}"#,
        r#"{"host":"a","port":6379.5}"#,
        r#"{"host":7,"port":6379}"#,
        r#"{"host":"","port":6379}"#,
        r#"{"host":"a b","port":6379}"#,
        r#"{"host":"127.0.0.1","port":6379}"#,
        r#"{"host":{"host":"a"},"port":6379}"#,
        r#"{"host":"a\u0000","port":6379}"#,
    ] {
        assert!(Endpoint::decode(value.as_bytes()).is_err(), "{value}");
    }
    assert!(matches!(
        Endpoint::decode(&vec![b' '; MAX_VALUE + 1]),
        Err(ValueError::TooLong(_))
    ));
}

#[test]
fn hosts_that_mean_the_asker_or_no_machine_are_refused() {
    for host in [
        "",
        " ",
        "a b",
        "a\tb",
        "127.0.0.1",
        "127.8.8.8",
        "::1",
        "::ffff:127.0.0.1",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "a.localhost",
        "localhost.localdomain",
        "0.0.0.0",
        "::",
        "0.1.2.3",
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
        "fe80::1",
        "fe80::1%eth0",
        "127.1",
        "1.2.3",
        "999.1.1.1",
        "0x7f000001",
        "a.0x1",
        "-a",
        "a-",
        "a..b",
        ".",
        "a_b",
        "%H",
        "${HOME}",
        "a;b",
        "a|b",
        "a\"b",
        "a\nb",
        "[::1]",
        "http://a",
        "a:1",
        "ä",
    ] {
        assert!(host.parse::<Host>().is_err(), "{host:?}");
    }
    assert!("a".repeat(64).parse::<Host>().is_err());
    assert!(["a"; 130].join(".").parse::<Host>().is_err());
}

#[test]
fn hosts_that_others_can_dial_are_taken() {
    for (host, shown) in [
        ("10.0.0.7", "10.0.0.7"),
        ("2001:db8::7", "2001:db8::7"),
        ("::ffff:10.0.0.7", "10.0.0.7"),
        ("ip-172-31-24-253", "ip-172-31-24-253"),
        ("Redis.Example.org.", "Redis.Example.org"),
        ("3com", "3com"),
        ("1.pool.org", "1.pool.org"),
        ("localhost-7", "localhost-7"),
    ] {
        assert_eq!(host.parse::<Host>().unwrap().to_string(), shown);
    }
}

#[test]
fn an_ipv6_address_is_shown_in_brackets() {
    let mut e = endpoint();
    e.host = "2001:db8::7".parse().unwrap();
    assert_eq!(e.to_string(), "[2001:db8::7]:6379");
}

#[test]
fn keys_follow_the_contract() {
    let key: Key = "/services/redis/redis@1".parse().unwrap();
    assert_eq!((key.service(), key.instance()), ("redis", "redis@1"));
    assert_eq!(key.prefix(), "/services");
    assert_eq!(
        "/a/b/c/d:1.x_y-z".parse::<Key>().unwrap().instance(),
        "d:1.x_y-z"
    );
    use KeyError::{BadCharacter, DotDot, EmptyPart, NotAbsolute, TooFewParts, TooLong};
    let long = format!("/s/r/{}", "x".repeat(MAX_PART + 1));
    for (text, why) in [
        ("", NotAbsolute),
        ("services/redis/1", NotAbsolute),
        ("/", EmptyPart),
        ("//", EmptyPart),
        ("/services//redis@1", EmptyPart),
        ("/services/redis/", EmptyPart),
        ("/redis", TooFewParts),
        ("/redis/1", TooFewParts),
        ("/services/re dis/1", BadCharacter(' ')),
        ("/services/redis/1\n", BadCharacter('\n')),
        ("/services/redis/\u{7}", BadCharacter('\u{7}')),
        ("/services/../redis/1", DotDot),
        ("/services/redis/a..b", DotDot),
        ("/services/./redis", DotDot),
        ("/services/redis/%i", BadCharacter('%')),
        (long.as_str(), TooLong),
    ] {
        assert_eq!(text.parse::<Key>(), Err(why), "{text:?}");
    }
}

#[test]
fn a_since_that_is_no_moment_in_utc_is_none_and_no_panic() {
    let value = br#"{"host":"a","port":1,"since":"9999-12-31T23:59:59-23:59"}"#;
    assert_eq!(Endpoint::decode(value).unwrap().since, None);
    assert_eq!(Since::parse("0000-01-01T00:00:00+23:59"), None);
    assert_eq!(Since::from_unix_nanos(-70_000_000_000_000_000_000), None);
}

#[test]
fn moments_sort_as_time_and_not_as_text() {
    let at = |t| Since::parse(t).unwrap();
    assert!(at("2026-11-23T05:06:06.12Z") < at("2026-11-23T05:06:06.123Z"));
    assert!(at("2026-11-23T05:06:06Z") < at("2026-11-23T05:06:06.000000001Z"));
    assert_eq!(at("2026-11-23T07:06:06+02:00"), at("2026-11-23T05:06:06Z"));
    assert_eq!(
        at("2026-11-23T07:06:06+02:00").to_string(),
        "2026-11-23T05:06:06Z"
    );
    assert_eq!(Since::parse("0001-01-01T00:00:00Z"), None);
    assert_eq!(Since::parse("yesterday"), None);
}

fn hosts() -> impl Strategy<Value = Host> {
    prop_oneof![
        any::<IpAddr>().prop_filter_map("dialable", |ip| ip.to_string().parse().ok()),
        "[a-z]([a-z0-9-]{0,20}[a-z0-9])?(\\.[a-z]{1,9}){0,3}"
            .prop_filter_map("a name", |n| n.parse().ok()),
    ]
}

fn endpoints() -> impl Strategy<Value = Endpoint> {
    (
        hosts(),
        1u16..,
        proptest::option::of("[0-9a-f]{12}"),
        proptest::option::of(-62_000_000_000_000_000_000i128..250_000_000_000_000_000_000i128),
        any::<bool>(),
        proptest::collection::btree_map(any::<String>(), any::<String>(), 0..4),
        prop_oneof![
            Just(Protocol::Tcp),
            Just(Protocol::Udp),
            Just(Protocol::Sctp)
        ],
    )
        .prop_map(
            |(host, port, container, since, draining, meta, protocol)| Endpoint {
                host,
                port: NonZeroU16::new(port).unwrap(),
                protocol,
                container,
                since: since.and_then(Since::from_unix_nanos),
                status: draining.then_some(Status::Draining),
                meta,
            },
        )
}

proptest! {
    #[test]
    fn what_is_encoded_is_read_back(e in endpoints()) {
        prop_assert_eq!(Endpoint::decode(e.encode().as_bytes()), Ok(e));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Endpoint::decode(&bytes);
        let text = String::from_utf8_lossy(&bytes);
        let _ = text.parse::<Key>();
        let _ = text.parse::<Host>();
        let _ = Since::parse(&text);
    }

    #[test]
    fn nothing_that_a_config_file_could_trip_over_is_a_host_or_a_key(text in any::<String>()) {
        let harmless = |s: &str| s.bytes().all(|b| b.is_ascii_alphanumeric() || b"/_.:@-".contains(&b));
        if let Ok(host) = text.parse::<Host>() { prop_assert!(harmless(&host.to_string())); }
        if let Ok(key) = text.parse::<Key>() { prop_assert!(harmless(key.as_str())); }
    }

    #[test]
    fn json_of_any_shape_never_panics(host in any::<String>(), port in any::<i64>(), extra in any::<String>()) {
        let value = serde_json::json!({"host": host, "port": port, "since": extra, "meta": {extra.clone(): extra}});
        if let Ok(e) = Endpoint::decode(value.to_string().as_bytes()) {
            prop_assert_eq!(i64::from(e.port.get()), port);
        }
    }
}
