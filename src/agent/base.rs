//! The operator's own base file: what of it concerns the services. Pure.

use super::layout::Bind;
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

/// Where the sections in the operator's base file listen. An address that isn't understood counts as
/// all of them; a port that is an environment variable's isn't known. (HAProxy's configuration
/// manual, "bind": addresses with ports or ranges of ports, by commas.)
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

#[cfg(test)]
mod tests {
    use super::*;

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
