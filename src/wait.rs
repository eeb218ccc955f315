//! `sidekick wait`: waits until instances of a service are registered and take connections. Writes nothing to etcd.

mod config;

pub use config::{WaitArgs, WaitConfig};

use crate::catalog::{Catalog, RawKeyValue};
use crate::clock::now;
use crate::etcd::members::Members;
use crate::etcd::reader::{self, Change, Update};
use crate::log_writer::say;
use crate::shutdown::Shutdown;
use crate::systemd::Pulse;
use etcd_client::KeyValue;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::sleep;

/// The most updates that wait.
const UPDATES_WAITING: usize = 16;

/// The pause of a loop that waits for ever: timers stand still while the machine is suspended.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Returns whether the instances serve: `false` where they don't in time, or a signal came first. An etcd that isn't
/// there yet is waited for.
///
/// # Errors
/// The password is no text.
pub async fn run(config: &WaitConfig, mut shutdown: Shutdown) -> anyhow::Result<bool> {
    let members = Arc::new(Members::new(&config.etcd)?);
    let began = now();
    let (updates_tx, mut updates) = mpsc::channel(UPDATES_WAITING);
    let service = format!("{}/{}", config.prefix, config.service);
    let reading = reader::read(members, service, updates_tx, Pulse::default());
    let mut reading = std::pin::pin!(reading);
    let mut catalog = Catalog::for_any_protocol(config.prefix.clone());
    loop {
        let serving = serving(config, &mut catalog);
        if serving >= config.count {
            return Ok(true);
        }
        let waited = now().saturating_sub(began);
        let left = config.timeout.map(|timeout| timeout.saturating_sub(waited));
        if left.is_some_and(|left| left.is_zero()) {
            say(missing(config, serving));
            return Ok(false);
        }
        let pause = left.unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT);
        // Cancel-safe: a channel keeps what isn't received, the reader is polled by reference, a sleep has no effect.
        tokio::select! {
            () = &mut reading => return Ok(false),
            Some(update) = updates.recv() => apply(&mut catalog, update),
            () = shutdown.requested() => return Ok(false),
            () = sleep(pause) => {}
        }
    }
}

/// How many instances count: those that take new connections.
fn serving(config: &WaitConfig, catalog: &mut Catalog) -> usize {
    let services = catalog.services();
    let instances = services.get(&config.service).into_iter();
    let instances = instances.flat_map(|it| it.iter());
    let only = config.instance.as_ref();
    let counts =
        instances.filter(|(name, it)| !it.draining && only.is_none_or(|only| only == *name));
    counts.count()
}

fn missing(config: &WaitConfig, serving: usize) -> String {
    let WaitConfig { service, count, .. } = config;
    match &config.instance {
        Some(instance) => format!("{service}/{instance} does not serve"),
        None => format!("{serving} of {count} instances of {service} serve"),
    }
}

fn apply(catalog: &mut Catalog, update: Update) {
    match update {
        Update::Snapshot(all) => catalog.replace(all.iter().map(item)),
        Update::Changes(changes, _) => {
            for change in changes {
                match change {
                    Change::Put(kv) => catalog.put(item(&kv)),
                    Change::Deleted(key) => catalog.delete(&key),
                }
            }
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
