//! The contract in etcd: what a key and a value look like, and their limits. Pure.
//!
//! Everything that comes out of etcd is untrusted input; everything that goes in passes the same
//! checks first, so that sidekick never writes what its own agent would refuse.

pub mod control;
mod host;
mod key;
mod protocol;
mod since;
mod status;

pub use host::{Host, HostError};
pub use key::{Key, KeyError, MAX_KEY, MAX_PART, check_part};
pub use protocol::Protocol;
pub use since::Since;
pub use status::Status;

use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;

/// The longest value that is decoded, in bytes. etcd takes 1.5 MiB; no honest value comes near.
pub const MAX_VALUE: usize = 64 * 1024;

/// The value at a key: where the instance is, and which container it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Where to dial.
    pub host: Host,
    /// 1–65535, on `host`.
    pub port: NonZeroU16,
    /// What is spoken there. A value without `protocol` means TCP, and so does one that names no [`Protocol`].
    pub protocol: Protocol,
    /// The container's id: the first 12 hex digits. Absent in values that sidekick didn't write.
    pub container: Option<String>,
    /// When the container started. Absent in values that sidekick didn't write.
    pub since: Option<Since>,
    /// Absent: serving.
    pub status: Option<Status>,
    /// The operator's own words about it.
    pub meta: BTreeMap<String, String>,
}

/// Why a value is no [`Endpoint`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Longer than [`MAX_VALUE`].
    #[error("the value has {0} bytes, more than {MAX_VALUE}")]
    TooLong(usize),
    /// Not JSON, or JSON that is no object.
    #[error("the value is no JSON object")]
    NotAnObject,
    /// `host` is missing or no string.
    #[error("the value has no \"host\" string")]
    NoHost,
    /// `host` is nothing one can dial.
    #[error("the value's host {0}")]
    BadHost(#[source] HostError),
    /// `port` is missing, no whole number, or out of range.
    #[error("the value has no \"port\" number from 1 to 65535")]
    BadPort,
}

/// The wire form: the order of the fields is the order in the value.
#[derive(Serialize)]
struct Wire<'a> {
    host: String,
    port: u16,
    #[serde(skip_serializing_if = "Protocol::is_tcp")]
    protocol: Protocol,
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    meta: &'a BTreeMap<String, String>,
}

impl Endpoint {
    /// The same instance, which takes no new connections: its value gets `"status":"draining"`.
    #[must_use]
    pub fn draining(&self) -> Self {
        Self {
            status: Some(Status::Draining),
            ..self.clone()
        }
    }

    /// Whether the instance takes no new connections.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.status == Some(Status::Draining)
    }

    /// The value as it stands in etcd: one JSON object, `host` and `port` first.
    #[must_use]
    pub fn encode(&self) -> String {
        let wire = Wire {
            host: self.host.to_string(),
            port: self.port.get(),
            protocol: self.protocol,
            container: self.container.as_deref(),
            since: self.since.map(|s| s.to_string()),
            status: self.status,
            meta: &self.meta,
        };
        // Strings, numbers and a map of strings: serde_json has no way to fail on these.
        serde_json::to_string(&wire).unwrap_or_default()
    }

    /// Reads a value. Fields that it doesn't know are ignored, and so are optional fields of a
    /// wrong type: a reader needs only `host` and `port`.
    ///
    /// # Errors
    /// Why it can't be dialled.
    pub fn decode(value: &[u8]) -> Result<Self, ValueError> {
        if value.len() > MAX_VALUE {
            return Err(ValueError::TooLong(value.len()));
        }
        let Ok(Value::Object(fields)) = serde_json::from_slice(value) else {
            return Err(ValueError::NotAnObject);
        };
        let text = |name: &str| fields.get(name).and_then(Value::as_str);
        let host = text("host").ok_or(ValueError::NoHost)?;
        let host = host.parse().map_err(ValueError::BadHost)?;
        let port = fields
            .get("port")
            .and_then(Value::as_u64)
            .and_then(|p| u16::try_from(p).ok())
            .and_then(NonZeroU16::new)
            .ok_or(ValueError::BadPort)?;
        let container = text("container")
            .filter(|id| (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_hexdigit()))
            .map(str::to_owned);
        let meta = match fields.get("meta") {
            Some(Value::Object(meta)) => meta
                .iter()
                .filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned())))
                .collect(),
            _ => BTreeMap::new(),
        };
        Ok(Self {
            host,
            port,
            protocol: text("protocol")
                .and_then(Protocol::named)
                .unwrap_or_default(),
            container,
            since: text("since").and_then(Since::parse),
            status: (text("status") == Some("draining")).then_some(Status::Draining),
            meta,
        })
    }
}

/// `host:port`, with an IPv6 address in brackets.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(IpAddr::V6(v6)) => write!(f, "[{v6}]:{}", self.port),
            host => write!(f, "{host}:{}", self.port),
        }
    }
}

#[cfg(test)]
mod tests;
