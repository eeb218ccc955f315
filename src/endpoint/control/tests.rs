use super::*;
use proptest::prelude::*;

fn name() -> InstanceName {
    InstanceName::parse("redis/redis@1").unwrap()
}

fn endpoint(since: &str) -> Endpoint {
    let value = format!(r#"{{"host":"10.0.0.7","port":6379,"since":"{since}"}}"#);
    Endpoint::decode(value.as_bytes()).unwrap()
}

const SINCE: &str = "2026-11-23T05:06:06.5Z";

#[test]
fn the_control_keys_are_the_contract_to_the_letter() {
    let control = ControlPrefix::of("/services");
    for (key, text) in [
        (
            ControlKey::Wish(name()),
            "/sidekick/services/drain/redis/redis@1",
        ),
        (
            ControlKey::Agent("worker-1".to_owned()),
            "/sidekick/services/agents/worker-1",
        ),
        (
            ControlKey::Word("worker-1".to_owned(), name()),
            "/sidekick/services/agents/worker-1/redis/redis@1",
        ),
    ] {
        let written = match &key {
            ControlKey::Wish(name) => control.wish(name),
            ControlKey::Agent(id) => control.agent(id),
            ControlKey::Word(id, name) => control.word(id, name),
        };
        assert_eq!(written, text);
        assert_eq!(control.parse(text.as_bytes()), Some(key));
    }
    assert_eq!(control.wishes(), "/sidekick/services/drain");
    assert_eq!(control.agents(), "/sidekick/services/agents");
    let own = ControlPrefix::new("/ops/sidekick");
    assert_eq!(own.wish(&name()), "/ops/sidekick/drain/redis/redis@1");
}

#[test]
fn what_is_no_control_key_is_none() {
    let control = ControlPrefix::of("/services");
    for text in [
        "",
        "/services/redis/redis@1",
        "/sidekick/services",
        "/sidekick/services/",
        "/sidekick/services/drain",
        "/sidekick/services/drain/redis",
        "/sidekick/services/drain/redis/redis@1/x",
        "/sidekick/services/drain/redis/",
        "/sidekick/services/drain/re dis/1",
        "/sidekick/services/agents",
        "/sidekick/services/agents/",
        "/sidekick/services/agents/a/redis",
        "/sidekick/services/agents/a/redis/..",
        "/sidekick/services/agents/a/redis/1/2",
        "/sidekick/servicesdrain/redis/1",
        "/sidekick/services/other/redis/1",
        "/sidekick/service/drain/redis/1",
    ] {
        assert_eq!(control.parse(text.as_bytes()), None, "{text:?}");
    }
    assert_eq!(control.parse(b"/sidekick/services/drain/redis/\xff"), None);
    for text in ["", "redis", "redis/", "/redis@1", "a/b/c", "a b/c"] {
        assert_eq!(InstanceName::parse(text), None, "{text:?}");
    }
}

#[test]
fn whatever_stands_at_a_wish_is_a_wish() {
    let wish = DrainWish::new(Some(" new\u{1b}[31m\ndisk "), Since::parse(SINCE));
    let text = format!(r#"{{"reason":"new[31mdisk","since":"{SINCE}"}}"#);
    assert_eq!(wish.encode(), text);
    assert_eq!(DrainWish::decode(text.as_bytes()), wish);
    assert_eq!(wish.to_string(), " (new[31mdisk)");
    assert_eq!(DrainWish::new(Some(" \n"), None).encode(), "{}");
    for value in [
        "",
        "{}",
        "yes",
        "[]",
        r#"{"reason":7,"since":"x"}"#,
        "\u{7}",
    ] {
        let read = DrainWish::decode(value.as_bytes());
        assert_eq!(
            (read.to_string(), read),
            (String::new(), DrainWish::default())
        );
    }
    let long = DrainWish::new(Some(&"ä".repeat(MAX_REASON + 1)), None);
    assert_eq!(long.reason.unwrap().chars().count(), MAX_REASON);
}

#[test]
fn an_agents_record_lists_its_services() {
    let value = r#"{"services":["redis","web"]}"#;
    let record = AgentRecord::decode(value.as_bytes()).unwrap();
    assert_eq!(record.encode(), value);
    assert_eq!(record.services.len(), 2);
    let junk = br#"{"services":["a b",7,"..","redis"],"new":1}"#;
    let read = AgentRecord::decode(junk).unwrap();
    assert_eq!(read.services, BTreeSet::from(["redis".to_owned()]));
    for value in ["", "{}", "[]", r#"{"services":"redis"}"#] {
        assert_eq!(AgentRecord::decode(value.as_bytes()), None, "{value}");
    }
    let empty = AgentRecord::default();
    assert_eq!(AgentRecord::decode(empty.encode().as_bytes()), Some(empty));
}

#[test]
fn a_word_is_about_one_address_and_one_life() {
    let drained = endpoint(SINCE).draining();
    let word = DrainWord::about(&drained, false);
    let text = format!(r#"{{"host":"10.0.0.7","port":6379,"since":"{SINCE}"}}"#);
    assert_eq!(word.encode(), text);
    assert_eq!(DrainWord::decode(text.as_bytes()), Some(word.clone()));
    assert!(word.is_about(&drained) && word.is_about(&endpoint(SINCE)));
    assert!(!word.is_about(&endpoint("2026-11-23T05:06:06.51Z")));
    let mut moved = endpoint(SINCE);
    moved.port = NonZeroU16::MIN;
    assert!(!word.is_about(&moved));
    moved.host = "10.0.0.8".parse().unwrap();
    assert!(!word.is_about(&moved));
    let any = DrainWord {
        since: None,
        alone: true,
        ..word
    };
    let text = r#"{"host":"10.0.0.7","port":6379,"alone":true}"#;
    assert_eq!(any.encode(), text);
    assert_eq!(DrainWord::decode(text.as_bytes()), Some(any.clone()));
    assert!(any.is_about(&endpoint(SINCE)));
    for value in ["", "{}", "true", r#"{"host":"127.0.0.1","port":1}"#] {
        assert_eq!(DrainWord::decode(value.as_bytes()), None, "{value}");
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = ControlPrefix::of("/services").parse(&bytes);
        let _ = (AgentRecord::decode(&bytes), DrainWord::decode(&bytes));
        let wish = DrainWish::decode(&bytes);
        prop_assert_eq!(DrainWish::decode(wish.encode().as_bytes()), wish);
    }

    #[test]
    fn what_is_parsed_is_written_back(text in "/sidekick/services/(drain|agents)(/[a-z@:.]{0,3}){0,4}") {
        let control = ControlPrefix::of("/services");
        match control.parse(text.as_bytes()) {
            Some(ControlKey::Wish(name)) => prop_assert_eq!(control.wish(&name), text),
            Some(ControlKey::Agent(id)) => prop_assert_eq!(control.agent(&id), text),
            Some(ControlKey::Word(id, name)) => prop_assert_eq!(control.word(&id, &name), text),
            None => {}
        }
    }
}
