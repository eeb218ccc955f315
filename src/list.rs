//! `sidekick list`: what is registered, for a person or for a program. Writes nothing to etcd.

mod config;
mod table;
mod wishes;

pub use config::{ListArgs, ListConfig, Output};

use crate::agent::haproxy::health::{ServerHealth, server_health};
use crate::agent::haproxy_on_this_machine;
use crate::announce::drain::wishes::read_once;
use crate::catalog::{Catalog, RawKeyValue, Services};
use crate::endpoint::control::DrainWish;
use crate::endpoint::{Endpoint, Protocol, Status};
use crate::etcd::EtcdError;
use crate::etcd::members::Members;
use crate::etcd::reader::{self, Change, Update};
use crate::export::prometheus::targets;
use crate::log_writer::{flush, say};
use crate::shutdown::Shutdown;
use crate::systemd::Pulse;
use etcd_client::KeyValue;
use futures_util::stream::{self, StreamExt};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Write};
use std::sync::Arc;
use tokio::sync::mpsc;

/// The most requests for a lease's TTL at once.
const AT_ONCE: usize = 32;

/// The most updates that wait while a table is printed.
const UPDATES_WAITING: usize = 16;

/// Prints, and with `--watch` goes on until `shutdown`.
///
/// # Errors
/// etcd doesn't answer, or refuses. (With `--watch` it is retried for ever.)
pub async fn run(config: &ListConfig, mut shutdown: Shutdown) -> anyhow::Result<()> {
    let members = Arc::new(Members::new(&config.etcd)?);
    if !config.watch {
        let kvs = reader::once(&members, &config.prefix).await?;
        let kvs = kvs.into_iter().map(|kv| (kv.key().to_vec(), kv)).collect();
        return print(config, &members, &kvs).await.map(drop);
    }
    let (updates, mut news) = mpsc::channel(UPDATES_WAITING);
    let reader = reader::read(
        members.clone(),
        config.prefix.clone(),
        updates,
        Pulse::default(),
    );
    let follow = async {
        let mut kvs = BTreeMap::new();
        while let Some(update) = news.recv().await {
            take(&mut kvs, update);
            while let Ok(update) = news.try_recv() {
                take(&mut kvs, update);
            }
            if !print(config, &members, &kvs).await? {
                break;
            }
        }
        anyhow::Ok(())
    };
    // Cancel-safe: all three only read.
    tokio::select! {
        () = shutdown.requested() => Ok(()),
        () = reader => Ok(()),
        result = follow => result,
    }
}

fn take(kvs: &mut BTreeMap<Vec<u8>, KeyValue>, update: Update) {
    match update {
        Update::Snapshot(all) => *kvs = all.into_iter().map(|kv| (kv.key().to_vec(), kv)).collect(),
        Update::Changes(changes, _) => {
            for change in changes {
                match change {
                    Change::Put(kv) => drop(kvs.insert(kv.key().to_vec(), kv)),
                    Change::Deleted(key) => drop(kvs.remove(&key)),
                }
            }
        }
    }
}

/// One instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    service: String,
    instance: String,
    host: String,
    port: u16,
    container: Option<String>,
    since: Option<String>,
    status: &'static str,
    /// The seconds that its lease has left; `None` for a key without a lease.
    ttl: Option<i64>,
    protocol: Protocol,
    /// The state of the instance's server in this machine's HAProxy; `None` where no HAProxy answers, or it has no
    /// such server.
    haproxy: Option<ServerHealth>,
    /// The operator's wish that the instance drains; `None` without one, or where we have no right to read it.
    wish: Option<DrainWish>,
}

