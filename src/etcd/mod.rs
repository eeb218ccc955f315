//! What both jobs need of etcd: whom to ask, how long to wait, and what an error means.

pub mod members;
pub mod reader;
pub mod watch;

use std::error::Error as _;
use std::fmt;
use std::time::Duration;

/// Bytes that no log and no `Debug` shows.
#[derive(Clone)]
pub struct Secret(pub Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// How to reach etcd; checked by `config`.
#[derive(Debug, Clone)]
pub struct EtcdConfig {
    /// One URL a member, in the order in which they are tried.
    pub endpoints: Vec<String>,
    /// Set where the endpoints are https.
    pub tls: Option<Tls>,
    /// User and password.
    pub user: Option<(String, Secret)>,
}

/// TLS material in PEM.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// The CAs to trust; `None`: the system's.
    pub ca: Option<Vec<u8>>,
    /// Our certificate (with its chain) and its key.
    pub identity: Option<(Vec<u8>, Secret)>,
}

/// Why a call to etcd gave no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// No answer in time: it may have been done all the same.
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// The member can't be reached or can't serve: another one may.
    #[error("{0}")]
    Unreachable(String),
    /// The token is too old, or there is none: log in again.
    #[error("not logged in: {0}")]
    Auth(String),
    /// etcd says that the lease doesn't exist.
    #[error("{0}")]
    NotFound(String),
    /// etcd answered, and every other member would answer the same.
    #[error("etcd refused: {0}")]
    Refused(String),
}

impl Fault {
    /// Whether another member is worth a try.
    #[must_use]
    pub const fn is_the_members(&self) -> bool {
        matches!(self, Self::Timeout(_) | Self::Unreachable(_))
    }
}

/// gRPC status codes (<https://grpc.github.io/grpc/core/md_doc_statuscodes.html>) that are an answer
/// of the cluster's and not the trouble of one member.
mod code {
    pub(super) const INVALID_ARGUMENT: i32 = 3;
    pub(super) const NOT_FOUND: i32 = 5;
    pub(super) const PERMISSION_DENIED: i32 = 7;
    pub(super) const RESOURCE_EXHAUSTED: i32 = 8;
    pub(super) const FAILED_PRECONDITION: i32 = 9;
    pub(super) const OUT_OF_RANGE: i32 = 11;
    pub(super) const UNAUTHENTICATED: i32 = 16;
}

/// What etcd says when a token is old, wrong or missing: plain calls by status, watches in a
/// cancel reason, and "auth store" under the code of a bad request.
fn is_auth(text: &str) -> bool {
    [
        "invalid auth token",
        "revision of auth store is old",
        "user name is empty",
    ]
    .iter()
    .any(|t| text.contains(t))
}

impl From<etcd_client::Error> for Fault {
    fn from(error: etcd_client::Error) -> Self {
        use etcd_client::Error::{
            GRpcStatus, InvalidArgs, InvalidUri, LeaseKeepAliveError, TransportError, WatchError,
        };
        match &error {
            GRpcStatus(status) => {
                let text = with_causes(status.message(), status.source());
                match i32::from(status.code()) {
                    code::UNAUTHENTICATED => Self::Auth(text),
                    code::INVALID_ARGUMENT if is_auth(&text) => Self::Auth(text),
                    code::NOT_FOUND => Self::NotFound(text),
                    code::INVALID_ARGUMENT
                    | code::PERMISSION_DENIED
                    | code::RESOURCE_EXHAUSTED
                    | code::FAILED_PRECONDITION
                    | code::OUT_OF_RANGE => Self::Refused(text),
                    _ => Self::Unreachable(text),
                }
            }
            TransportError(e) => Self::Unreachable(with_causes(&e.to_string(), e.source())),
            LeaseKeepAliveError(text) if text.contains("not found") => Self::NotFound(text.clone()),
            WatchError(text) if is_auth(text) => Self::Auth(text.clone()),
            WatchError(text) if text.contains("permission denied") => Self::Refused(text.clone()),
            InvalidArgs(_) | InvalidUri(_) => Self::Refused(error.to_string()),
            _ => Self::Unreachable(error.to_string()),
        }
    }
}

/// tonic says "transport error" and keeps the reason in the chain. Each cause once.
fn with_causes(text: &str, mut cause: Option<&(dyn std::error::Error + 'static)>) -> String {
    let mut words = text.to_owned();
    while let Some(error) = cause {
        let more = error.to_string();
        if !words.contains(&more) {
            words = format!("{words}: {more}");
        }
        cause = error.source();
    }
    words
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

    #[test]
    fn what_etcd_says_of_tokens_is_known_in_each_of_its_forms() {
        let watch = |text: &str| Fault::from(etcd_client::Error::WatchError(text.to_owned()));
        assert!(matches!(
            watch("etcdserver: invalid auth token"),
            Fault::Auth(_)
        ));
        assert!(matches!(
            watch("rpc error: revision of auth store is old"),
            Fault::Auth(_)
        ));
        assert!(matches!(
            watch("etcdserver: permission denied"),
            Fault::Refused(_)
        ));
        let gone = etcd_client::Error::LeaseKeepAliveError("lease not found".to_owned());
        assert!(matches!(Fault::from(gone), Fault::NotFound(_)));
        let lost = etcd_client::Error::LeaseKeepAliveError("channel closed".to_owned());
        assert!(Fault::from(lost).is_the_members());
    }
}
