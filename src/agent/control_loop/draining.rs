//! The control loop's part in a drain: which instances drain, the looks at HAProxy, and the keys that etcd is to have.

use super::ControlLoop;
use crate::agent::drain::drain_state::{DrainState, DrainTarget, DrainTargets};
use crate::agent::haproxy::api::HaproxyApi;
use crate::agent::model::backends::{Backends, DrainingInstance};
use crate::clock::{Moment, now};
use crate::endpoint::control::{AgentRecord, ControlPrefix, DrainWord, InstanceName};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::watch;
use tracing::debug;

/// The control keys that the agent is to have, with their values.
pub(crate) type ControlKeys = BTreeMap<String, String>;

/// How long an instance's old sessions are waited for after a younger container has overtaken its key. Its announcer
/// waits for `--drain`, and then ends.
const OVERTAKEN: Duration = Duration::from_secs(60);

/// The drains, and the control keys that follow from them.
#[derive(Debug)]
pub(crate) struct Draining {
    state: DrainState,
    last_look: Option<Moment>,
    control: ControlPrefix,
    /// The agent's id.
    id: String,
    /// The agent's record, and the backends' `listener_version` that it was made of.
    record: Option<(u64, String)>,
    keys: watch::Sender<ControlKeys>,
}

impl Draining {
    /// Nothing drains yet. `id` is the agent's own below `control`; its keys go to `keys`.
    pub(crate) fn new(
        control: ControlPrefix,
        id: String,
        keys: watch::Sender<ControlKeys>,
    ) -> Self {
        Self {
            state: DrainState::default(),
            last_look: None,
            control,
            id,
            record: None,
            keys,
        }
    }

    /// When the next look is due; `None` while nothing drains.
    pub(crate) fn next_look(&self, now: Moment) -> Option<Moment> {
        let pause = self.state.pause(now)?;
        Some(self.last_look.map_or(now, |at| at + pause))
    }

    /// When the state changes without an event.
    pub(crate) fn next_change(&self) -> Option<Moment> {
        self.state.next_change()
    }

    /// Follows what is to be served. A word that is no longer true is handed on to be taken back before HAProxy is told, which
    /// does not wait until etcd has it.
    fn follow(&mut self, backends: &Backends, now: Moment) {
        let targets = backends.draining().filter_map(target);
        let targets: DrainTargets = targets.collect();
        let overtaken = |name: &InstanceName, target: &DrainTarget| {
            let it = backends.instance(&name.service, &name.instance)?;
            let is_same =
                it.leaving || (&it.host, it.port) == (&target.word.host, target.word.port);
            (!is_same).then_some(now + OVERTAKEN)
        };
        self.state.follow(&targets, overtaken, now);
        let version = backends.listener_version();
        if self.record.as_ref().is_none_or(|(of, _)| *of != version) {
            let services = backends.services().iter();
            let serving = services.filter(|(_, backend)| backend.serves());
            let services = serving.map(|(name, _)| name.clone()).collect();
            self.record = Some((version, AgentRecord { services }.encode()));
        }
        self.publish();
    }

    /// Hands on the keys that etcd is to have.
    fn publish(&self) {
        let record = self.record.iter();
        let record = record.map(|(_, value)| (self.control.agent(&self.id), value.clone()));
        let words = self.state.words();
        let words = words.map(|(name, word)| (self.control.word(&self.id, name), word.encode()));
        let keys: ControlKeys = record.chain(words).collect();
        self.keys.send_if_modified(|old| {
            let changed = *old != keys;
            *old = keys;
            changed
        });
    }
}

fn target(it: DrainingInstance<'_>) -> Option<(InstanceName, DrainTarget)> {
    let name = InstanceName::new(it.service, it.name)?;
    let word = DrainWord {
        host: it.instance.host.clone(),
        port: it.instance.port,
        since: it.instance.since,
        alone: it.alone,
    };
    let address = it.address;
    Some((name, DrainTarget { word, address }))
}

impl<P: HaproxyApi> ControlLoop<P> {
    /// The instances that go on serving although they drain have not begun to: their time does not pass.
    pub(super) fn note_alone(&mut self, time: Moment) {
        let draining = self.desired.backends.draining();
        for it in draining.filter(|it| it.alone) {
            let membership = &mut self.desired.membership;
            membership.serves_alone(it.service, it.name, time);
        }
    }

    /// Follows the instances that drain; to be called before HAProxy is told.
    pub(super) fn follow_draining(&mut self, time: Moment) {
        self.draining.follow(&self.desired.backends, time);
    }

    /// Looks at HAProxy's sessions, if an instance drains and a look is due; ends those that are idle, and gives the word
    /// about what is drained.
    pub(crate) async fn look(&mut self, time: Moment) {
        let due = self.draining.next_look(time);
        if due.is_none_or(|due| due > time) || !self.schedule.has_begun(time) {
            return;
        }
        let began = now();
        let state = &mut self.draining.state;
        let look = self.reconciler.look(&state.subjects()).await;
        let took = now().saturating_sub(began);
        self.draining.last_look = Some(time + took);
        let look = match look {
            Ok(look) => look,
            Err(error) => {
                debug!("cannot look at HAProxy's sessions: {error}");
                return state.look_failed();
            }
        };
        let proxy = &self.reconciler.proxy;
        let (to_end, events) = state.look(&look, time, took, |it| proxy.last_speaker(it));
        for (pid, sessions) in to_end {
            // What fails is seen at the next look.
            if let Err(error) = proxy.end_sessions(pid, &sessions).await {
                debug!("cannot end idle sessions of worker {pid}: {error}");
            }
        }
        proxy.close_connection();
        self.event_log.words(&events, time);
        self.draining.publish();
    }
}
