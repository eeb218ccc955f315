//! `sidekick drain` and `undrain`: write and delete the operator's wish that an instance drains. The instance's
//! announcer obeys it.

mod config;

pub use config::{DrainArgs, DrainConfig, InstanceConfig, UndrainArgs};

use crate::announce::drain::AgentReader;
use crate::announce::drain::progress::{AgentViews, DrainProgress};
use crate::clock::now;
use crate::endpoint::control::DrainWish;
use crate::endpoint::{Endpoint, Since};
use crate::etcd::members::Members;
use crate::etcd::reader::{self, Change, Update};
use crate::log_writer::say;
use crate::shutdown::Shutdown;
use crate::systemd::Pulse;
use etcd_client::{Client, PutOptions};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;
use tokio::time::sleep;

/// The most updates that wait.
const UPDATES_WAITING: usize = 16;

/// Writes the wish and, with `--wait`, waits until the instance is drained. Returns whether it did what was asked
/// for: `false` where the instance isn't drained in time, or a signal came first.
///
/// # Errors
/// etcd doesn't answer, or refuses.
pub async fn run(config: &DrainConfig, shutdown: Shutdown) -> anyhow::Result<bool> {
    let members = Arc::new(Members::new(&config.instance.etcd)?);
    let InstanceConfig { name, key, .. } = &config.instance;
    write(config, &members).await?;
    let ask = async || {
        let get = |mut client: Client| async move { client.get(key.as_str(), None).await };
        members.call(get).await
    };
    let is_there = !members.try_each(ask).await?.kvs().is_empty();
    let prefix = &config.instance.prefix;
    if !is_there {
        say(format_args!(
            "{name} is not registered below {prefix}; the wish stands, and holds when it is"
        ));
    }
    let Some(timeout) = config.wait else {
        return Ok(true);
    };
    let mut drain = AwaitedDrain {
        config: &config.instance,
        seen: is_there,
        known: false,
        progress: None,
        draining: false,
        views: AgentViews::default(),
    };
    let Some(words) = drain.until(members, timeout, shutdown).await? else {
        say(format_args!(
            "{name} is not drained: {}; the wish stands until `sidekick undrain {name}`",
            drain.missing()
        ));
        return Ok(false);
    };
    say(format_args!("{name} {words}"));
    Ok(true)
}

/// Deletes the wish; also where no instance of that name is registered.
///
/// # Errors
/// etcd doesn't answer, or refuses.
pub async fn undo(config: &InstanceConfig) -> anyhow::Result<()> {
    let members = Members::new(&config.etcd)?;
    let wish = config.control.wish(&config.name);
    let delete = async || {
        let request = |mut client: Client| {
            let wish = wish.clone();
            async move { client.delete(wish, None).await }
        };
        members.call(request).await
    };
    if members.try_to_write(delete).await?.deleted() == 0 {
        say(format_args!(
            "there was no wish that {} drains",
            config.name
        ));
    }
    Ok(())
}

async fn write(config: &DrainConfig, members: &Members) -> anyhow::Result<()> {
    let key = config.instance.control.wish(&config.instance.name);
    let value = DrainWish::new(config.reason.as_deref(), wall_clock()).encode();
    let seconds = config
        .lasts
        .map(|lasts| i64::try_from(lasts.as_secs()).unwrap_or(i64::MAX));
    let put = async || {
        let request = |mut client: Client| {
            let (key, value) = (key.clone(), value.clone());
            async move {
                let lease = match seconds {
                    Some(seconds) => client.lease_grant(seconds, None).await?.id(),
                    None => 0,
                };
                let options = PutOptions::new().with_lease(lease);
                client.put(key, value, Some(options)).await
            }
        };
        members.call(request).await
    };
    members.try_to_write(put).await?;
    Ok(())
}

fn wall_clock() -> Option<Since> {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    Since::from_unix_nanos(i128::try_from(since_1970.as_nanos()).ok()?)
}

