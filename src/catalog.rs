//! What stands below the prefix in etcd, sorted into services and instances. Pure.
//!
//! Everything in here is untrusted input. What is no endpoint is quarantined: counted, told once,
//! and never seen again by any other room.

mod instance;
pub mod limits;
mod quarantine;

pub use instance::{Instance, Instances, Services};
pub use quarantine::{Fault, Junk, Refused};

use crate::endpoint::{Endpoint, Key, Protocol};
use limits::surplus;
use quarantine::printable;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A key and its value as they came out of etcd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item<'a> {
    /// Any bytes.
    pub key: &'a [u8],
    /// Any bytes.
    pub value: &'a [u8],
    /// When the key came to be.
    pub create_revision: i64,
}

/// The table.
#[derive(Debug)]
pub struct Table {
    prefix: String,
    /// Whatever an instance speaks is good.
    any_protocol: bool,
    /// Everything that is good, whether there is room for it or not.
    good: Services,
    /// What there is room for, if not for everything.
    fitting: Services,
    quarantine: BTreeMap<Vec<u8>, Fault>,
    /// Those that there was no room for when last looked.
    surplus: BTreeMap<(String, String), &'static str>,
    untold: Vec<Junk>,
}

impl Table {
    /// Nothing known below `prefix` (no slash at its end).
    #[must_use]
    pub const fn new(prefix: String) -> Self {
        Self {
            prefix,
            any_protocol: false,
            good: BTreeMap::new(),
            fitting: BTreeMap::new(),
            quarantine: BTreeMap::new(),
            surplus: BTreeMap::new(),
            untold: Vec::new(),
        }
    }

    /// The same for a reader that only shows what is registered: instances over UDP and SCTP are good too.
    #[must_use]
    pub const fn of_any_protocol(prefix: String) -> Self {
        let mut table = Self::new(prefix);
        table.any_protocol = true;
        table
    }

    /// Everything that stands there now. What isn't among `items` is gone.
    pub fn replace<'a>(&mut self, items: impl Iterator<Item = Item<'a>>) {
        let before = std::mem::take(&mut self.good);
        let known = std::mem::take(&mut self.quarantine);
        for item in items {
            self.file(item, &known);
        }
        keep_pointers(&mut self.good, &before);
    }

    /// A key was put.
    pub fn put(&mut self, item: Item<'_>) {
        let known = self.quarantine.remove_entry(item.key);
        self.file(item, &known.into_iter().collect());
    }

    /// A key was deleted.
    pub fn delete(&mut self, key: &[u8]) {
        self.quarantine.remove(key);
        if let Ok((service, instance)) = self.place(key) {
            remove(&mut self.good, &service, &instance);
        }
    }

    /// How many keys are in quarantine.
    #[must_use]
    pub fn quarantined(&self) -> usize {
        self.quarantine.len() + self.surplus.len()
    }

    /// What went into quarantine since this was last asked. A key is told again only when what is
    /// wrong with it has changed, or when it was well in between.
    pub fn take_junk(&mut self) -> Vec<Junk> {
        std::mem::take(&mut self.untold)
    }

    /// Instances that were refused for their address, by their keys.
    #[must_use]
    pub fn refused(&self, refused: Vec<Refused>) -> Vec<Junk> {
        let junk = refused.into_iter().map(|it| Junk {
            key: format!("{}/{}/{}", self.prefix, it.service, it.instance),
            fault: Fault::Refused(it.why),
        });
        junk.collect()
    }

    /// Everything that is good, within the limits.
    pub fn services(&mut self) -> &Services {
        let surplus = surplus(&self.good);
        let told = std::mem::replace(&mut self.surplus, surplus);
        if self.surplus.is_empty() {
            self.fitting.clear();
            return &self.good;
        }
        let mut fitting = self.good.clone();
        for (place, why) in &self.surplus {
            remove(&mut fitting, &place.0, &place.1);
            if told.get(place) != Some(why) {
                let key = format!("{}/{}/{}", self.prefix, place.0, place.1);
                self.untold.push(Junk {
                    key,
                    fault: Fault::Full(why),
                });
            }
        }
        keep_pointers(&mut fitting, &self.fitting);
        self.fitting = fitting;
        &self.fitting
    }

    fn place(&self, key: &[u8]) -> Result<(String, String), Fault> {
        let text = std::str::from_utf8(key).map_err(|_| Fault::NotText)?;
        let rest = text
            .strip_prefix(&self.prefix)
            .and_then(|rest| rest.strip_prefix('/'));
        let depth = || Fault::Depth(self.prefix.clone());
        let (service, instance) = rest
            .and_then(|rest| rest.split_once('/'))
            .ok_or_else(depth)?;
        if instance.contains('/') {
            return Err(depth());
        }
        text.parse::<Key>().map_err(Fault::Key)?;
        Ok((service.to_owned(), instance.to_owned()))
    }

    fn file(&mut self, item: Item<'_>, known: &BTreeMap<Vec<u8>, Fault>) {
        let place = self.place(item.key);
        let endpoint = self.endpoint(item.value);
        match place {
            Ok((service, name)) => match endpoint {
                Ok(endpoint) => {
                    let instance = Instance::new(endpoint, item.create_revision);
                    let instances = self.good.entry(service).or_default();
                    // A key that is put again as it was is no change.
                    if instances.get(&name) != Some(&instance) {
                        Arc::make_mut(instances).insert(name, instance);
                    }
                }
                Err(fault) => {
                    remove(&mut self.good, &service, &name);
                    self.refuse(item.key, fault, known);
                }
            },
            Err(fault) => self.refuse(item.key, fault, known),
        }
    }

    fn endpoint(&self, value: &[u8]) -> Result<Endpoint, Fault> {
        match Endpoint::decode(value).map_err(Fault::Value)? {
            it if it.protocol != Protocol::Tcp && !self.any_protocol => {
                Err(Fault::Protocol(it.protocol))
            }
            endpoint => Ok(endpoint),
        }
    }

    fn refuse(&mut self, key: &[u8], fault: Fault, known: &BTreeMap<Vec<u8>, Fault>) {
        if known.get(key) != Some(&fault) {
            self.untold.push(Junk {
                key: printable(key),
                fault: fault.clone(),
            });
        }
        self.quarantine.insert(key.to_vec(), fault);
    }
}

/// A service without any instance is none.
fn remove(services: &mut Services, service: &str, instance: &str) {
    if let Some(instances) = services.get_mut(service)
        && instances.contains_key(instance)
    {
        if instances.len() == 1 {
            services.remove(service);
        } else {
            Arc::make_mut(instances).remove(instance);
        }
    }
}

/// What is as it was is the same.
fn keep_pointers(now: &mut Services, before: &Services) {
    for (service, instances) in now {
        if let Some(before) = before.get(service)
            && before == instances
        {
            *instances = before.clone();
        }
    }
}

#[cfg(test)]
mod tests;
