//! The further keys of the simulated instances.

use crate::announce::policy::layouts::Layouts;
use crate::endpoint::Key;

/// Each instance has a further key: its own key below another prefix.
pub(crate) const FURTHER: &str = "/read";

/// The layout of these keys.
pub(crate) fn layouts() -> Layouts {
    let template = format!("{FURTHER}/services/{{service}}/{{instance}}={{container}}");
    Layouts::parse(&[template], None).expect("a template")
}

/// The further key of an instance.
pub(crate) fn further_key(key: &Key) -> Key {
    Key::in_layout(&format!("{FURTHER}{key}")).expect("a key")
}
