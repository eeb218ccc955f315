//! Which service gets which port.

use super::*;
use crate::agent::model::backends::Backends;
use crate::agent::model::backends::tests::instance;
use crate::agent::model::host_addresses::HostAddresses;
use crate::catalog::Instances;
use crate::membership::DesiredService;
use proptest::prelude::*;

fn bind(text: &str) -> Bind {
    text.parse().unwrap()
}

fn desired(port: u16) -> DesiredService {
    let instances = Instances::unit("i".to_owned(), instance("10.0.0.1", port));
    DesiredService { port, instances }
}

fn listeners(
    rules: &ListenerRules,
    desired: &[(&str, DesiredService)],
    backed_off: &BTreeMap<(String, Bind), String>,
    bound: &BTreeMap<String, Bind>,
) -> (String, Vec<String>) {
    let mut backends = Backends::default();
    let desired: BTreeMap<_, _> = desired
        .iter()
        .map(|(n, w)| ((*n).to_owned(), w.clone()))
        .collect();
    let mut addresses = HostAddresses::default();
    addresses.set_own(BTreeSet::from([[10, 9, 0, 1].into()]));
    backends.update(desired.iter().map(|(n, w)| (n, w.clone())), &addresses);
    let (model, refusals) = assign_listeners(rules, backends.services(), backed_off, bound);
    let listeners = model
        .listeners
        .iter()
        .map(|(name, listener)| format!("{name}{}", listener.bind));
    let listeners = listeners.collect::<Vec<_>>().join(" ");
    (
        listeners,
        refusals
            .into_iter()
            .map(|r| format!("{}: {}", r.service, r.why))
            .collect(),
    )
}

#[test]
fn binds_are_read_in_each_usual_form() {
    for everywhere in [":80", "*:80", "80"] {
        assert_eq!(
            bind(everywhere),
            Bind::Everywhere(NonZeroU16::new(80).unwrap())
        );
    }
    assert_eq!(bind("[::1]:80").to_string(), "[::1]:80");
    for wrong in [
        "",
        ":",
        ":0",
        "10.0.0.1:0",
        ":70000",
        "redis",
        "::1",
        "10.0.0.1",
        ":80 ssl",
        ":80\n",
    ] {
        assert!(wrong.parse::<Bind>().is_err(), "{wrong:?}");
    }
}

#[test]
fn overlap_is_what_the_kernel_would_call_in_use() {
    for (a, b, overlap) in [
        (":80", ":80", true),
        (":80", ":81", false),
        (":80", "127.0.0.1:80", true),
        ("0.0.0.0:80", "127.0.0.1:80", true),
        ("0.0.0.0:80", "[::1]:80", false),
        ("[::]:80", "[::1]:80", true),
        ("10.0.0.1:80", "10.0.0.2:80", false),
        ("10.0.0.1:80", "10.0.0.1:80", true),
    ] {
        assert_eq!(bind(a).overlaps(bind(b)), overlap, "{a} {b}");
        assert_eq!(bind(b).overlaps(bind(a)), overlap, "{b} {a}");
    }
}

/// `a/9 b`: a with one instance, whose key's create_revision is 9; b with none.
fn contenders(text: &str) -> Vec<(&str, DesiredService)> {
    let each = text.split(' ').map(|part| match part.split_once('/') {
        Some((service, revision)) => {
            let mut it = instance("10.0.0.1", 80);
            it.create_revision = revision.parse().unwrap();
            let instances = Instances::unit("i".to_owned(), it);
            (
                service,
                DesiredService {
                    port: 80,
                    instances,
                },
            )
        }
        None => {
            let instances = Instances::new();
            (
                part,
                DesiredService {
                    port: 80,
                    instances,
                },
            )
        }
    });
    each.collect()
}

#[test]
fn of_several_on_one_port_who_serves_and_is_bound_keeps_it() {
    for (services, is_bound, expected) in [
        // Nothing is bound: the older key, then the name.
        ("a/9 b/3", "", "b:80"),
        ("b/3 a/3", "", "a:80"),
        // A new service takes no port from one that serves, however old its key is and whatever its name.
        ("a/1 b/3", "b", "b:80"),
        // An empty service yields to one that serves, and keeps the port from another empty one.
        ("a/9 b", "b", "a:80"),
        ("a b", "b", "b:80"),
        ("a b", "", "a:80"),
    ] {
        let bound = is_bound.split_whitespace();
        let bound = bound.map(|name| (name.to_owned(), bind(":80"))).collect();
        let services = contenders(services);
        let (nothing, rules) = (BTreeMap::new(), ListenerRules::default());
        let (listeners, refused) = listeners(&rules, &services, &nothing, &bound);
        assert_eq!(listeners, expected, "{services:?} {bound:?}");
        assert_eq!(refused.len(), 1);
    }
}

