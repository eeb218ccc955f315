//! Where the announced address comes from, in words. Pure.

use std::fmt;

/// Which rule chose the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostSource {
    /// `--host`.
    Option,
    /// The label `sidekick.host`.
    Label,
    /// The port is bound on one address of the host.
    Binding,
    /// `Name` of Docker's `GET /info`.
    EngineName,
    /// The machine's host name.
    Hostname,
}

impl fmt::Display for HostSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Option => "--host",
            Self::Label => "label sidekick.host",
            Self::Binding => "the address that the port is bound on",
            Self::EngineName => "the Docker host's own name (GET /info)",
            Self::Hostname => "this machine's host name",
        })
    }
}
