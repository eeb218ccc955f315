//! Envoy's endpoints (EDS), as its filesystem subscription reads them: a `DiscoveryResponse` in JSON. Pure.
//!
//! One `ClusterLoadAssignment` per service, whose name is the cluster's, or its `service_name`. A service without
//! instances has one without endpoints: Envoy keeps the last endpoints of a cluster that a response leaves out.
//! <https://www.envoyproxy.io/docs/envoy/latest/api-v3/config/endpoint/v3/endpoint.proto>

use super::prometheus::written_instance;
use crate::catalog::{Instance, Instances, Services};
use crate::endpoint::{Host, check_part};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::num::NonZeroU16;

const TYPE: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";

#[derive(Debug, Serialize, Deserialize)]
struct DiscoveryResponse {
    version_info: String,
    resources: Vec<ClusterLoadAssignment>,
}

#[derive(Debug, Serialize, Deserialize)]
struct ClusterLoadAssignment {
    #[serde(rename = "@type")]
    of_type: String,
    cluster_name: String,
    #[serde(default)]
    endpoints: Vec<LocalityLbEndpoints>,
}

#[derive(Debug, Serialize, Deserialize)]
struct LocalityLbEndpoints {
    lb_endpoints: Vec<LbEndpoint>,
}

#[derive(Debug, Serialize, Deserialize)]
struct LbEndpoint {
    endpoint: EnvoyEndpoint,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    health_status: Option<String>,
    metadata: EndpointMetadata,
}

#[derive(Debug, Serialize, Deserialize)]
struct EnvoyEndpoint {
    address: EnvoyAddress,
    /// The host's name where the value in etcd has one; Envoy resolves none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hostname: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct EnvoyAddress {
    socket_address: SocketAddress,
}

#[derive(Debug, Serialize, Deserialize)]
struct SocketAddress {
    address: IpAddr,
    port_value: NonZeroU16,
}

#[derive(Debug, Serialize, Deserialize)]
struct EndpointMetadata {
    filter_metadata: FilterMetadata,
}

#[derive(Debug, Serialize, Deserialize)]
struct FilterMetadata {
    sidekick: SidekickMetadata,
}

#[derive(Debug, Serialize, Deserialize)]
struct SidekickMetadata {
    instance: String,
}

/// All services with the addresses of their instances; those that are leaving, or whose host's name `resolve` doesn't
/// know, are left out.
#[must_use]
pub fn discovery_response(services: &Services, resolve: impl Fn(&str) -> Option<IpAddr>) -> String {
    let assignment = |(service, instances): (&String, &Instances)| {
        let present = instances.iter().filter(|(_, it)| !it.leaving);
        let lb_endpoints: Vec<_> = present
            .filter_map(|(name, it)| lb_endpoint(name, it, &resolve))
            .collect();
        let endpoints = (!lb_endpoints.is_empty()).then_some(LocalityLbEndpoints { lb_endpoints });
        ClusterLoadAssignment {
            of_type: TYPE.to_owned(),
            cluster_name: service.clone(),
            endpoints: endpoints.into_iter().collect(),
        }
    };
    let resources: Vec<_> = services.iter().map(assignment).collect();
    // Strings and numbers: serde_json has no way to fail on these.
    let content = serde_json::to_string(&resources).unwrap_or_default();
    let response = DiscoveryResponse {
        version_info: format!("{:016x}", fnv1a(content.as_bytes())),
        resources,
    };
    serde_json::to_string_pretty(&response).unwrap_or_default() + "\n"
}

fn lb_endpoint(
    name: &str,
    it: &Instance,
    resolve: impl Fn(&str) -> Option<IpAddr>,
) -> Option<LbEndpoint> {
    let (address, hostname) = match &it.host {
        Host::Ip(ip) => (*ip, None),
        Host::Name(name) => (resolve(name)?, Some(name.clone())),
    };
    Some(LbEndpoint {
        endpoint: EnvoyEndpoint {
            address: EnvoyAddress {
                socket_address: SocketAddress {
                    address,
                    port_value: it.port,
                },
            },
            hostname,
        },
        health_status: it.draining.then(|| "DRAINING".to_owned()),
        metadata: EndpointMetadata {
            filter_metadata: FilterMetadata {
                sidekick: SidekickMetadata {
                    instance: name.to_owned(),
                },
            },
        },
    })
}

