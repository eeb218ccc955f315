//! Free TCP ports.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

/// A port on loopback without a listener, and that no other test of this process gets.
///
/// Below the kernel's ephemeral range, so that no outgoing connection sits on it either when a server that was
/// killed wants it back.
pub fn free() -> u16 {
    (0..RANGE)
        .map(|_| FIRST + (NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(offset())) % RANGE)
        .find(|&port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok())
        .expect("no TCP port is free")
}

/// Two runs of the tests at the same time start at different places, far from each other.
fn offset() -> u16 {
    (std::process::id().wrapping_mul(7_919) % u32::from(RANGE)) as u16
}

const FIRST: u16 = 12_000;
const RANGE: u16 = 18_000;
static NEXT: AtomicU16 = AtomicU16::new(0);
