//! What HAProxy's configuration file holds. Pure.
//!
//! The text of ten thousand servers is a megabyte, so it is made only when the file is written: off the
//! control loop, and not for a content that another one overtakes.

use crate::agent::haproxy::parse::parse;
use crate::agent::haproxy::render::{FixedConfig, render};
use crate::agent::model::bind::Bind;
use crate::agent::model::listeners::Model;
use std::borrow::Cow;
use std::sync::Arc;

/// The content of the configuration file. A copy costs nothing.
#[derive(Debug, Clone)]
pub enum FileContent {
    /// Rendered from that model.
    Rendered(Arc<FixedConfig>, Model),
    /// The text of a file that this agent did not write: an earlier agent did, or the operator.
    Found(Arc<str>),
}

impl FileContent {
    /// The content of an existing file.
    #[must_use]
    pub fn of_text(text: String, fixed_config: &Arc<FixedConfig>, stats: Option<Bind>) -> Self {
        let model = parse(&text).map(|listeners| Model { stats, listeners });
        match model {
            Some(model) if render(fixed_config, &model) == text => {
                Self::Rendered(fixed_config.clone(), model)
            }
            _ => Self::Found(text.into()),
        }
    }

    /// The file's text.
    #[must_use]
    pub fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Rendered(fixed_config, model) => render(fixed_config, model).into(),
            Self::Found(text) => Cow::Borrowed(text),
        }
    }
}

/// Equal if the texts are.
impl PartialEq for FileContent {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Rendered(_, a), Self::Rendered(_, b)) => a == b,
            _ => self.text() == other.text(),
        }
    }
}

impl Eq for FileContent {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::config_grammar::{fixed_config, models};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn contents_are_equal_if_their_texts_are(a in models(), b in models()) {
            let fixed_config = Arc::new(fixed_config());
            let all = [a, b].map(|model| FileContent::Rendered(fixed_config.clone(), model));
            let [a, b] = &all;
            prop_assert_eq!(a == b, a.text() == b.text());
            for content in &all {
                let text = content.text().into_owned();
                let FileContent::Rendered(_, Model { stats, .. }) = content else { unreachable!() };
                let read = FileContent::of_text(text.clone(), &fixed_config, *stats);
                prop_assert!(matches!(read, FileContent::Rendered(..)), "{}", text);
                prop_assert_eq!(&read, content);
                prop_assert_eq!(&FileContent::Found(text.into()), content);
            }
            let edited = FileContent::of_text(format!("{}#", a.text()), &fixed_config, None);
            prop_assert!(edited != *a && matches!(edited, FileContent::Found(_)));
        }
    }
}