#[test]
fn a_port_of_an_instance_here_is_bound_only_if_it_is_asked_for_or_was_bound_before() {
    let here = |port| {
        let instances = Instances::unit("i".to_owned(), instance("10.9.0.1", port));
        DesiredService { port, instances }
    };
    let services = [
        ("a", here(7000)),
        ("b", here(7001)),
        ("c", here(7002)),
        ("d", desired(7002)),
    ];
    let rules = ListenerRules {
        binds: BTreeMap::from([("b".to_owned(), bind(":7001"))]),
        ..ListenerRules::default()
    };
    let bound = BTreeMap::from([("d".to_owned(), bind(":7002"))]);
    let (listeners, refused) = listeners(&rules, &services, &BTreeMap::new(), &bound);
    assert_eq!(listeners, "b:7001 d:7002");
    let words = ":7000 is the port of an instance on this machine (a)";
    assert!(refused[0].contains(words), "{refused:?}");
    assert_eq!(refused.len(), 2, "{refused:?}");
}

proptest! {
    /// A service that has a port keeps it: what was assigned is assigned again, and a service that serves
    /// loses its port to none that is bound elsewhere or nowhere.
    #[test]
    fn what_is_bound_is_laid_out_again(
        all in prop::collection::btree_map("[a-f]", (any::<bool>(), 0..4i64, 80..82u16), 1..6),
        bound in prop::collection::btree_map("[a-f]", 80..82u16, 0..3)
    ) {
        let desired = |(serves, revision, port): &(bool, i64, u16)| {
            let mut it = instance("10.0.0.1", *port);
            it.create_revision = *revision;
            let one = serves.then(|| ("i".to_owned(), it));
            DesiredService { port: *port, instances: one.into_iter().collect() }
        };
        let services: BTreeMap<_, _> = all.iter().map(|(name, it)| (name.clone(), desired(it))).collect();
        let mut backends = Backends::default();
        backends.update(services.iter().map(|(n, w)| (n, w.clone())), &HostAddresses::default());
        let mut ports = BTreeSet::new();
        let bound = bound.into_iter().filter(|(_, port)| ports.insert(*port));
        let bound: BTreeMap<String, Bind> = bound.map(|(n, p)| (n, bind(&format!(":{p}")))).collect();
        let assign_listeners = |bound: &BTreeMap<String, Bind>| {
            assign_listeners(&ListenerRules::default(), backends.services(), &BTreeMap::new(), bound).0
        };
        let first = assign_listeners(&bound);
        for (name, at) in &bound {
            if all.get(name).is_some_and(|(serves, _, port)| *serves && *port == at.port()) {
                prop_assert_eq!(first.listeners.get(name).map(|it| it.bind), Some(*at));
            }
        }
        let binds = first.listeners.iter().map(|(name, listener)| (name.clone(), listener.bind));
        prop_assert_eq!(assign_listeners(&binds.collect()), first);
    }
}

#[test]
fn the_operators_word_comes_before_a_services_own_port() {
    let rules = ListenerRules {
        binds: BTreeMap::from([
            ("redis".to_owned(), bind(":80")),
            ("z".to_owned(), bind("127.0.0.1:80")),
        ]),
        stats: Some(bind("127.0.0.1:1936")),
        reserved: BTreeSet::from(["mine".to_owned()]),
        ..ListenerRules::default()
    };
    let services = [
        ("a", desired(80)),
        ("mine", desired(7)),
        ("s", desired(1936)),
    ];
    let (listeners, refused) = listeners(&rules, &services, &BTreeMap::new(), &BTreeMap::new());
    assert_eq!(listeners, "redis:80");
    let expected = [
        "z: 127.0.0.1:80 is taken by redis",
        "a: :80 is taken by redis",
        "mine: the base file has a section of that name",
        "s: :1936 is taken by sidekick:stats",
    ];
    assert_eq!(refused, expected);
}

#[test]
fn what_is_barred_is_left_out_with_its_reason() {
    let backed_off = BTreeMap::from([(("a".to_owned(), bind(":80")), "in use".to_owned())]);
    let services = [("a", desired(80)), ("b", desired(81))];
    let (listeners, refused) = listeners(
        &ListenerRules::default(),
        &services,
        &backed_off,
        &BTreeMap::new(),
    );
    assert_eq!(
        (listeners.as_str(), refused),
        ("b:81", vec!["a: :80: in use".to_owned()])
    );
}
