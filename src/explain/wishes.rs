//! Operators' wishes that instances drain.

use super::ExplainConfig;
use crate::announce::drain::wishes::read_once;
use crate::endpoint::Key;
use crate::endpoint::control::{DrainWish, InstanceName};
use crate::etcd::members::Members;
use std::collections::BTreeMap;

/// The wishes, as far as they can be read.
pub(super) struct ReadWishes(BTreeMap<InstanceName, DrainWish>);

impl ReadWishes {
    /// Where the keys could not be read there is no use in asking etcd again.
    pub(super) async fn read<T>(config: &ExplainConfig, keys: &anyhow::Result<T>) -> Self {
        let members = match keys {
            Ok(_) => Members::new(&config.etcd),
            Err(_) => return Self(BTreeMap::new()),
        };
        let Ok(members) = members else {
            return Self(BTreeMap::new());
        };
        Self(read_once(&members, &config.control).await)
    }

    /// The wish for the instance at a key, in words; `None` where there is none.
    pub(super) fn about(&self, key: &Key) -> Option<String> {
        let wish = self.0.get(&InstanceName::from(key))?;
        Some(format!("an operator wishes that it drains{wish}"))
    }
}
