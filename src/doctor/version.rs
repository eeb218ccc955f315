//! The version of another program, as far as `doctor` judges it. Pure.

/// Major and minor.
pub(super) type Release = (u32, u32);

/// The first two numbers of `20.10.24+dfsg1`, `2.6.12-1+deb12u4` or `v3.5.16`; `None` where the text begins with no such
/// numbers.
pub(super) fn release(text: &str) -> Option<Release> {
    let text = text.trim().trim_start_matches('v');
    let mut numbers = text.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_versions_of_debians_packages_are_read_and_compare_by_number() {
        for (text, expected) in [
            ("20.10.24+dfsg1", Some((20, 10))),
            ("2.6.12-1+deb12u4", Some((2, 6))),
            ("3.4.23", Some((3, 4))),
            ("v3.5.16", Some((3, 5))),
            ("3.0-dev3", Some((3, 0))),
            ("3.10.1\n", Some((3, 10))),
            ("3", None),
            ("", None),
            ("unknown", None),
            ("99999999999.1", None),
        ] {
            assert_eq!(release(text), expected, "{text}");
        }
        assert!(release("3.10") > release("3.9"));
    }
}
