//! The control keys: an operator's wish that an instance drains, the agents that live, and their word that an
//! instance is drained. Pure.
//!
//! ```text
//! /sidekick/services/drain/redis/redis@1            {"reason":"new disk","since":"2026-11-23T05:06:06Z"}
//! /sidekick/services/agents/worker-1                {"services":["redis","web"]}
//! /sidekick/services/agents/worker-1/redis/redis@1  {"host":"10.0.0.7","port":6379,"since":"2026-…Z","alone":true}
//! ```
//!
//! They stand below `/sidekick<prefix>`, so that no reader of `<prefix>` ever meets one. Like every value in etcd
//! they are untrusted input.

use super::{Endpoint, Host, Key, MAX_VALUE, Since, check_part};
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroU16;
use std::sync::Arc;

/// The longest reason of a wish, in characters; what is longer is cut.
pub const MAX_REASON: usize = 200;

/// The most services that an agent's record is read for; further ones are left out.
pub const MAX_RECORDED: usize = 1_000;

/// The prefix of the control keys, such as `/sidekick/services`; no slash at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlPrefix(Arc<str>);

/// What a control key is about. The names obey [`check_part`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ControlKey {
    /// `drain/<service>/<instance>`: the operator wishes that this instance drains; the value is a [`DrainWish`].
    Wish(InstanceName),
    /// `agents/<id>`: an agent that lives; the value is an [`AgentRecord`].
    Agent(String),
    /// `agents/<id>/<service>/<instance>`: the agent's word that the instance is drained; the value is a
    /// [`DrainWord`].
    Word(String, InstanceName),
}

/// An instance of a service, by its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct InstanceName {
    /// `redis` of `/services/redis/redis@1`.
    pub service: String,
    /// `redis@1` of `/services/redis/redis@1`.
    pub instance: String,
}

impl InstanceName {
    /// `None` where one of the two is no part of a key.
    #[must_use]
    pub fn new(service: &str, instance: &str) -> Option<Self> {
        (check_part(service).is_ok() && check_part(instance).is_ok()).then(|| Self {
            service: service.to_owned(),
            instance: instance.to_owned(),
        })
    }

    /// From `SERVICE/INSTANCE`, as the commands take it; `None` where it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (service, instance) = text.split_once('/')?;
        Self::new(service, instance)
    }
}

impl From<&Key> for InstanceName {
    fn from(key: &Key) -> Self {
        Self {
            service: key.service().to_owned(),
            instance: key.instance().to_owned(),
        }
    }
}

/// `redis/redis@1`.
impl fmt::Display for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.service, self.instance)
    }
}

impl ControlPrefix {
    /// The prefix of the control keys that belong to the keys below `prefix`, which has no slash at its end.
    #[must_use]
    pub fn of(prefix: &str) -> Self {
        Self(format!("/sidekick{prefix}").into())
    }

    /// This prefix itself, without a slash at its end; the caller has checked its parts.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        Self(prefix.into())
    }

    /// What all wishes stand below; no slash at its end.
    #[must_use]
    pub fn wishes(&self) -> String {
        format!("{}/drain", self.0)
    }

    /// What all agents and their words stand below; no slash at its end.
    #[must_use]
    pub fn agents(&self) -> String {
        format!("{}/agents", self.0)
    }

    /// The key of the wish for an instance.
    #[must_use]
    pub fn wish(&self, name: &InstanceName) -> String {
        format!("{}/drain/{name}", self.0)
    }

    /// The key of an agent. `id` obeys [`check_part`], and stays the same for one file on one machine.
    #[must_use]
    pub fn agent(&self, id: &str) -> String {
        format!("{}/agents/{id}", self.0)
    }

    /// The key of an agent's word about an instance.
    #[must_use]
    pub fn word(&self, id: &str, name: &InstanceName) -> String {
        format!("{}/agents/{id}/{name}", self.0)
    }

    /// What a key is about; `None` where it is no control key below this prefix.
    #[must_use]
    pub fn parse(&self, key: &[u8]) -> Option<ControlKey> {
        let rest = std::str::from_utf8(key).ok()?.strip_prefix(&*self.0)?;
        let mut parts = rest.strip_prefix('/')?.split('/');
        let kind = parts.next()?;
        let parts: Vec<_> = parts.collect();
        match (kind, &parts[..]) {
            ("drain", [service, instance]) => {
                InstanceName::new(service, instance).map(ControlKey::Wish)
            }
            ("agents", [id]) if check_part(id).is_ok() => Some(ControlKey::Agent((*id).to_owned())),
            ("agents", [id, service, instance]) if check_part(id).is_ok() => {
                let name = InstanceName::new(service, instance)?;
                Some(ControlKey::Word((*id).to_owned(), name))
            }
            _ => None,
        }
    }
}

