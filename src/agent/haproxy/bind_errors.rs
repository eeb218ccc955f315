//! What HAProxy says when it cannot bind a listener. Pure.

use super::parse::original_name;
use crate::agent::model::bind_backoff::ReloadFailure;
use crate::agent::model::listeners::STATS;
use std::collections::BTreeMap;

/// Reads what HAProxy said when a reload failed. A service that HAProxy serves would lose its listener for
/// nothing if a failure of another kind counted as one to bind.
#[must_use]
pub(crate) fn reload_failure(log: &str) -> ReloadFailure {
    if log.is_empty() {
        ReloadFailure::Unknown
    } else if log.contains("bind") || log.contains("listener") {
        ReloadFailure::Listeners(services_named(log))
    } else {
        ReloadFailure::Other
    }
}

/// The services that HAProxy names when it can't bind, with its words: "Binding [file:22] for proxy
/// web: cannot bind socket (Address already in use) for [:::80]".
fn services_named(log: &str) -> BTreeMap<String, String> {
    let lines = log.lines().filter(|line| line.contains("cannot bind"));
    let named = lines.filter_map(|line| line.split_once("proxy ")?.1.split_once(": "));
    named
        .filter_map(|(name, why)| {
            let name = if name == STATS {
                STATS.to_owned()
            } else {
                original_name(name)?
            };
            Some((name, format!("HAProxy says {why:?}")))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::model::bind_backoff::BindBackoff;
    use crate::clock::Moment;

    #[test]
    fn haproxy_is_understood_when_it_names_the_guilty() {
        let log = "Binding [/etc/haproxy/haproxy.cfg:22] for proxy redis::1: cannot bind socket (Address already in use) for [:::80]\n\
                   [haproxy.main()] Some protocols failed to start their listeners! Exiting.";
        let why =
            "HAProxy says \"cannot bind socket (Address already in use) for [:::80]\"".to_owned();
        assert_eq!(
            reload_failure(log),
            ReloadFailure::Listeners(BTreeMap::from([("redis@1".to_owned(), why)]))
        );
    }

    /// All but one of the services that HAProxy listens for used to lose their listener with the first
    /// reload that succeeded after one had failed for lack of file descriptors, if the running configuration
    /// was unknown.
    #[test]
    fn a_reload_that_fails_for_another_reason_leaves_no_service_out() {
        let new = ["a", "b", "c"].map(|name| (name.to_owned(), ":80".parse().unwrap()));
        let now = Moment::from_secs(1);
        let mut bind_backoff = BindBackoff::default();
        bind_backoff.reload_failed(
            &new,
            reload_failure("[ALERT] [haproxy.main()] Cannot raise FD limit to 2000075"),
            now,
        );
        assert_eq!(bind_backoff.max_new_listeners(), usize::MAX);
        bind_backoff.reload_failed(
            &new,
            reload_failure(
                "[ALERT] [haproxy.main()] Some protocols failed to start their listeners! Exiting.",
            ),
            now,
        );
        assert_eq!(bind_backoff.max_new_listeners(), 1);
    }
}
