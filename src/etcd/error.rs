//! What an error from etcd means: whether another member, a login or a new lease is worth a try.

use std::error::Error as _;
use std::time::Duration;

/// Why a call to etcd gave no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EtcdError {
    /// No answer in time: the call may have been done all the same.
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// The member can't be reached or can't serve: another one may.
    #[error("{0}")]
    Unreachable(String),
    /// The token is too old, or there is none, or the password is wrong: log in again.
    #[error("not logged in: {0}")]
    Auth(String),
    /// etcd says that the lease doesn't exist.
    #[error("{0}")]
    NotFound(String),
    /// etcd answered, and every other member would answer the same.
    #[error("etcd refused: {0}")]
    Refused(String),
}

impl EtcdError {
    /// Whether another member is worth a try.
    #[must_use]
    pub const fn is_the_members(&self) -> bool {
        matches!(self, Self::Timeout(_) | Self::Unreachable(_))
    }
}

/// What an error is about.
#[derive(Clone, Copy)]
enum About {
    /// The member that was asked; another may serve.
    Member,
    /// The token or the password.
    Login,
    /// The lease, which is gone.
    Lease,
    /// The request; every member answers the same.
    Request,
}

impl About {
    fn with(self, text: String) -> EtcdError {
        match self {
            Self::Member => EtcdError::Unreachable(text),
            Self::Login => EtcdError::Auth(text),
            Self::Lease => EtcdError::NotFound(text),
            Self::Request => EtcdError::Refused(text),
        }
    }
}

/// etcd's error texts, from `server/etcdserver` and `api/v3rpc/rpctypes/error.go` of etcd 3.4 to 3.6, as far as the
/// status code alone would mislead: the code of a sentence differs between versions (a learner's is UNAVAILABLE in 3.4 and
/// in Debian's 3.5.16, FAILED_PRECONDITION in others), several meanings share one code, and a watch that is cancelled gives
/// the sentence without a code.
const WORDS: &[(&str, About)] = &[
    ("rpc not supported for learner", About::Member),
    ("not leader", About::Member),
    ("no leader", About::Member),
    ("leader changed", About::Member),
    ("not capable", About::Member),
    ("server stopped", About::Member),
    ("request timed out", About::Member),
    ("unhealthy cluster", About::Member),
    // A member that lags behind in applying the raft log.
    ("too many requests", About::Member),
    ("corrupt cluster", About::Member),
    // The code is NOT_FOUND, as of a lease that is gone.
    ("member not found", About::Member),
    // The member was removed from the cluster.
    ("the member has been permanently removed", About::Member),
    ("cluster ID mismatch", About::Member),
    ("invalid auth token", About::Login),
    ("revision of auth store is old", About::Login),
    ("user name is empty", About::Login),
    ("authentication failed", About::Login),
    ("lease not found", About::Lease),
    ("permission denied", About::Request),
];

fn known(text: &str) -> Option<About> {
    let found = WORDS.iter().find(|(words, _)| text.contains(words));
    found.map(|(_, about)| *about)
}

/// The gRPC status codes (<https://grpc.github.io/grpc/core/md_doc_statuscodes.html>) that are an answer
/// of the cluster, for unknown texts. All others mean that the member has a problem.
fn by_code(code: i32) -> About {
    const INVALID_ARGUMENT: i32 = 3;
    const NOT_FOUND: i32 = 5;
    const PERMISSION_DENIED: i32 = 7;
    const RESOURCE_EXHAUSTED: i32 = 8;
    const FAILED_PRECONDITION: i32 = 9;
    const OUT_OF_RANGE: i32 = 11;
    const UNAUTHENTICATED: i32 = 16;
    match code {
        UNAUTHENTICATED => About::Login,
        NOT_FOUND => About::Lease,
        INVALID_ARGUMENT | PERMISSION_DENIED | RESOURCE_EXHAUSTED | FAILED_PRECONDITION
        | OUT_OF_RANGE => About::Request,
        _ => About::Member,
    }
}

