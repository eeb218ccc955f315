//! Why what a container tells registrator is in none of its labels. Pure.

/// Why the metadata was not translated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetadataRefusal {
    /// It asks for the container to be ignored.
    Ignored,
    /// It asks for what can't be done.
    Refused {
        /// The label or variable: `label SERVICE_NAME`.
        metadata: String,
        /// What is wrong with it.
        problem: String,
    },
}