/// An instance whose drain is waited for.
struct AwaitedDrain<'a> {
    config: &'a InstanceConfig,
    /// The instance was registered at some time.
    seen: bool,
    /// The service was read.
    known: bool,
    /// `None` while the instance isn't registered.
    progress: Option<DrainProgress>,
    /// The value says so.
    draining: bool,
    views: AgentViews,
}

impl AwaitedDrain<'_> {
    /// Returns what became of the instance; `None` where it isn't drained within `timeout`.
    async fn until(
        &mut self,
        members: Arc<Members>,
        timeout: Duration,
        mut shutdown: Shutdown,
    ) -> anyhow::Result<Option<&'static str>> {
        let ends = now() + timeout;
        let (keys_tx, mut keys) = mpsc::channel(UPDATES_WAITING);
        let (agents_tx, mut agents) = mpsc::channel(UPDATES_WAITING);
        let service = format!("{}/{}", self.config.prefix, self.config.name.service);
        let reading = reader::read(members.clone(), service, keys_tx, Pulse::default());
        let control = self.config.control.clone();
        let agent_reader = AgentReader { members, control };
        let mut reading = std::pin::pin!(reading);
        let mut asking = std::pin::pin!(agent_reader.run(agents_tx));
        loop {
            if let Some(words) = self.outcome() {
                return Ok(Some(words));
            }
            let left = ends.saturating_sub(now());
            if left.is_zero() {
                return Ok(None);
            }
            // Cancel-safe: channels keep what isn't received, readers are polled by reference, a sleep has no effect.
            tokio::select! {
                () = &mut reading => return Ok(None),
                error = &mut asking => anyhow::bail!("cannot read {}: {error}", self.config.control),
                Some(update) = keys.recv() => self.hear(update),
                Some(update) = agents.recv() => {
                    agent_reader.apply(&mut self.views, update);
                    self.update();
                }
                () = shutdown.requested() => return Ok(None),
                () = sleep(left) => {}
            }
        }
    }

    fn hear(&mut self, update: Update) {
        let changes = match update {
            Update::Snapshot(all) => {
                self.known = true;
                self.progress = None;
                all.into_iter().map(Change::Put).collect()
            }
            Update::Changes(changes, _) => changes,
        };
        let key = self.config.key.as_str().as_bytes();
        for change in changes {
            match change {
                Change::Put(kv) if kv.key() == key => self.put(kv.value()),
                Change::Deleted(deleted) if deleted == key => self.progress = None,
                Change::Put(_) | Change::Deleted(_) => {}
            }
        }
        self.update();
    }

    fn put(&mut self, value: &[u8]) {
        let Ok(endpoint) = Endpoint::decode(value) else {
            self.progress = None;
            return;
        };
        self.seen = true;
        self.draining = endpoint.is_draining();
        let draining = Arc::new(endpoint.draining());
        let is_same = |progress: &DrainProgress| *progress.endpoint() == draining;
        if !self.progress.as_ref().is_some_and(is_same) {
            let name = self.config.name.clone();
            self.progress = Some(DrainProgress::new(name, draining));
        }
    }

    fn update(&mut self) {
        if let Some(progress) = &mut self.progress {
            progress.update(&self.views);
        }
    }

    fn outcome(&self) -> Option<&'static str> {
        match &self.progress {
            None => (self.known && self.seen).then_some("is no longer registered"),
            Some(progress) if self.draining && progress.is_drained() => {
                Some(match progress.is_alone() {
                    true => "is the last instance of its service, and goes on being served",
                    false => "is drained",
                })
            }
            Some(_) => None,
        }
    }

    /// What is missing.
    fn missing(&self) -> String {
        match &self.progress {
            None => "it is not registered".to_owned(),
            Some(_) if !self.draining => {
                "its announcer has not obeyed; is it up, and was it started with --drain?"
                    .to_owned()
            }
            Some(progress) if progress.agents() == 0 => {
                format!("no agent is known that serves {}", self.config.name.service)
            }
            Some(progress) => {
                let silent: Vec<_> = progress.silent().collect();
                format!("no word from the agents {}", silent.join(", "))
            }
        }
    }
}
