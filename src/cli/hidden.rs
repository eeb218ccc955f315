//! What may be a password.

/// A text that may hold a password: no `Debug` shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Hidden(pub String);

impl From<String> for Hidden {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use crate::cli::Cli;
    use clap::Parser;

    #[test]
    fn a_secret_shows_in_no_debug_output() {
        let line = ["sidekick", "list", "--etcd-user", "root:hunter2"];
        let more = ["--etcd-password-from-environment", "hunter2"];
        let cli = Cli::try_parse_from(line.into_iter().chain(more)).unwrap();
        let shown = format!("{cli:?}");
        assert!(
            !shown.contains("hunter2") && shown.contains("***"),
            "{shown}"
        );
    }
}
