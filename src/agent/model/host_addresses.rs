//! Host names and their addresses, and the addresses of this machine. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// Host names and their addresses, and those of this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostAddresses {
    by_name: BTreeMap<String, IpAddr>,
    /// Of this machine, without loopback.
    pub(crate) own: Arc<BTreeSet<IpAddr>>,
    /// Counts the changes of names and addresses.
    pub(crate) version: u64,
}

impl HostAddresses {
    /// The address of that host, if it is known.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<IpAddr> {
        self.by_name.get(name).copied()
    }

    /// The addresses of this machine, without loopback.
    #[must_use]
    pub const fn own(&self) -> &Arc<BTreeSet<IpAddr>> {
        &self.own
    }

    /// Sets the addresses of this machine. Returns whether they changed.
    pub fn set_own(&mut self, own: BTreeSet<IpAddr>) -> bool {
        let different = *self.own != own;
        if different {
            self.own = Arc::new(own);
        }
        different
    }

    /// How many host names have an address.
    #[must_use]
    pub fn count(&self) -> usize {
        self.by_name.len()
    }

    /// Removes all other names.
    pub fn retain(&mut self, is_wanted: impl Fn(&String) -> bool) {
        let before = self.by_name.len();
        self.by_name.retain(|name, _| is_wanted(name));
        self.version += u64::from(self.by_name.len() < before);
    }

    /// Sets the address of a host name.
    pub fn insert(&mut self, name: String, address: IpAddr) {
        if self.by_name.insert(name, address) != Some(address) {
            self.version += 1;
        }
    }
}

impl FromIterator<(String, IpAddr)> for HostAddresses {
    fn from_iter<T: IntoIterator<Item = (String, IpAddr)>>(addresses: T) -> Self {
        Self {
            by_name: addresses.into_iter().collect(),
            own: Arc::default(),
            version: 0,
        }
    }
}
