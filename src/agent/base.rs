//! The operator's own base file: what of it concerns the services. Pure.

/// The names of the sections in the operator's base file: no service may take one.
pub fn sections(base: &str) -> impl Iterator<Item = &str> {
    let named = ["frontend", "backend", "listen"];
    base.lines().filter_map(move |line| {
        let mut words = line.split_whitespace();
        named.contains(&words.next()?).then(|| words.next())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_files_sections_are_seen() {
        let base = "global\n  daemon\nfrontend web\n bind :80\n\tlisten x # y\ndefaults z\n";
        assert_eq!(sections(base).collect::<Vec<_>>(), ["web", "x"]);
    }
}
