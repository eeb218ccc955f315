//! Reads what a table shows beside the keys: the leases' TTLs, HAProxy's checks, and operators' wishes.

use super::{ListConfig, Row, item, wishes};
use crate::agent::haproxy::health::server_health;
use crate::agent::haproxy_on_this_machine;
use crate::announce::drain::wishes::read_once;
use crate::catalog::Catalog;
use crate::endpoint::{Endpoint, Status};
use crate::etcd::EtcdError;
use crate::etcd::members::Members;
use etcd_client::KeyValue;
use futures_util::stream::{self, StreamExt};
use std::collections::{BTreeMap, BTreeSet};

/// The most requests for a lease's TTL at once.
const AT_ONCE: usize = 32;

/// What is registered.
#[derive(Debug, Clone, Default)]
pub(super) struct Gathered {
    /// By service and instance.
    pub(super) rows: Vec<Row>,
    /// What is not listed, and why; a line each.
    pub(super) messages: Vec<String>,
}

pub(super) async fn gather(
    config: &ListConfig,
    members: &Members,
    kvs: &BTreeMap<Vec<u8>, KeyValue>,
) -> Gathered {
    let leases = kvs.values().map(KeyValue::lease);
    let ttls = time_left(members, leases.filter(|lease| *lease != 0).collect()).await;
    let mut catalog = Catalog::for_any_protocol(config.prefix.clone());
    catalog.replace(kvs.values().map(item));
    let services = catalog.services().clone();
    let mut messages = quarantined(config, &mut catalog);
    let checked = haproxy_on_this_machine(&config.haproxy).await;
    let mut rows = Vec::new();
    for (service, instances) in &services {
        if config.service.as_ref().is_some_and(|only| only != service) {
            continue;
        }
        for instance in instances.keys() {
            let key = format!("{}/{service}/{instance}", config.prefix);
            let kv = kvs.get(key.as_bytes());
            // The table holds only keys whose value can be decoded.
            let Some((kv, Ok(endpoint))) = kv.map(|kv| (kv, Endpoint::decode(kv.value()))) else {
                continue;
            };
            let ttl = ttls.get(&kv.lease()).copied();
            let mut row = row(service, instance, &endpoint, ttl);
            row.haproxy = checked
                .as_ref()
                .and_then(|all| server_health(all, service, instance));
            rows.push(row);
        }
    }
    let wishes = read_once(members, &config.control).await;
    messages.extend(wishes::add_to(&mut rows, config.service.as_ref(), wishes));
    if rows.is_empty() {
        let what = match &config.service {
            Some(service) => format!("no instance of {service}"),
            None => "nothing".to_owned(),
        };
        messages.push(format!("{what} is registered below {}", config.prefix));
    }
    Gathered { rows, messages }
}

/// Which keys are not listed, and why; where one service is asked for, those of that service alone.
fn quarantined(config: &ListConfig, catalog: &mut Catalog) -> Vec<String> {
    let only = config.service.as_ref();
    let below = only.map(|service| format!("{}/{service}/", config.prefix));
    let all = catalog.take_quarantined().into_iter();
    let wanted = all.filter(|it| below.as_ref().is_none_or(|below| it.is_below(below)));
    wanted
        .map(|it| format!("quarantined: {}: {}", it.key, it.reason))
        .collect()
}

/// The seconds that each lease has left, without leases that are just expiring or whose request failed.
async fn time_left(members: &Members, leases: BTreeSet<i64>) -> BTreeMap<i64, i64> {
    let ask = |lease| async move {
        let answer = members
            .call(|mut client| async move { client.lease_time_to_live(lease, None).await })
            .await;
        answer.map(|answer| (lease, answer.ttl()))
    };
    let answers = stream::iter(leases).map(ask).buffer_unordered(AT_ONCE);
    let known = answers.filter_map(|answer: Result<_, EtcdError>| async {
        answer.ok().filter(|(_, ttl)| *ttl >= 0)
    });
    known.collect().await
}

pub(super) fn row(service: &str, instance: &str, endpoint: &Endpoint, ttl: Option<i64>) -> Row {
    Row {
        service: service.to_owned(),
        instance: instance.to_owned(),
        host: endpoint.host.to_string(),
        port: endpoint.port.get(),
        container: endpoint.container.clone(),
        since: endpoint.since.map(|since| since.to_string()),
        status: if endpoint.status == Some(Status::Draining) {
            "draining"
        } else {
            "serving"
        },
        ttl,
        protocol: endpoint.protocol,
        haproxy: None,
        wish: None,
    }
}
