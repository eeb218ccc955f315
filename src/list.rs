//! `sidekick list`: what is registered, for a person or for a program. Writes nothing to etcd.

mod config;
mod gather;
mod screen;
mod table;
mod terminal;
mod watch;
mod wishes;

pub use config::{ListArgs, ListConfig, Output};

use crate::agent::haproxy::health::ServerHealth;
use crate::catalog::{Catalog, RawKeyValue, Services};
use crate::endpoint::Protocol;
use crate::endpoint::control::DrainWish;
use crate::etcd::members::Members;
use crate::etcd::reader::{self, Change, Update};
use crate::export::prometheus::targets;
use crate::log_writer::{flush, say};
use crate::shutdown::Shutdown;
use crate::systemd::Pulse;
use etcd_client::KeyValue;
use gather::{Gathered, gather};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{ErrorKind, IsTerminal, Write};
use std::sync::Arc;
use terminal::Terminal;
use tokio::sync::mpsc;

/// The most updates that wait while a table is printed.
const UPDATES_WAITING: usize = 16;

/// Whether the table is drawn on the terminal that the log goes to as well, where its lines would stand in the table.
#[must_use]
pub fn shares_terminal_with_log(args: &ListArgs) -> bool {
    let draws = args.watch && args.output == Output::Table;
    draws && Terminal::of_stdout().is_some() && std::io::stderr().is_terminal()
}

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
    let terminal = match config.output {
        Output::Table => Terminal::of_stdout(),
        Output::Json | Output::Prometheus => None,
    };
    let follow = async {
        if let Some(terminal) = terminal {
            return watch::run(config, &members, news, terminal).await;
        }
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
    let Gathered { rows, messages } = gather(config, members, kvs).await;
    messages.iter().for_each(say);
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

fn item(kv: &KeyValue) -> RawKeyValue<'_> {
    RawKeyValue {
        key: kv.key(),
        value: kv.value(),
        create_revision: kv.create_revision(),
    }
}

fn json(rows: &[Row]) -> serde_json::Result<String> {
    Ok(serde_json::to_string(rows)? + "\n")
}

#[cfg(test)]
mod tests {
    use super::gather::row;
    use super::*;
    use crate::endpoint::Endpoint;

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