/// `false`: stdout is closed.
async fn print(
    config: &ListConfig,
    members: &Members,
    kvs: &BTreeMap<Vec<u8>, KeyValue>,
) -> anyhow::Result<bool> {
    let ttls = time_left(
        members,
        kvs.values()
            .map(KeyValue::lease)
            .filter(|lease| *lease != 0)
            .collect(),
    )
    .await;
    let mut catalog = Catalog::for_any_protocol(config.prefix.clone());
    catalog.replace(kvs.values().map(item));
    let services = catalog.services().clone();
    say_quarantined(config, &mut catalog);
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
    wishes::add_to(&mut rows, config.service.as_ref(), wishes);
    if rows.is_empty() {
        let what = match &config.service {
            Some(service) => format!("no instance of {service}"),
            None => "nothing".to_owned(),
        };
        say(format_args!("{what} is registered below {}", config.prefix));
    }
    let text = match config.output {
        Output::Json => json(&rows)?,
        Output::Table if config.watch => table::columns(&rows) + "\n",
        Output::Table => table::columns(&rows),
        Output::Prometheus => targets(&tcp_instances(config, kvs)),
    };
    // Messages precede the table, where both go to one terminal.
    flush();
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        result => Ok(result.map(|()| true)?),
    }
}

/// The instances that Prometheus can connect to.
fn tcp_instances(config: &ListConfig, kvs: &BTreeMap<Vec<u8>, KeyValue>) -> Services {
    let mut catalog = Catalog::new(config.prefix.clone());
    catalog.replace(kvs.values().map(item));
    let services = catalog.services();
    let only = config.service.as_ref();
    let wanted = services
        .iter()
        .filter(|(name, _)| only.is_none_or(|only| only == *name));
    wanted
        .map(|(name, instances)| (name.clone(), instances.clone()))
        .collect()
}

/// Tells which keys are not listed, and why; where one service is asked for, those of that service alone.
fn say_quarantined(config: &ListConfig, catalog: &mut Catalog) {
    let only = config.service.as_ref();
    let below = only.map(|service| format!("{}/{service}/", config.prefix));
    for quarantined in catalog.take_quarantined() {
        if below
            .as_ref()
            .is_none_or(|below| quarantined.is_below(below))
        {
            say(format_args!(
                "quarantined: {}: {}",
                quarantined.key, quarantined.reason
            ));
        }
    }
}

fn item(kv: &KeyValue) -> RawKeyValue<'_> {
    RawKeyValue {
        key: kv.key(),
        value: kv.value(),
        create_revision: kv.create_revision(),
    }
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

fn row(service: &str, instance: &str, endpoint: &Endpoint, ttl: Option<i64>) -> Row {
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

fn json(rows: &[Row]) -> serde_json::Result<String> {
    Ok(serde_json::to_string(rows)? + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Row> {
        let full = Endpoint::decode(br#"{"host":"ip-172-31-24-253","port":6379,"container":"593ee5d76755","since":"2026-11-23T05:06:06.123456789Z"}"#).unwrap();
        let bare =
            Endpoint::decode(br#"{"host":"fd00::7","port":80,"status":"draining"}"#).unwrap();
        vec![
            row("redis", "redis@1", &full, Some(42)),
            row("web", "a", &bare, None),
        ]
    }

    #[test]
    fn columns_line_up() {
        let expected = "\
SERVICE  INSTANCE  ADDRESS                CONTAINER     UP SINCE              STATUS    TTL
redis    redis@1   ip-172-31-24-253:6379  593ee5d76755  2026-11-23T05:06:06Z  serving   42s
web      a         [fd00::7]:80           -             -                     draining  -
";
        assert_eq!(table::columns(&rows()), expected);
        let mut rows = rows();
        rows[0].wish = Some(DrainWish::new(Some("new disk"), None));
        rows[1].wish = Some(DrainWish::default());
        let table = table::columns(&rows);
        for (line, end) in table.lines().zip(["  TO DRAIN", "  new disk", "  yes"]) {
            assert!(line.ends_with(end), "{table}");
        }
    }

    #[test]
    fn json_is_one_array() {
        let parsed: serde_json::Value = serde_json::from_str(&json(&rows()).unwrap()).unwrap();
        assert_eq!(parsed[0]["instance"], "redis@1");
        assert_eq!(parsed[0]["ttl"], 42);
        assert_eq!(parsed[1]["container"], serde_json::Value::Null);
        assert_eq!(parsed[0]["wish"], serde_json::Value::Null);
        assert_eq!(json(&[]).unwrap(), "[]\n");
    }
}
