//! The operator's base file: what of it concerns the services. Pure.

use crate::agent::model::bind::Bind;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;

/// The names of the sections in the operator's base file: no service may take one.
pub fn sections(base: &str) -> impl Iterator<Item = &str> {
    let named = ["frontend", "backend", "listen"];
    base.lines().filter_map(move |line| {
        let mut words = line.split_whitespace();
        named.contains(&words.next()?).then(|| words.next())?
    })
}

/// Whether a line of the operator's base file begins with that keyword.
pub fn sets(base: &str, keyword: &str) -> bool {
    let mut lines = base.lines();
    lines.any(|line| line.split_whitespace().next() == Some(keyword))
}

/// Where the sections in the operator's base file listen. An address that cannot be parsed counts as all
/// addresses; a port from an environment variable is unknown. (HAProxy's configuration manual, "bind":
/// addresses with ports or ranges of ports, by commas.)
pub fn occupied(base: &str) -> impl Iterator<Item = Bind> {
    let addresses = base.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()? == "bind").then(|| words.next())?
    });
    addresses
        .flat_map(|all| all.split(','))
        .flat_map(listens_at)
}

fn listens_at(text: &str) -> Vec<Bind> {
    let text = text.rsplit_once('@').map_or(text, |(_, address)| address);
    let Some((ip, ports)) = text.rsplit_once(':') else {
        return Vec::new();
    };
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let (Ok(first), Ok(last)) = (first.parse::<NonZeroU16>(), last.parse()) else {
        return Vec::new();
    };
    let ports = (first.get()..=last).filter_map(NonZeroU16::new);
    let ip = ip.trim_matches(['[', ']']).parse::<IpAddr>();
    let bind = |port: NonZeroU16| match ip {
        Ok(ip) => Bind::At(SocketAddr::new(ip, port.get())),
        Err(_) => Bind::Everywhere(port),
    };
    ports.map(bind).collect()
}

/// What HAProxy takes for a process' limit where nothing else limits it: its `DEFAULT_MAXFD`
/// (HAProxy's configuration manual, "fd-hard-limit").
const MOST_FILES: u64 = 1 << 20;

/// How many connections one service may have at once: half of what HAProxy may have in all, so that a
/// service that is flooded, or that leads back to HAProxy, leaves the other half to the rest.
///
/// HAProxy may have the global section's `maxconn`; without one, half as many as it may have files
/// open, for each connection takes two: `files`, or `fd-hard-limit` or `ulimit-n` where that is less.
/// `None` where a defaults section has a `maxconn` of the operator's own.
#[must_use]
pub fn listener_maxconn(base: &str, files: u64) -> Option<u32> {
    let (mut section, mut all) = ("", None);
    let mut files = files.min(MOST_FILES);
    for line in base.lines() {
        let mut words = line.split_whitespace();
        let Some(word) = words.next() else { continue };
        let number = words.next().and_then(|number| number.parse::<u64>().ok());
        match (section, word) {
            ("defaults", "maxconn") => return None,
            ("global", "maxconn") => all = number,
            ("global", "fd-hard-limit" | "ulimit-n") => files = files.min(number.unwrap_or(files)),
            _ if !line.starts_with(char::is_whitespace) => section = word,
            _ => {}
        }
    }
    let half = all.unwrap_or(files / 2) / 2;
    u32::try_from(half.max(1)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_may_have_half_of_what_haproxy_may() {
        let of = |base: &str, files| listener_maxconn(base, files);
        assert_eq!(
            of(crate::agent::haproxy::render::DEFAULT_BASE, 1 << 30),
            Some(25_000)
        );
        assert_eq!(
            of(crate::agent::haproxy::render::DEFAULT_BASE, 20_000),
            Some(5_000)
        );
        assert_eq!(of("global\n  maxconn 4000\n", 20_000), Some(2_000));
        assert_eq!(of("global\n\tulimit-n 8000 # x\n", 20_000), Some(2_000));
        assert_eq!(of("", u64::MAX), Some(1 << 18));
        // The operator's own limit, and a `maxconn` of a frontend.
        assert_eq!(
            of("defaults x\n  maxconn 9\nglobal\n maxconn 7", 20_000),
            None
        );
        assert_eq!(of("frontend f\n  maxconn 9\n", 20_000), Some(5_000));
    }

    #[test]
    fn a_base_files_sections_are_seen() {
        let base = "global\n  daemon\nfrontend web\n bind :80\n\tlisten x # y\ndefaults z\n";
        assert_eq!(sections(base).collect::<Vec<_>>(), ["web", "x"]);
    }

    #[test]
    fn a_keyword_of_the_base_file_is_seen() {
        let base = "global\n\tmworker-max-reloads 9\n# daemon\n";
        assert!(sets(base, "mworker-max-reloads"));
        assert!(!sets(base, "daemon") && !sets(base, "mworker"));
    }

    #[test]
    fn where_a_base_file_listens_is_seen() {
        let base = "listen a\n bind :80,10.0.0.1:443 ssl\n\tbind [::1]:7-9\nbackend b\n server s 10.0.0.1:81\n\
                    frontend c\n bind ipv6@:::82 v6only\n bind /run/s\n bind unix@/x:1/y\n bind *:\"$PORT\"\n bind h:83\n";
        let seen: Vec<_> = occupied(base).map(|bind| bind.to_string()).collect();
        let expected = [
            ":80",
            "10.0.0.1:443",
            "[::1]:7",
            "[::1]:8",
            "[::1]:9",
            "[::]:82",
            ":83",
        ];
        assert_eq!(seen, expected);
    }
}
