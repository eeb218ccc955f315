//! The services and instances below the prefix in etcd. Pure.
//!
//! Keys and values are untrusted input. What is no valid endpoint is quarantined: counted, logged once, and
//! seen by no other module.

mod instance;
pub mod limits;
mod quarantine;

pub use instance::{Instance, Instances, Services};
pub use quarantine::{QuarantineReason, QuarantinedKey, RefusedInstance};

use crate::endpoint::{Endpoint, Key, Protocol};
use limits::over_limits;
use quarantine::printable;
use std::collections::BTreeMap;

/// A key and its value as they came from etcd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawKeyValue<'a> {
    /// Untrusted: any bytes.
    pub key: &'a [u8],
    /// Untrusted: any bytes.
    pub value: &'a [u8],
    /// The key's `create_revision`.
    pub create_revision: i64,
}

/// The valid instances, and the quarantine.
#[derive(Debug)]
pub struct Catalog {
    prefix: String,
    /// Whether instances over UDP and SCTP are valid.
    any_protocol: bool,
    /// All valid instances, within the limits or not.
    valid: Services,
    quarantine: BTreeMap<Vec<u8>, QuarantineReason>,
    /// Instances over the limits at the last call of `services`.
    over_limits: BTreeMap<(String, String), &'static str>,
    unreported: Vec<QuarantinedKey>,
}

impl Catalog {
    /// Empty; `prefix` has no slash at its end.
    #[must_use]
    pub fn new(prefix: String) -> Self {
        Self {
            prefix,
            any_protocol: false,
            valid: Services::new(),
            quarantine: BTreeMap::new(),
            over_limits: BTreeMap::new(),
            unreported: Vec::new(),
        }
    }

    /// The same for a reader that only shows what is registered: instances over UDP and SCTP are valid too.
    #[must_use]
    pub fn for_any_protocol(prefix: String) -> Self {
        let mut catalog = Self::new(prefix);
        catalog.any_protocol = true;
        catalog
    }

    /// Replaces everything: a key that is not among `items` is gone.
    pub fn replace<'a>(&mut self, items: impl Iterator<Item = RawKeyValue<'a>>) {
        self.valid.clear();
        let known = std::mem::take(&mut self.quarantine);
        for item in items {
            self.insert(item, &known);
        }
    }

    /// A key was put.
    pub fn put(&mut self, item: RawKeyValue<'_>) {
        let known = self.quarantine.remove_entry(item.key);
        self.insert(item, &known.into_iter().collect());
    }

    /// A key was deleted.
    pub fn delete(&mut self, key: &[u8]) {
        self.quarantine.remove(key);
        if let Ok((service, instance)) = self.parse_key(key) {
            remove(&mut self.valid, &service, &instance);
        }
    }

    /// How many keys are in quarantine.
    #[must_use]
    pub fn quarantined(&self) -> usize {
        self.quarantine.len() + self.over_limits.len()
    }

    /// The keys in quarantine, as text, and why.
    pub fn quarantine(&self) -> impl Iterator<Item = (String, String)> {
        let broken = self.quarantine.iter();
        let broken = broken.map(|(key, reason)| (printable(key), reason.to_string()));
        let surplus = self.over_limits.iter().map(|((service, instance), why)| {
            let key = format!("{}/{service}/{instance}", self.prefix);
            (key, QuarantineReason::Full(why).to_string())
        });
        broken.chain(surplus)
    }

    /// The keys quarantined since the last call. A key is reported again only when its reason changes, or
    /// after it was valid in between.
    pub fn take_quarantined(&mut self) -> Vec<QuarantinedKey> {
        std::mem::take(&mut self.unreported)
    }

    /// The keys of instances that were refused for their address.
    #[must_use]
    pub fn refused(&self, refused: Vec<RefusedInstance>) -> Vec<QuarantinedKey> {
        let junk = refused.into_iter().map(|it| QuarantinedKey {
            key: format!("{}/{}/{}", self.prefix, it.service, it.instance),
            reason: QuarantineReason::RefusedInstance(it.why),
        });
        junk.collect()
    }

    /// All valid instances within the limits.
    pub fn services(&mut self) -> Services {
        let over_limits = over_limits(&self.valid);
        let reported = std::mem::replace(&mut self.over_limits, over_limits);
        let mut within_limits = self.valid.clone();
        for (place, why) in &self.over_limits {
            remove(&mut within_limits, &place.0, &place.1);
            if reported.get(place) != Some(why) {
                let key = format!("{}/{}/{}", self.prefix, place.0, place.1);
                self.unreported.push(QuarantinedKey {
                    key,
                    reason: QuarantineReason::Full(why),
                });
            }
        }
        within_limits
    }

    fn parse_key(&self, key: &[u8]) -> Result<(String, String), QuarantineReason> {
        let text = std::str::from_utf8(key).map_err(|_| QuarantineReason::NotText)?;
        let rest = text
            .strip_prefix(&self.prefix)
            .and_then(|rest| rest.strip_prefix('/'));
        let depth = || QuarantineReason::Depth(self.prefix.clone());
        let (service, instance) = rest
            .and_then(|rest| rest.split_once('/'))
            .ok_or_else(depth)?;
        if instance.contains('/') {
            return Err(depth());
        }
        text.parse::<Key>().map_err(QuarantineReason::Key)?;
        Ok((service.to_owned(), instance.to_owned()))
    }

    fn insert(&mut self, item: RawKeyValue<'_>, known: &BTreeMap<Vec<u8>, QuarantineReason>) {
        let place = self.parse_key(item.key);
        let endpoint = self.endpoint(item.value);
        match place {
            Ok((service, name)) => match endpoint {
                Ok(endpoint) => {
                    let instance = Instance::new(endpoint, item.create_revision);
                    self.valid
                        .entry(service)
                        .or_default()
                        .insert(name, instance);
                }
                Err(reason) => {
                    remove(&mut self.valid, &service, &name);
                    self.refuse(item.key, reason, known);
                }
            },
            Err(reason) => self.refuse(item.key, reason, known),
        }
    }

    fn endpoint(&self, value: &[u8]) -> Result<Endpoint, QuarantineReason> {
        match Endpoint::decode(value).map_err(QuarantineReason::Value)? {
            it if it.protocol != Protocol::Tcp && !self.any_protocol => {
                Err(QuarantineReason::Protocol(it.protocol))
            }
            endpoint => Ok(endpoint),
        }
    }

    fn refuse(
        &mut self,
        key: &[u8],
        reason: QuarantineReason,
        known: &BTreeMap<Vec<u8>, QuarantineReason>,
    ) {
        if known.get(key) != Some(&reason) {
            self.unreported.push(QuarantinedKey {
                key: printable(key),
                reason: reason.clone(),
            });
        }
        self.quarantine.insert(key.to_vec(), reason);
    }
}

/// Removes an instance, and a service with its last one.
fn remove(services: &mut Services, service: &str, instance: &str) {
    if let Some(instances) = services.get_mut(service)
        && instances.remove(instance).is_some()
        && instances.is_empty()
    {
        services.remove(service);
    }
}

#[cfg(test)]
mod tests;
