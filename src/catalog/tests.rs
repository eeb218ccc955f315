//! What is valid, and what is quarantined.

use super::limits::{MAX_INSTANCES, MAX_INSTANCES_TOTAL, MAX_SERVICES};
use super::*;
use proptest::prelude::*;

fn item<'a>(key: &'a str, value: &'a str, create_revision: i64) -> RawKeyValue<'a> {
    RawKeyValue {
        key: key.as_bytes(),
        value: value.as_bytes(),
        create_revision,
    }
}

fn catalog() -> Catalog {
    Catalog::new("/services".to_owned())
}

const GOOD: &str = r#"{"host":"10.0.0.7","port":6379}"#;

#[test]
fn puts_and_deletes_are_followed() {
    let mut catalog = catalog();
    catalog.replace([item("/services/redis/redis@1", GOOD, 1)].into_iter());
    catalog.put(item("/services/redis/redis@2", GOOD, 2));
    assert_eq!(
        catalog.services()["redis"].keys().collect::<Vec<_>>(),
        ["redis@1", "redis@2"]
    );
    catalog.delete(b"/services/redis/redis@1");
    catalog.delete(b"/services/redis/redis@2");
    assert!(catalog.services().is_empty());
}

#[test]
fn junk_is_counted_and_told_once_and_good_neighbours_go_on() {
    let mut catalog = catalog();
    let long = "x".repeat(300);
    let hostile = [
        ("/services/redis/a b", GOOD),
        ("/services/redis/a\nb", GOOD),
        ("/services/redis/${HOME}", GOOD),
        ("/services/redis/a;b", GOOD),
        ("/services/redis/a|b", GOOD),
        ("/services/redis/a\"b", GOOD),
        ("/services/redis/a\0b", GOOD),
        ("/services/redis/", GOOD),
        ("/services/redis", GOOD),
        ("/services/eu/redis/a", GOOD),
        ("/services/redis/..", GOOD),
        ("/services/redis/p0", r#"{"host":"10.0.0.7","port":0}"#),
        ("/services/redis/p7", r#"{"host":"10.0.0.7","port":70000}"#),
        ("/services/redis/ps", r#"{"host":"10.0.0.7","port":"6379"}"#),
        (
            "/services/redis/n",
            r#"{"host":{"host":"10.0.0.7"},"port":1}"#,
        ),
        ("/services/redis/z", r#"{"host":"fe80::1%eth0","port":1}"#),
        ("/services/redis/l", r#"{"host":"localhost","port":1}"#),
        ("/services/redis/u", r#"{"host":"0.0.0.0","port":1}"#),
        (
            "/services/redis/i",
            r#"{"host":"1.2.3.4:1;show version","port":1}"#,
        ),
    ];
    let mut items: Vec<_> = hostile.iter().map(|(k, v)| item(k, v, 1)).collect();
    let (long, large) = (format!("/services/redis/{long}"), "x".repeat(1 << 20));
    items.push(item(&long, GOOD, 1));
    items.push(item("/services/redis/mb", &large, 1));
    items.push(RawKeyValue {
        key: b"/services/redis/\xff\xfe",
        value: &[],
        create_revision: 1,
    });
    let bad = items.len();
    items.push(item("/services/redis/good", GOOD, 1));
    catalog.replace(items.iter().copied());
    assert_eq!(catalog.services()["redis"].len(), 1);
    assert_eq!(
        (catalog.quarantined(), catalog.take_quarantined().len()),
        (bad, bad)
    );
    // The same again, as after a lost stream, is no news.
    catalog.replace(items.into_iter());
    assert_eq!(
        (catalog.quarantined(), catalog.take_quarantined().len()),
        (bad, 0)
    );
    // Well in between: news again.
    catalog.put(item("/services/redis/p0", GOOD, 1));
    assert_eq!(catalog.quarantined(), bad - 1);
    catalog.put(item("/services/redis/p0", "{", 1));
    assert_eq!(catalog.take_quarantined().len(), 1);
    assert_eq!(catalog.services()["redis"].len(), 1);
}

#[test]
fn a_flood_of_valid_keys_pushes_no_instance_out() {
    let mut catalog = catalog();
    let mut keys = vec![("/services/zz/old".to_owned(), 1)];
    keys.extend((0..100_000).map(|n| (format!("/services/flood{}/i{n}", n % 20_000), 2)));
    keys.extend((0..9_000).map(|n| (format!("/services/big/i{n}"), 1)));
    catalog.replace(
        keys.iter()
            .map(|(key, revision)| item(key, GOOD, *revision)),
    );
    let services = catalog.services();
    assert!(services["zz"].contains_key("old"));
    assert_eq!(services["big"].len(), MAX_INSTANCES);
    assert!(services.len() <= MAX_SERVICES);
    let all: usize = services.values().map(|instances| instances.len()).sum();
    assert!(all <= MAX_INSTANCES_TOTAL);
    assert_eq!(catalog.quarantined(), 109_001 - all);
    assert_eq!(catalog.take_quarantined().len(), 109_001 - all);
    catalog.services();
    assert_eq!(catalog.take_quarantined(), []);
}

proptest! {
    #[test]
    fn what_is_followed_is_what_is_read_at_once(
        steps in prop::collection::vec((0..4u8, 0..3u8, 0..3u8, 0..3u16), 1..40)
    ) {
        let (mut catalog, mut all) = (catalog(), BTreeMap::new());
        for (what, service, instance, port) in steps {
            let key = format!("/services/s{service}/i{instance}");
            // Port 0 is none.
            let value = format!(r#"{{"host":"10.0.0.7","port":{port}}}"#);
            match what {
                0 => {
                    all.remove(&key);
                    catalog.delete(key.as_bytes());
                }
                1 => catalog.replace(all.iter().map(|(k, v): (&String, &String)| item(k, v, 1))),
                _ => {
                    catalog.put(item(&key, &value, 1));
                    all.insert(key, value);
                }
            }
            let mut fresh = self::catalog();
            fresh.replace(all.iter().map(|(k, v)| item(k, v, 1)));
            prop_assert_eq!(catalog.services(), fresh.services());
            prop_assert_eq!(catalog.quarantined(), fresh.quarantined());
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_never_get_through(
        items in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..40), prop::collection::vec(any::<u8>(), 0..80)), 0..20)
    ) {
        let mut catalog = catalog();
        for (tail, value) in items {
            let mut key = b"/services/a/".to_vec();
            key.extend(tail);
            catalog.put(RawKeyValue { key: &key, value: &value, create_revision: 0 });
        }
        for (service, instances) in &catalog.services() {
            for name in instances.keys().chain([service]) {
                prop_assert!(crate::endpoint::check_part(name).is_ok());
            }
        }
    }
}
