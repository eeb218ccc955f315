//! The exact keys and values of each layout.

use super::*;

const REDIS: &str = "/services/redis/redis@1";

fn endpoint(value: &str) -> Endpoint {
    Endpoint::decode(value.as_bytes()).unwrap()
}

fn four() -> Endpoint {
    endpoint(r#"{"host":"10.0.0.7","port":6379,"container":"593ee5d76755"}"#)
}

fn six() -> Endpoint {
    endpoint(r#"{"host":"fd00::7","port":6379,"container":"593ee5d76755"}"#)
}

fn layouts(texts: &[&str]) -> Result<Layouts, String> {
    let texts: Vec<_> = texts.iter().map(|&it| it.to_owned()).collect();
    Layouts::parse(&texts, Some("worker1".to_owned()))
}

/// The one further key that a layout makes.
fn made(layout: &str, key: &str, endpoint: &Endpoint) -> Option<Result<(String, String), String>> {
    let layouts = layouts(&[layout]).unwrap();
    let key = key.parse().unwrap();
    let mut made = layouts.further_keys(&key, endpoint).into_iter();
    let first = made.next()?;
    assert!(made.next().is_none());
    Some(first.map(|(key, value)| (key.as_str().to_owned(), value)))
}

fn all_are(rows: &[(&str, &Endpoint, &str, &str)]) {
    for (layout, endpoint, key, value) in rows {
        let expected = Some(Ok(((*key).to_owned(), (*value).to_owned())));
        assert_eq!(made(layout, REDIS, endpoint), expected, "{layout}");
    }
}

#[test]
fn skydns_and_grpc_have_these_keys_and_values() {
    let skydns = "/skydns/local/example/redis/redis-1";
    let four_value = r#"{"host":"10.0.0.7","port":6379,"ttl":5}"#;
    let six_value = r#"{"host":"fd00::7","port":6379,"ttl":5}"#;
    let four_update = r#"{"Op":0,"Addr":"10.0.0.7:6379","Metadata":null}"#;
    let six_update = r#"{"Op":0,"Addr":"[fd00::7]:6379","Metadata":null}"#;
    all_are(&[
        ("skydns:example.local", &four(), skydns, four_value),
        ("skydns:Example.Local.", &six(), skydns, six_value),
        ("grpc:/grpc", &four(), "/grpc/redis/redis@1", four_update),
        ("grpc:svc/", &six(), "svc/redis/redis@1", six_update),
    ]);
}

#[test]
fn traefik_and_registrators_readers_have_these_keys_and_values() {
    let tcp = "traefik/tcp/services/redis/loadBalancer/servers/redis@1/address";
    let http = "traefik/http/services/redis/loadBalancer/servers/redis@1/url";
    let reg = "/reg/redis/worker1:593ee5d76755:6379";
    all_are(&[
        ("traefik-tcp", &four(), tcp, "10.0.0.7:6379"),
        ("traefik-tcp", &six(), tcp, "[fd00::7]:6379"),
        ("traefik-http", &four(), http, "http://10.0.0.7:6379"),
        ("traefik-http", &six(), http, "http://[fd00::7]:6379"),
        ("registrator:/reg", &four(), reg, "10.0.0.7:6379"),
        ("registrator:/reg/", &six(), reg, "[fd00::7]:6379"),
    ]);
}

#[test]
fn a_template_has_variables_and_all_else_is_text() {
    let key = "/x/{service}/{instance}/{container}={host}|{port}|{hostport}";
    let json = r#"/j/{hostport}={"a":{"h":"{host}"},"p":{port}}"#;
    let json_value = r#"{"a":{"h":"10.0.0.7"},"p":6379}"#;
    all_are(&[
        (
            key,
            &six(),
            "/x/redis/redis@1/593ee5d76755",
            "fd00::7|6379|[fd00::7]:6379",
        ),
        (json, &four(), "/j/10.0.0.7:6379", json_value),
        ("x={}{|{A}{service}==", &four(), "x", "{}{|{A}redis=="),
    ]);
}

#[test]
fn what_speaks_udp_is_put_where_readers_can_tell() {
    let dns =
        endpoint(r#"{"host":"10.0.0.7","port":53,"protocol":"udp","container":"593ee5d76755"}"#);
    for layout in ["grpc:/grpc", "traefik-tcp", "traefik-http"] {
        assert_eq!(made(layout, REDIS, &dns), None, "{layout}");
    }
    let registrator = made("registrator:/reg", "/services/dns/a", &dns);
    let key = "/reg/dns/worker1:593ee5d76755:53:udp".to_owned();
    assert_eq!(registrator, Some(Ok((key, "10.0.0.7:53".to_owned()))));
    assert!(made("skydns:a.b", REDIS, &dns).is_some());
}

#[test]
fn what_makes_no_key_is_refused_with_a_reason() {
    let long = format!("/services/redis/{}", "x".repeat(64));
    let bare = endpoint(r#"{"host":"10.0.0.7","port":6379}"#);
    for (layout, key, why) in [
        ("skydns:a.b", long.as_str(), "too long for a label"),
        ("skydns:a.b", "/services/redis/@", "makes no label"),
        ("/x/{container}=y", REDIS, "has no container"),
        ("/x y/{service}=z", REDIS, "can't be a further key"),
        ("/services/other/{instance}=z", REDIS, "below /services"),
    ] {
        let made = made(layout, key, &bare).unwrap();
        assert!(made.as_ref().is_err_and(|it| it.contains(why)), "{made:?}");
    }
}

#[test]
fn what_is_no_layout_is_wrong_usage() {
    for (text, why) in [
        ("skydns", "names no domain"),
        ("skydns:a..b", "names no domain"),
        ("skydns:a_b", "names no domain"),
        ("grpc:", "names no prefix"),
        ("registrator:/", "names no prefix"),
        ("traefik", "is no layout"),
        ("traefik-tcp:x", "is no layout"),
        ("/x/{name}=y", "unknown variable {name}"),
        ("/x={hostport}{ports}", "unknown variable {ports}"),
    ] {
        let said = layouts(&[text]).unwrap_err();
        assert!(said.contains(why), "{said}");
    }
    let many = vec!["traefik-tcp"; MAX_LAYOUTS + 1];
    assert!(layouts(&many).unwrap_err().contains("too many"));
}

#[test]
fn readers_have_the_largest_ttl_to_let_go() {
    let ttl = |texts: &[&str]| layouts(texts).unwrap().longest_ttl().as_secs();
    assert_eq!(ttl(&[]), 0);
    assert_eq!(ttl(&["traefik-tcp", "grpc:/g"]), 1);
    assert_eq!(ttl(&["traefik-tcp", "skydns:a.b"]), 5);
}