impl fmt::Display for ControlPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An operator's wish that an instance drains: permanent, or on a lease of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DrainWish {
    /// The operator's words; printable, [`MAX_REASON`] characters at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When the wish was written, by the clock of the operator's machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Since>,
}

impl DrainWish {
    /// With these words, of which control characters are left out.
    #[must_use]
    pub fn new(reason: Option<&str>, since: Option<Since>) -> Self {
        Self {
            reason: reason.map(printable).filter(|words| !words.is_empty()),
            since,
        }
    }

    /// The value as it stands in etcd.
    #[must_use]
    pub fn encode(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads a value. Whatever stands at the key is a wish, also what an operator put there by hand: what can't be
    /// read is a wish without words.
    #[must_use]
    pub fn decode(value: &[u8]) -> Self {
        let fields = object(value).unwrap_or_default();
        let text = |name: &str| fields.get(name).and_then(Value::as_str);
        Self::new(text("reason"), text("since").and_then(Since::parse))
    }
}

/// ` (new disk)`, or nothing.
impl fmt::Display for DrainWish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reason {
            Some(reason) => write!(f, " ({reason})"),
            None => Ok(()),
        }
    }
}

/// An agent that lives. The key hangs on the agent's lease, and is written when the services change that it serves:
/// a service is added when it is to be served (etcd may have that some ms after its listener takes connections), and taken out
/// once it has none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct AgentRecord {
    /// The services that the agent's HAProxy serves. Their names obey [`check_part`].
    pub services: BTreeSet<String>,
}

impl AgentRecord {
    /// The value as it stands in etcd.
    #[must_use]
    pub fn encode(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads a value; names that are no part of a key are left out. `None` where it is no record.
    #[must_use]
    pub fn decode(value: &[u8]) -> Option<Self> {
        let fields = object(value)?;
        let names = fields.get("services")?.as_array()?.iter();
        let names = names.filter_map(Value::as_str);
        let names = names.filter(|name| check_part(name).is_ok());
        let services = names.take(MAX_RECORDED).map(str::to_owned).collect();
        Some(Self { services })
    }
}

/// An agent's word: no worker of its HAProxy gives this address a new connection, or has a session with it.
///
/// It hangs on the agent's lease. It is deleted where it is no longer true, and when the instance's key goes. HAProxy does
/// not wait for that: the word may stand for some ms after the server takes connections again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DrainWord {
    /// The address that was drained: sessions are counted by address, not by name.
    pub host: Host,
    /// 1 to 65535, on `host`.
    pub port: NonZeroU16,
    /// The life of the container, as the instance's value has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Since>,
    /// The instance is the last one of its service that is up: the agent does not drain it, and the announcer need
    /// not wait for it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub alone: bool,
}

impl DrainWord {
    /// About the instance that has this value.
    #[must_use]
    pub fn about(endpoint: &Endpoint, alone: bool) -> Self {
        Self {
            host: endpoint.host.clone(),
            port: endpoint.port,
            since: endpoint.since,
            alone,
        }
    }

    /// Whether the word is about this address and this life of the container. A word that names no life is about
    /// every one at that address.
    #[must_use]
    pub fn is_about(&self, endpoint: &Endpoint) -> bool {
        self.host == endpoint.host
            && self.port == endpoint.port
            && (self.since.is_none() || self.since == endpoint.since)
    }

    /// The value as it stands in etcd.
    #[must_use]
    pub fn encode(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads a value; `None` where it is no word.
    #[must_use]
    pub fn decode(value: &[u8]) -> Option<Self> {
        let alone = object(value)?.get("alone") == Some(&Value::Bool(true));
        Some(Self::about(&Endpoint::decode(value).ok()?, alone))
    }
}

fn object(value: &[u8]) -> Option<Map<String, Value>> {
    if value.len() > MAX_VALUE {
        return None;
    }
    match serde_json::from_slice(value) {
        Ok(Value::Object(fields)) => Some(fields),
        _ => None,
    }
}

fn printable(words: &str) -> String {
    let kept = words.chars().filter(|c| !c.is_control());
    kept.take(MAX_REASON).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests;