/// What [`discovery_response`] has written, and the addresses of the names in it; `None` where the text is something else.
#[must_use]
pub fn parse_discovery_response(text: &str) -> Option<(Services, Vec<(String, IpAddr)>)> {
    let response: DiscoveryResponse = serde_json::from_str(text).ok()?;
    let (mut services, mut addresses) = (Services::new(), Vec::new());
    for assignment in response.resources {
        check_part(&assignment.cluster_name).ok()?;
        let mut instances = Instances::new();
        let all = assignment.endpoints.into_iter();
        for it in all.flat_map(|locality| locality.lb_endpoints) {
            let SocketAddress {
                address,
                port_value,
            } = it.endpoint.address.socket_address;
            let host = match it.endpoint.hostname {
                None => Host::of_ip(address).ok()?,
                Some(name) => {
                    addresses.push((name.clone(), address));
                    name.parse().ok()?
                }
            };
            let draining = it.health_status.as_deref() == Some("DRAINING");
            let name = it.metadata.filter_metadata.sidekick.instance;
            check_part(&name).ok()?;
            instances.insert(name, written_instance(host, port_value, draining));
        }
        services.insert(assignment.cluster_name, instances);
    }
    Some((services, addresses))
}

/// FNV-1a, 64 bits: the same content has the same version on each machine and in each version of sidekick.
/// <https://datatracker.ietf.org/doc/html/draft-eastlake-fnv>
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn services() -> Services {
        let mut redis = Instances::new();
        for (name, host, draining) in [
            ("redis@1", "10.0.0.7", false),
            ("redis@2", "fd00::7", true),
            ("redis@3", "db3.internal", false),
            ("redis@4", "unknown.internal", false),
        ] {
            let port = NonZeroU16::new(6379).unwrap();
            let it = written_instance(host.parse().unwrap(), port, draining);
            redis.insert(name.to_owned(), it);
        }
        let mut services = Services::new();
        services.insert("redis".to_owned(), redis);
        services.insert("web".to_owned(), Instances::new());
        services
    }

    fn resolve(name: &str) -> Option<IpAddr> {
        (name == "db3.internal").then(|| "10.0.0.9".parse().unwrap())
    }

    #[test]
    fn a_service_is_a_cluster_load_assignment() {
        let text = discovery_response(&services(), resolve);
        let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
        let version = parsed["version_info"].clone();
        let metadata =
            |name: &str| serde_json::json!({"filter_metadata": {"sidekick": {"instance": name}}});
        let socket = |address: &str| serde_json::json!({"socket_address": {"address": address, "port_value": 6379}});
        let expected = serde_json::json!({
            "version_info": version,
            "resources": [
                {"@type": TYPE, "cluster_name": "redis", "endpoints": [{"lb_endpoints": [
                    {"endpoint": {"address": socket("10.0.0.7")}, "metadata": metadata("redis@1")},
                    {"endpoint": {"address": socket("fd00::7")}, "health_status": "DRAINING", "metadata": metadata("redis@2")},
                    {"endpoint": {"address": socket("10.0.0.9"), "hostname": "db3.internal"}, "metadata": metadata("redis@3")},
                ]}]},
                {"@type": TYPE, "cluster_name": "web", "endpoints": []},
            ],
        });
        assert_eq!(parsed, expected);
    }

    #[test]
    fn the_version_is_the_contents() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        let one = discovery_response(&services(), resolve);
        assert_eq!(one, discovery_response(&services(), resolve));
        let other = discovery_response(&services(), |_| None);
        let version = |text: &str| text.lines().nth(1).map(str::to_owned);
        assert_ne!(version(&one), version(&other));
    }

    #[test]
    fn what_was_written_is_read_back() {
        let text = discovery_response(&services(), resolve);
        let (read, addresses) = parse_discovery_response(&text).unwrap();
        let mut expected = services();
        expected["redis"].remove("redis@4");
        assert_eq!(read, expected);
        let known = ("db3.internal".to_owned(), "10.0.0.9".parse().unwrap());
        assert_eq!(addresses, [known]);
        assert!(parse_discovery_response("{}").is_none());
        assert!(parse_discovery_response("[]").is_none());
    }
}
