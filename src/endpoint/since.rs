//! When a container started. Pure.

use serde::{Serialize, Serializer};
use std::fmt;
use std::time::Duration;
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

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
        let moment = OffsetDateTime::parse(text, &Rfc3339).ok()?;
        // Checked: the last evening of 9999 west of Greenwich is in a year that can't be written.
        Self::within_reason(moment.checked_to_offset(UtcOffset::UTC)?)
    }

    /// The moment so many nanoseconds after 1970 (may be negative); `None` before the year 2 and
    /// after 9999.
    #[must_use]
    pub fn from_unix_nanos(nanos: i128) -> Option<Self> {
        Self::within_reason(OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()?)
    }

    /// How much later than `other` this is; `None` where it isn't.
    #[must_use]
    pub fn ahead_of(self, other: Self) -> Option<Duration> {
        Duration::try_from(self.0 - other.0).ok()
    }

    fn within_reason(moment: OffsetDateTime) -> Option<Self> {
        (2..=9999).contains(&moment.year()).then_some(Self(moment))
    }
}

impl fmt::Display for Since {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.format(&Rfc3339).map_err(|_| fmt::Error)?;
        f.write_str(&text)
    }
}

impl Serialize for Since {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
