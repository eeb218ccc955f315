//! The `default-server` lines of the base file, for servers that are added at run time. Pure.
//!
//! HAProxy applies `default-server` to the servers of its file and not to those that `add server` adds
//! later (HAProxy's management guide, "add server"): each `add server` gets the same words instead.

use std::collections::BTreeMap;

/// The options for each `add server`, and what follows from them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerDefaults {
    /// Each with a space behind it; empty where there are none.
    words: String,
    /// The weight of a server that takes connections, 1 to 256.
    weight: u16,
}

impl Default for ServerDefaults {
    fn default() -> Self {
        Self {
            words: String::new(),
            weight: 1,
        }
    }
}

/// Words that stand alone. All of these lists are words that `add server` takes in HAProxy 2.6 and in
/// 3.0 (asked of 2.6.12 and 3.0.11).
const FLAGS: &[&str] = &[
    "backup",
    "check",
    "check-send-proxy",
    "check-ssl",
    "no-send-proxy",
    "no-send-proxy-v2",
    "no-tls-tickets",
    "send-proxy",
    "send-proxy-v2",
    "send-proxy-v2-ssl",
    "send-proxy-v2-ssl-cn",
    "ssl",
    "tfo",
];

/// Words with a value.
const VALUED: &[&str] = &[
    "addr",
    "alpn",
    "ca-file",
    "check-alpn",
    "check-sni",
    "ciphers",
    "ciphersuites",
    "crl-file",
    "crt",
    "downinter",
    "error-limit",
    "fall",
    "fastinter",
    "inter",
    "maxconn",
    "maxqueue",
    "minconn",
    "observe",
    "on-error",
    "on-marked-down",
    "on-marked-up",
    "pool-low-conn",
    "pool-max-conn",
    "pool-purge-delay",
    "port",
    "proxy-v2-options",
    "rise",
    "slowstart",
    "sni",
    "source",
    "ssl-max-ver",
    "ssl-min-ver",
    "verify",
    "verifyhost",
    "weight",
];

/// Words with a value that concern host names. `add server` refuses them, and without them a server is
/// the same: sidekick gives HAProxy nothing but IP addresses.
const OF_NAMES: &[&str] = &[
    "init-addr",
    "resolve-net",
    "resolve-opts",
    "resolve-prefer",
    "resolvers",
];

/// The first words of a section (HAProxy's configuration manual, "Configuration file format").
const SECTIONS: &[&str] = &[
    "backend",
    "cache",
    "crt-store",
    "defaults",
    "fcgi-app",
    "frontend",
    "global",
    "http-errors",
    "listen",
    "log-forward",
    "log-profile",
    "mailers",
    "peers",
    "program",
    "resolvers",
    "ring",
    "traces",
    "userlist",
];

impl ServerDefaults {
    /// Reads the base file's last `defaults` section, which is the one that applies to the services, with
    /// those of the section that it names by `from`.
    ///
    /// # Errors
    /// A word that `add server` doesn't take, or that contradicts what sidekick does with its servers.
    pub fn of(base: &str) -> Result<Self, String> {
        let mut sections: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        let (mut last, mut is_defaults, mut conditions) = ("", false, 0_u32);
        for line in base.lines() {
            let line = line.split('#').next().unwrap_or_default();
            let words: Vec<_> = line.split_whitespace().collect();
            match words.as_slice() {
                [".if", ..] => conditions += 1,
                [".endif", ..] => conditions = conditions.saturating_sub(1),
                ["defaults", rest @ ..] => {
                    let (name, parent) = match rest {
                        [name, "from", parent, ..] => (*name, *parent),
                        [name, ..] => (*name, ""),
                        [] => ("", ""),
                    };
                    let inherited = sections.get(parent).filter(|_| !parent.is_empty());
                    let inherited = inherited.cloned().unwrap_or_default();
                    sections.insert(name, inherited);
                    (last, is_defaults) = (name, true);
                }
                [first, ..] if SECTIONS.contains(first) => is_defaults = false,
                ["default-server", _, ..] if is_defaults && conditions > 0 => {
                    return Err(refusal(
                        ".if",
                        "sidekick doesn't evaluate conditions, and has to give each `add server` the same words",
                    ));
                }
                ["default-server", words @ ..] if is_defaults => {
                    sections.entry(last).or_default().extend(words);
                }
                _ => {}
            }
        }
        let words = sections.remove(last).unwrap_or_default();
        Self::of_words(&words)
    }

