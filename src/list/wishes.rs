//! Operators' wishes that instances drain, beside what is registered.

use super::Row;
use crate::endpoint::control::{DrainWish, InstanceName};
use std::collections::BTreeMap;

/// Adds the wishes to the rows; returns a line for each that is for an instance that is not registered.
pub(super) fn add_to(
    rows: &mut [Row],
    service: Option<&String>,
    mut wishes: BTreeMap<InstanceName, DrainWish>,
) -> Vec<String> {
    for row in rows {
        let name = InstanceName::new(&row.service, &row.instance);
        row.wish = name.and_then(|name| wishes.remove(&name));
    }
    let others = wishes.into_iter();
    others
        .filter(|(name, _)| service.is_none_or(|only| *only == name.service))
        .map(|(name, wish)| format!("{name} is to drain, and is not registered{wish}"))
        .collect()
}
