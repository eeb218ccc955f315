//! `haproxy -c` judges a sample of what the property tests in `render.rs` judge word by word.

use sidekick::agent::haproxy::render::{DEFAULT_BASE, FixedConfig, render};
use sidekick::agent::model::backends::Backends;
use sidekick::agent::model::listeners::{ListenerRules, assign_listeners};
use sidekick::catalog::{Catalog, RawKeyValue};
use sidekick::membership::{Membership, Retention};
use sidekick_harness::agent::haproxy;
use std::collections::BTreeMap;
use std::time::Duration;

const HOSTS: [&str; 12] = [
    "10.0.0.7",
    "fd00::1",
    "::ffff:1.2.3.4",
    "db.example.com",
    "${HOME}",
    "a\"b",
    "x\n    server evil 6.6.6.6:6",
    "a b",
    "#",
    "fe80::1%eth0",
    "0.0.0.0",
    "10.0.0.1:1;show version",
];

fn name(rng: &mut fastrand::Rng) -> String {
    let letters = b"abcXYZ019_.:@-\"$ \n;#\\";
    let harmful = if rng.u8(0..4) > 0 { 8 } else { 0 };
    let short = rng.usize(1..12);
    let length = if rng.u8(0..10) == 0 { 128 } else { short };
    let mut letter = || char::from(letters[rng.usize(0..letters.len() - harmful)]);
    (0..length).map(|_| letter()).collect()
}

#[test]
fn haproxy_takes_whatever_is_rendered() {
    let mut servers = 0;
    for seed in 0..40 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut catalog = Catalog::new("/services".to_owned());
        let services: Vec<_> = (0..5).map(|_| name(&mut rng)).collect();
        for _ in 0..60 {
            let key = format!("/services/{}/{}", services[rng.usize(0..5)], name(&mut rng));
            let host = HOSTS[rng.usize(0..HOSTS.len())];
            let status = if rng.bool() { "draining" } else { "" };
            let value =
                serde_json::json!({"host": host, "port": rng.u32(0..70_000), "status": status});
            catalog.put(RawKeyValue {
                key: key.as_bytes(),
                value: value.to_string().as_bytes(),
                create_revision: 0,
            });
        }
        let now = Duration::from_secs(1);
        let settings = Retention {
            hold: Duration::ZERO,
            forget: Duration::ZERO,
            drain: Duration::ZERO,
        };
        let mut membership = Membership::new(settings, BTreeMap::new(), now);
        membership.observe(&catalog.services(), now);
        let address = ("db.example.com".to_owned(), "10.0.0.9".parse().unwrap());
        let mut backends = Backends::default();
        backends.update(membership.desired(now), &[address].into_iter().collect());
        let rules = ListenerRules {
            stats: Some("127.0.0.1:1936".parse().unwrap()),
            ..ListenerRules::default()
        };
        let none = BTreeMap::new();
        let (model, _) = assign_listeners(&rules, backends.services(), &none, &BTreeMap::new());
        servers += model.servers();
        let frame = FixedConfig {
            base: DEFAULT_BASE.to_owned(),
            ipv6: seed % 2 == 0,
            idle: "/tmp/idle".to_owned(),
            listener_maxconn: Some(25_000),
            exporter: true,
        };
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), render(&frame, &model)).unwrap();
        let mut check = std::process::Command::new(haproxy());
        let check = check.arg("-c").arg("-f").arg(file.path()).output().unwrap();
        let said = String::from_utf8_lossy(&check.stderr);
        let accepted = check.status.success() && !said.contains("[WARNING]");
        assert!(accepted, "seed {seed}: {said}");
    }
    assert!(servers > 200, "only {servers}: nothing was tried");
}
