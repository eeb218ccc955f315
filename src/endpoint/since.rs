//! When a container started. Pure.

use std::fmt;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A moment in UTC, to the nanosecond, as Docker's `StartedAt` has it.
///
/// Ordered as time, not as text: Go drops trailing zeros of the fraction, so that the texts of two
/// moments don't sort like the moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Since(OffsetDateTime);

impl Since {
    /// Reads an RFC 3339 time. `None` if it is none, or Go's zero time (`0001-01-01T00:00:00Z`,
    /// which Docker gives for "never").
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let moment = OffsetDateTime::parse(text, &Rfc3339)
            .ok()?
            .to_offset(time::UtcOffset::UTC);
        (moment.year() > 1).then_some(Self(moment))
    }

    /// The moment so many nanoseconds after 1970 (may be negative).
    #[must_use]
    pub fn from_unix_nanos(nanos: i128) -> Option<Self> {
        OffsetDateTime::from_unix_timestamp_nanos(nanos)
            .ok()
            .map(Self)
    }
}

impl fmt::Display for Since {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.format(&Rfc3339).map_err(|_| fmt::Error)?;
        f.write_str(&text)
    }
}