impl From<etcd_client::Error> for EtcdError {
    fn from(error: etcd_client::Error) -> Self {
        use etcd_client::Error::{
            GRpcStatus, InvalidArgs, InvalidUri, LeaseKeepAliveError, TransportError, WatchError,
        };
        match &error {
            GRpcStatus(status) => {
                let text = with_causes(status.message(), status.source());
                if let Some(text) = of_the_connection(&text) {
                    return Self::Unreachable(text);
                }
                let about = known(&text).unwrap_or_else(|| by_code(i32::from(status.code())));
                about.with(text)
            }
            TransportError(e) => {
                let text = with_causes(&e.to_string(), e.source());
                Self::Unreachable(of_the_connection(&text).unwrap_or(text))
            }
            LeaseKeepAliveError(text) | WatchError(text) => {
                known(text).unwrap_or(About::Member).with(text.clone())
            }
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

/// tonic says "h2 protocol error" or "transport error: connection error" of whatever ends a call below gRPC, mostly of
/// a connection that was lost; and it gives HTTP/2's reasons gRPC codes that look like an answer of etcd's. All of
/// them are about this one connection.
fn of_the_connection(text: &str) -> Option<String> {
    const OF_HTTP2: &str = "h2 protocol error: ";
    // As h2, the kernel, std and rustls word it.
    let lost = [
        "broken pipe",
        "onnection reset",
        "unexpected end of file",
        "peer closed connection",
    ];
    if let Some(at) = lost.iter().filter_map(|words| text.find(words)).min() {
        let start = text[..at].rfind(": ").map_or(0, |colon| colon + 2);
        let cause = text[start..].split(": ").next().unwrap_or_default();
        return Some(format!("connection lost: {cause}"));
    }
    let reason = text.strip_prefix(OF_HTTP2)?;
    Some(format!("connection failed: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    #[test]
    fn what_etcd_says_of_tokens_is_known_in_each_of_its_forms() {
        let watch = |text: &str| EtcdError::from(etcd_client::Error::WatchError(text.to_owned()));
        assert!(matches!(
            watch("etcdserver: invalid auth token"),
            EtcdError::Auth(_)
        ));
        assert!(matches!(
            watch("rpc error: revision of auth store is old"),
            EtcdError::Auth(_)
        ));
        assert!(matches!(
            watch("etcdserver: permission denied"),
            EtcdError::Refused(_)
        ));
        let gone = etcd_client::Error::LeaseKeepAliveError("lease not found".to_owned());
        assert!(matches!(EtcdError::from(gone), EtcdError::NotFound(_)));
        let lost = etcd_client::Error::LeaseKeepAliveError("channel closed".to_owned());
        assert!(EtcdError::from(lost).is_the_members());
    }

    /// Each with the code that etcd gives it, or as a watch's reason, without one.
    #[test]
    fn an_answer_that_is_about_one_member_is_no_answer_of_the_clusters() {
        const UNKNOWN: i32 = 2;
        const INVALID_ARGUMENT: i32 = 3;
        const PERMISSION_DENIED: i32 = 7;
        const RESOURCE_EXHAUSTED: i32 = 8;
        const FAILED_PRECONDITION: i32 = 9;
        const OUT_OF_RANGE: i32 = 11;
        const UNAVAILABLE: i32 = 14;
        const DATA_LOSS: i32 = 15;
        for (code, text, member) in [
            (
                FAILED_PRECONDITION,
                "etcdserver: rpc not supported for learner",
                true,
            ),
            (
                UNAVAILABLE,
                "etcdserver: rpc not supported for learner",
                true,
            ),
            (FAILED_PRECONDITION, "etcdserver: not leader", true),
            (UNAVAILABLE, "etcdserver: no leader", true),
            (UNAVAILABLE, "etcdserver: not capable", true),
            (UNAVAILABLE, "etcdserver: server stopped", true),
            (
                UNAVAILABLE,
                "etcdserver: request timed out, possibly due to connection lost",
                true,
            ),
            (RESOURCE_EXHAUSTED, "etcdserver: too many requests", true),
            (DATA_LOSS, "etcdserver: corrupt cluster", true),
            (UNKNOWN, "etcdserver: a sentence of etcd 4", true),
            (
                RESOURCE_EXHAUSTED,
                "etcdserver: mvcc: database space exceeded",
                false,
            ),
            (
                FAILED_PRECONDITION,
                "etcdserver: user name not found",
                false,
            ),
            (INVALID_ARGUMENT, "etcdserver: request is too large", false),
            (
                OUT_OF_RANGE,
                "etcdserver: mvcc: required revision has been compacted",
                false,
            ),
            (PERMISSION_DENIED, "etcdserver: permission denied", false),
        ] {
            let about = known(text).unwrap_or_else(|| by_code(code));
            let fault = about.with(text.to_owned());
            assert_eq!(fault.is_the_members(), member, "{code} {text}: {fault:?}");
        }
    }

    #[test]
    fn a_wrong_password_is_about_the_login_and_not_about_a_key() {
        let text = "etcdserver: authentication failed, invalid user ID or password";
        let fault = known(text).map(|about| about.with(text.to_owned()));
        assert!(matches!(fault, Some(EtcdError::Auth(_))), "{fault:?}");
    }

    /// Takes one connection, and ends it when the first call is there: with a FIN or a RST, and before or after the
    /// headers of its answer.
    async fn a_server_that_dies_under_a_call(by_reset: bool, answers: bool) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            // Frames of RFC 9113: an empty SETTINGS first.
            let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
            stream.write_all(&settings).await.unwrap();
            let mut heard = Vec::new();
            // The preface and the client's own SETTINGS are shorter than that.
            while heard.len() < 150 {
                stream.read_buf(&mut heard).await.unwrap();
            }
            if answers {
                // HEADERS on stream 1, END_HEADERS; in HPACK `:status: 200` and a content-type.
                let mut headers = vec![0, 0, 20, 1, 4, 0, 0, 0, 1, 0x88, 0x0f, 0x10, 16];
                headers.extend_from_slice(b"application/grpc");
                stream.write_all(&headers).await.unwrap();
            }
            if by_reset {
                stream.set_zero_linger().unwrap();
            }
        });
        url
    }

    #[tokio::test]
    async fn a_connection_that_is_lost_under_a_call_is_told_as_that() {
        for (by_reset, answers) in [(false, false), (true, false), (false, true), (true, true)] {
            let url = a_server_that_dies_under_a_call(by_reset, answers).await;
            let mut client = etcd_client::Client::connect([url], None).await.unwrap();
            let error = client.get("/services/redis/redis@1", None).await;
            let error = error.unwrap_err();
            let told = format!("{error:?}");
            let fault = EtcdError::from(error);
            assert!(fault.is_the_members(), "{fault:?}");
            let plain = fault.to_string().starts_with("connection lost: ");
            assert!(plain, "{fault}, of {told}");
        }
    }
}
