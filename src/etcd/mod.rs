//! The etcd client of both jobs: members and failover, watches, and what an error means.

pub mod config;
pub mod credentials;
mod error;
pub mod members;
pub mod reader;
mod secret;
pub mod stream;
pub mod watch;

pub use error::EtcdError;
pub use secret::{Secret, Tls};

/// How to reach etcd; checked by `config`.
#[derive(Debug, Clone)]
pub struct EtcdConfig {
    /// One URL a member, in the order in which they are tried.
    pub endpoints: Vec<String>,
    /// Set where the endpoints are https.
    pub tls: Option<Tls>,
    /// User and password.
    pub user: Option<(String, Secret)>,
    /// Where TLS material and password were read from, and are read from again.
    pub files: credentials::Files,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_shows_in_no_debug_output() {
        let config = EtcdConfig {
            endpoints: vec![],
            tls: Some(Tls {
                ca: None,
                identity: Some((vec![], Secret(b"KEY".to_vec()))),
            }),
            user: Some(("root".to_owned(), Secret(b"hunter2".to_vec()))),
            files: credentials::Files::default(),
        };
        let shown = format!("{config:?}");
        assert!(
            !shown.contains("hunter2") && !shown.contains("75") && shown.contains("***"),
            "{shown}"
        );
        // etcd-client's own options would show it.
        let members = members::Members::new(&EtcdConfig {
            tls: None,
            ..config
        });
        let shown = format!("{:?}", members.unwrap());
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