    fn of_words(words: &[&str]) -> Result<Self, String> {
        let mut this = Self::default();
        let mut words = words.iter();
        while let Some(&word) = words.next() {
            let plain = |word: &str| {
                let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.:,/()[]@+=*!".contains(c);
                word.chars().all(is_plain)
            };
            if FLAGS.contains(&word) {
                this.push(word);
                continue;
            }
            if !VALUED.contains(&word) && !OF_NAMES.contains(&word) {
                let why = "HAProxy's `add server`, by which instances come without a reload, doesn't take it, \
                           or sidekick decides it";
                return Err(refusal(word, why));
            }
            let Some(&value) = words.next() else {
                return Err(refusal(word, "its value is missing"));
            };
            if OF_NAMES.contains(&word) {
                continue;
            }
            if !plain(value) {
                return Err(refusal(
                    word,
                    "its value is quoted or has a variable, which `add server` doesn't take",
                ));
            }
            if word == "weight" {
                this.weight = weight(value)?;
            }
            this.push(word);
            this.push(value);
        }
        Ok(this)
    }

    fn push(&mut self, word: &str) {
        self.words.push_str(word);
        self.words.push(' ');
    }

    /// For `add server`, before the words of sidekick's own, which hold where both say something: each
    /// with a space behind it; empty where there are none.
    #[must_use]
    pub fn words(&self) -> &str {
        &self.words
    }

    /// The weight of a server that takes connections: 1 to 256.
    #[must_use]
    pub const fn weight(&self) -> u16 {
        self.weight
    }
}

/// 0 would mean that no server takes any connection.
fn weight(value: &str) -> Result<u16, String> {
    let weight = value.parse().ok();
    let weight = weight.filter(|weight| (1..=256).contains(weight));
    weight.ok_or_else(|| refusal("weight", "it has to be 1 to 256; 0 is how sidekick drains"))
}

fn refusal(word: &str, why: &str) -> String {
    format!(
        "default-server, {word:?}: {why}; take it out of the defaults section that holds for the services"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(base: &str) -> Result<(String, u16), String> {
        ServerDefaults::of(base).map(|it| (it.words, it.weight))
    }

    fn words(base: &str) -> String {
        of(base).unwrap().0
    }

    #[test]
    fn a_file_without_any_has_none() {
        assert_eq!(
            of(crate::agent::haproxy::render::DEFAULT_BASE),
            Ok((String::new(), 1))
        );
        assert_eq!(of(""), Ok((String::new(), 1)));
    }

    #[test]
    fn those_of_the_last_defaults_section_hold() {
        let base = "defaults\n  default-server maxconn 1\ndefaults b\n\tdefault-server maxconn 2 # weight 7\n \
                    default-server send-proxy\n\nbackend mine\n default-server maxconn 3 cookie x\n";
        assert_eq!(words(base), "maxconn 2 send-proxy ");
        assert_eq!(
            words("defaults a\n default-server maxconn 1\ndefaults\n"),
            ""
        );
    }

    #[test]
    fn a_section_inherits_from_the_one_that_it_names() {
        let base = "defaults a\n default-server maxconn 1\ndefaults z\n default-server backup\n\
                    defaults b from a\n default-server weight 20\n";
        assert_eq!(of(base), Ok(("maxconn 1 weight 20 ".to_owned(), 20)));
    }

    #[test]
    fn what_concerns_host_names_is_left_out() {
        let base = "defaults\n default-server init-addr last,none resolvers dns maxconn 5\n";
        assert_eq!(words(base), "maxconn 5 ");
    }

    #[test]
    fn what_add_server_does_not_take_is_refused() {
        for line in [
            "tcp-ut 5s",
            "no-check",
            "no-ssl",
            "disabled",
            "agent-check",
            "weight 0",
            "weight 257",
            "maxconn \"5\"",
            "maxconn $MOST",
            "maxconn 5;show",
            "sni 'a b'",
            "maxconn",
            "max\\conn 5",
        ] {
            let base = format!("defaults\n default-server {line}\n");
            let refused = of(&base).unwrap_err();
            assert!(refused.starts_with("default-server, \""), "{refused}");
            assert!(!refused.contains('\n'), "{refused}");
        }
        let base = "defaults\n .if defined(X)\n default-server maxconn 5\n .endif\n";
        assert!(of(base).is_err());
    }
}
