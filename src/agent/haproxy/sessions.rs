//! `show sess`: which sessions of a worker are to end. Pure.

use crate::agent::haproxy::render::FINGERPRINT_VARIABLE;

/// The pointers of a worker's sessions with the servers for which `is_removed(backend, server)` holds. `answer` is the worker's answer to `show env` of [`FINGERPRINT_VARIABLE`] and to `show sess`: a
/// worker without that variable was started by the operator, and its connections are left alone.
///
/// An old worker takes no `shutdown sessions server` ("Proxy is disabled."; seen with 2.6), but every
/// worker takes `shutdown session`.
pub(crate) fn sessions_of_removed(
    answer: &str,
    is_removed: impl Fn(&str, &str) -> bool,
) -> Vec<String> {
    let is_ours = |line: &str| {
        let value = line.strip_prefix(FINGERPRINT_VARIABLE);
        value.is_some_and(|value| value.starts_with('='))
    };
    if !answer.lines().any(is_ours) {
        return Vec::new();
    }
    let over = answer.lines().filter_map(|line| {
        let (id, rest) = line.split_once(": ")?;
        let word = |key: &str| rest.split(' ').find_map(|word| word.strip_prefix(key));
        let (backend, server) = (word("be=")?, word("srv=")?);
        // `<none>`: the connection has no server yet.
        let ends = id.starts_with("0x") && !server.starts_with('<') && is_removed(backend, server);
        ends.then(|| id.to_owned())
    });
    over.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSIONS: &str = "\n\
        0x55d0: proto=tcpv4 src=127.0.0.1:1 fe=redis be=redis srv=a::1 ts=00 epoch=0 age=2s calls=3\n\
        0x55d1: proto=tcpv4 src=127.0.0.1:2 fe=redis be=redis srv=b::1 ts=00 epoch=0 age=2s calls=3\n\
        0x55d2: proto=tcpv4 src=127.0.0.1:3 fe=redis be=redis srv=<none> ts=00 epoch=0 age=2s\n\
        0x55d3: proto=sockpair src=unix:2 fe=GLOBAL be=<NONE> srv=<none> ts=00 epoch=0 age=0s\n\n";

    #[test]
    fn only_connections_to_servers_that_are_over_end() {
        let ours = format!("{FINGERPRINT_VARIABLE}=0123456789abcdef\n{SESSIONS}");
        let is_a = |backend: &str, server: &str| (backend, server) == ("redis", "a::1");
        assert_eq!(sessions_of_removed(&ours, is_a), ["0x55d0"]);
        assert_eq!(sessions_of_removed(&ours, |_, _| true).len(), 2);
    }

    #[test]
    fn a_worker_that_the_operator_started_is_let_alone() {
        let theirs = format!("Variable not found\n{SESSIONS}");
        assert_eq!(sessions_of_removed(&theirs, |_, _| true), [""; 0]);
        let gone = "Can't find the target PID matching the prefix '@!17'\n";
        assert_eq!(sessions_of_removed(gone, |_, _| true), [""; 0]);
    }
}
