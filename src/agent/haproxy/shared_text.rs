//! A text in shared pieces, so that the next version, which hardly differs, costs hardly anything. Pure.

use std::fmt;
use std::sync::Arc;

/// Texts share the pieces in which they don't differ.
#[derive(Debug, Clone)]
pub struct SharedText(Arc<[Arc<str>]>);

impl SharedText {
    /// The pieces; one after another they are the text.
    pub fn pieces(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|piece| &**piece)
    }
}

impl FromIterator<Arc<str>> for SharedText {
    fn from_iter<T: IntoIterator<Item = Arc<str>>>(pieces: T) -> Self {
        Self(pieces.into_iter().collect())
    }
}

impl From<String> for SharedText {
    fn from(text: String) -> Self {
        Self(Arc::new([text.into()]))
    }
}

impl fmt::Display for SharedText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pieces().try_for_each(|piece| f.write_str(piece))
    }
}

/// Equal if the characters are, however they are cut.
impl PartialEq for SharedText {
    fn eq(&self, other: &Self) -> bool {
        let alike = |(a, b): (&Arc<str>, &Arc<str>)| Arc::ptr_eq(a, b) || a == b;
        if self.0.len() == other.0.len() && self.0.iter().zip(&*other.0).all(alike) {
            return true;
        }
        let length = |text: &Self| text.pieces().map(str::len).sum::<usize>();
        let bytes = |text| Self::pieces(text).flat_map(str::bytes);
        length(self) == length(other) && bytes(self).eq(bytes(other))
    }
}

impl Eq for SharedText {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn however_it_is_cut_it_is_the_same_text(
            a in prop::collection::vec("[ab]{0,3}", 0..5), b in prop::collection::vec("[ab]{0,3}", 0..5)
        ) {
            let text = |pieces: &[String]| pieces.iter().map(|p| Arc::from(p.as_str())).collect::<SharedText>();
            prop_assert_eq!(text(&a).to_string(), a.concat());
            prop_assert_eq!(text(&a) == text(&b), a.concat() == b.concat());
            prop_assert_eq!(text(&a), SharedText::from(a.concat()));
        }
    }
}
