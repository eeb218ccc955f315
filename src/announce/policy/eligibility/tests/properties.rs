//! Whatever the container: what is announced is up, and can be dialled.

use super::*;
use proptest::prelude::*;

fn states() -> impl Strategy<Value = ContainerState> {
    prop_oneof![
        3 => Just(ContainerState::Running),
        1 => Just(ContainerState::Paused),
        1 => Just(ContainerState::Restarting),
        1 => any::<i64>().prop_map(ContainerState::Exited),
        1 => any::<String>().prop_map(ContainerState::Other),
    ]
}

fn healths() -> impl Strategy<Value = ContainerHealth> {
    prop_oneof![
        3 => Just(ContainerHealth::Good),
        1 => (any::<u32>(), any::<u32>()).prop_map(|(failed, retries)| ContainerHealth::Starting { failed, retries }),
        1 => any::<u32>().prop_map(|failed| ContainerHealth::Unhealthy { failed }),
    ]
}

fn published() -> impl Strategy<Value = BTreeMap<ContainerPort, Vec<Binding>>> {
    let port = (1u16..5, prop_oneof![Just("tcp"), Just("udp")])
        .prop_map(|(number, protocol)| format!("{number}/{protocol}").parse().expect("a port"));
    let ip = prop_oneof![
        prop::sample::select(vec![
            "0.0.0.0",
            "::",
            "127.0.0.1",
            "::1",
            "10.0.0.5",
            "fe80::1"
        ])
        .prop_map(|ip| ip.parse().expect("an address")),
        any::<std::net::IpAddr>(),
    ];
    let binding = (ip, 1u16..).prop_map(|(ip, port)| Binding {
        ip,
        port: port.try_into().expect("not zero"),
    });
    prop::collection::btree_map(port, prop::collection::vec(binding, 0..4), 0..4)
}

fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    let name = prop::sample::select(vec!["sidekick.host", "sidekick.port", "sidekick.x"]);
    let value = prop_oneof![
        any::<String>(),
        prop::sample::select(vec!["a", "10.0.0.9", "2", "3/udp", "localhost"])
            .prop_map(str::to_owned),
    ];
    prop::collection::btree_map(name.prop_map(str::to_owned), value, 0..3)
}

proptest! {
    /// Whatever Docker says: what is announced is up, on a port that it published (or the host's
    /// own), and can be dialled from elsewhere; and every "no" has words.
    #[test]
    fn nothing_is_announced_that_is_not_up_and_reachable(
        state in states(), health in healths(), ports in published(), labels in labels(),
        host_network in any::<bool>(), wanted in prop::option::of(1u16..5),
        engine_name in prop::option::of(any::<String>())
    ) {
        let container = ContainerSnapshot { state, health, ports, labels, host_network, ..redis(&[]) };
        let rules = AddressOptions {
            port: wanted.map(|port| port.to_string().parse().expect("a port")),
            ..rules(None, None)
        };
        match decide(&container, &rules, engine_name.as_deref()) {
            Err(reason) => prop_assert!(!reason.to_string().is_empty()),
            Ok(decision) => {
                prop_assert_eq!(&container.state, &ContainerState::Running);
                prop_assert_eq!(container.health, ContainerHealth::Good);
                let value = decision.endpoint.encode();
                prop_assert_eq!(crate::endpoint::Endpoint::decode(value.as_bytes()), Ok((*decision.endpoint).clone()));
                match decision.binding {
                    None => prop_assert!(container.host_network),
                    Some(binding) => {
                        prop_assert!(!binding.ip.to_canonical().is_loopback());
                        prop_assert!(container.ports[&decision.container_port].contains(&binding));
                        prop_assert_eq!(binding.port, decision.endpoint.port);
                    }
                }
            }
        }
    }
}
