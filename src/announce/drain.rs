//! Draining: what operators wish, and a shutdown that waits until the agents have let go of the instances.

pub mod desired;
pub mod overlay;
pub mod progress;
pub mod shutdown_drain;
pub mod wishes;

use super::lease::protocol::{DesiredKeys, KeyStatuses};
use crate::clock::now;
use crate::endpoint::control::ControlPrefix;
use crate::etcd::EtcdError;
use crate::etcd::members::Members;
use crate::etcd::reader::{self, Change, Update};
use crate::shutdown::Shutdown;
use crate::systemd::Pulse;
use etcd_client::GetOptions;
use progress::AgentViews;
use shutdown_drain::{CONFIRM_DEADLINE, DrainEnd, DrainStep, ShutdownDrain};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tracing::{info, warn};

/// The capacity of the channel of what the agents say; more waits in etcd.
const UPDATES_WAITING: usize = 64;

/// Between two tries to read what the agents say.
const READ_PAUSE: Duration = Duration::from_millis(200);

/// The longest wait: timers stand still while the machine is suspended.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// The agents and their words in etcd, as they change.
pub struct AgentReader {
    /// The members of the etcd cluster.
    pub members: Arc<Members>,
    /// Where the agents' keys stand.
    pub control: ControlPrefix,
}

impl AgentReader {
    /// Sends to `updates` for ever, unless etcd refuses at the beginning; then that is the result.
    pub async fn run(&self, updates: mpsc::Sender<Update>) -> EtcdError {
        let agents = self.control.agents();
        loop {
            let ask = |client: etcd_client::Client| {
                let options = GetOptions::new().with_prefix().with_count_only();
                let below = format!("{agents}/");
                async move { client.kv_client().get(below, Some(options)).await }
            };
            match self.members.call(ask).await {
                Ok(_) => {
                    let (members, agents) = (self.members.clone(), agents.clone());
                    reader::read(members, agents, updates.clone(), Pulse::default()).await;
                }
                Err(error @ EtcdError::Refused(_)) => return error,
                Err(_) => {}
            }
            sleep(READ_PAUSE).await;
        }
    }

    /// Brings `views` up to date.
    pub fn apply(&self, views: &mut AgentViews, update: Update) {
        let changes = match update {
            Update::Snapshot(all) => {
                *views = AgentViews::default();
                all.into_iter().map(Change::Put).collect()
            }
            Update::Changes(changes, _) => changes,
        };
        for change in changes {
            match change {
                Change::Put(kv) => views.put(&self.control, kv.key(), kv.value()),
                Change::Deleted(key) => views.delete(&self.control, &key),
            }
        }
    }
}

/// What the drain at a shutdown goes by.
pub struct DrainInputs {
    /// The agents and their words.
    pub reader: AgentReader,
    /// The desired keys.
    pub desired: watch::Receiver<DesiredKeys>,
    /// The status of each key.
    pub statuses: watch::Receiver<KeyStatuses>,
    /// How long readers of the further keys may take to let go, from when those are gone; zero: there are none.
    pub linger: Duration,
    /// A second signal ends the drain.
    pub shutdown: Shutdown,
}

/// Waits until no stop of a container is under way, `longest` at most, or until a signal cuts it short: the next process
/// would not know of it, and announce an instance as serving that is about to die.
pub async fn until_no_stop(
    mut stops: watch::Receiver<usize>,
    mut shutdown: Shutdown,
    longest: Duration,
) {
    let count = *stops.borrow_and_update();
    if count == 0 || longest.is_zero() {
        return;
    }
    let seconds = longest.as_secs_f32();
    info!(
        "{count} keys drain because their containers are being stopped: handing over when they are down, in {seconds} s at most"
    );
    // Cancel-safe: nothing is lost with any of them, for all three end the wait.
    tokio::select! {
        _ = stops.wait_for(|stops| *stops == 0) => {}
        () = shutdown.cut_short() => {}
        () = sleep(longest) => {}
    }
}

/// Waits until the drain has ended, `longest` at most.
pub async fn until_over(mut drain: ShutdownDrain, inputs: DrainInputs, longest: Duration) {
    let DrainInputs {
        reader,
        mut desired,
        mut statuses,
        linger,
        mut shutdown,
    } = inputs;
    let (updates_tx, mut updates) = mpsc::channel(UPDATES_WAITING);
    let mut views = AgentViews::default();
    let mut reading = std::pin::pin!(reader.run(updates_tx));
    let mut denied = false;
    let began = now();
    let count = drain.leaving().len();
    // The further keys go with the put of the draining value.
    let mut confirmed_at = None;
    let end = loop {
        drain.set_desired(&desired.borrow_and_update());
        drain.set_statuses(&statuses.borrow_and_update());
        if drain.is_confirmed() {
            confirmed_at.get_or_insert(now());
        }
        let lingers_until = (confirmed_at.unwrap_or(began) + linger).min(began + longest);
        let until = match drain.poll(now()) {
            DrainStep::Over(DrainEnd::Drained) if now() < lingers_until => lingers_until,
            DrainStep::Over(end) => break end,
            DrainStep::Wait(until) => until,
        };
        let pause = until.saturating_sub(now()).min(LONGEST_WAIT);
        // Cancel-safe: channels keep what isn't received, the reader is polled by reference, a sleep has no effect.
        tokio::select! {
            error = &mut reading, if !denied => {
                denied = true;
                let (control, seconds) = (&reader.control, longest.as_secs_f32());
                warn!("cannot read {control}: {error}; draining for the full {seconds} s");
            }
            Some(update) = updates.recv(), if !denied => {
                reader.apply(&mut views, update);
                drain.set_agents(&views);
            }
            Ok(()) = desired.changed() => {}
            Ok(()) = statuses.changed() => {}
            () = shutdown.cut_short() => return,
            () = sleep(pause) => {}
        }
    };
    log_end(&end, count, now().saturating_sub(began), denied);
}

/// Says why the drain ended; nothing, where nothing was announced.
fn log_end(end: &DrainEnd, count: usize, took: Duration, denied: bool) {
    let seconds = took.as_secs_f32();
    match end {
        DrainEnd::NothingToDrain if count == 0 => {}
        DrainEnd::NothingToDrain => info!("no longer draining: no container is up"),
        DrainEnd::Drained => {
            info!("drained in {seconds:.1} s: each agent has given its word");
        }
        DrainEnd::Unconfirmed => {
            let deadline = took.min(CONFIRM_DEADLINE).as_secs_f32();
            warn!("not draining: etcd did not confirm the draining values within {deadline:.1} s");
        }
        // The reason was logged.
        DrainEnd::TimeIsUp { .. } if denied => {}
        DrainEnd::TimeIsUp { silent, unserved } => {
            let names = |names: &BTreeSet<String>| {
                let names: Vec<_> = names.iter().map(String::as_str).collect();
                names.join(", ")
            };
            if !silent.is_empty() {
                let agents = names(silent);
                warn!("not drained within {seconds:.1} s: no word from the agents {agents}");
            }
            if !unserved.is_empty() {
                let services = names(unserved);
                info!("drained for {seconds:.1} s: no agent is known that serves {services}");
            }
        }
    }
}
