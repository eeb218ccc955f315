//! What HAProxy is to be, worked out from the catalog: values in, values out.

pub mod allow;
pub mod backends;
pub mod bind;
pub mod bind_backoff;
pub mod host_addresses;
pub mod listeners;
