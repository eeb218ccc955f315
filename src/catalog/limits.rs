//! How many services and instances are served, and which are left out if there are more. Pure.

use super::instance::Services;
use std::collections::BTreeMap;

/// The most instances of one service. `balance roundrobin` takes 4095 servers a backend
/// (HAProxy's configuration manual, "balance").
pub const MAX_INSTANCES: usize = 4_095;
/// The most services: each is a listener, a port, and a reload when it comes.
pub const MAX_SERVICES: usize = 4_096;
/// The most instances in all: each is a server with a check of its own every 2 s.
pub const MAX_INSTANCES_TOTAL: usize = 32_768;

/// The most instances that have left etcd and still keep their connections.
pub const MAX_LEAVING: usize = MAX_INSTANCES;

/// The instances over the limits, by service and name, and why: those with the newest keys, so that a flood
/// of keys displaces no older instance.
#[must_use]
pub fn over_limits(services: &Services) -> BTreeMap<(String, String), &'static str> {
    let sizes = || services.values().map(|instances| instances.len());
    let fits = services.len() <= MAX_SERVICES
        && sizes().sum::<usize>() <= MAX_INSTANCES_TOTAL
        && sizes().all(|size| size <= MAX_INSTANCES);
    if fits {
        return BTreeMap::new();
    }
    let all = services.iter().flat_map(|(service, instances)| {
        let places = instances.iter();
        places.map(move |(name, it)| (it.create_revision, service, name))
    });
    let mut order: Vec<_> = all.collect();
    order.sort_unstable();
    let mut sizes: BTreeMap<&str, usize> = BTreeMap::new();
    let (mut all, mut over_limits) = (0, BTreeMap::new());
    for (_, service, name) in order {
        let size = sizes.get(service.as_str()).copied();
        let full = if all >= MAX_INSTANCES_TOTAL {
            "too many instances in all"
        } else if size.is_none() && sizes.len() >= MAX_SERVICES {
            "too many services"
        } else if size.unwrap_or_default() >= MAX_INSTANCES {
            "too many instances of this service"
        } else {
            all += 1;
            *sizes.entry(service).or_default() += 1;
            continue;
        };
        over_limits.insert((service.clone(), name.clone()), full);
    }
    over_limits
}
