//! Operators' wishes that instances drain, beside what is registered.

use super::Row;
use crate::endpoint::control::{DrainWish, InstanceName};
use crate::log_writer::say;
use std::collections::BTreeMap;

/// Adds the wishes to the rows; says which are for instances that are not registered.
pub(super) fn add_to(
    rows: &mut [Row],
    service: Option<&String>,
    mut wishes: BTreeMap<InstanceName, DrainWish>,
) {
    for row in rows {
        let name = InstanceName::new(&row.service, &row.instance);
        row.wish = name.and_then(|name| wishes.remove(&name));
    }
    for (name, wish) in wishes {
        if service.is_none_or(|only| *only == name.service) {
            say(format_args!(
                "{name} is to drain, and is not registered{wish}"
            ));
        }
    }
}
