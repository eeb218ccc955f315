//! Which of two holders of a key has precedence: rule 3 of the contract. Pure.

use crate::endpoint::{Endpoint, Since};
use std::cmp::Ordering;
use std::fmt;
use std::time::Duration;

/// One life of a container, as far as a value tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The container's id, as the value has it.
    pub container: Option<String>,
    /// When that life of the container started.
    pub since: Option<Since>,
    /// `host:port`, for messages.
    pub address: String,
}

impl Holder {
    /// The holder that a value names.
    ///
    /// # Errors
    /// Why the value is no endpoint.
    pub fn of(value: &[u8]) -> Result<Self, String> {
        match Endpoint::decode(value) {
            Ok(endpoint) => Ok(Self::from(&endpoint)),
            Err(why) => Err(why.to_string()),
        }
    }

    /// Whether the value was put for the same container as `down`, and for the same life or an earlier one.
    #[must_use]
    pub fn is_past_life_of(&self, down: &Self) -> bool {
        self.container.is_some() && self.container == down.container && self.since <= down.since
    }
}

impl From<&Endpoint> for Holder {
    fn from(endpoint: &Endpoint) -> Self {
        Self {
            container: endpoint.container.clone(),
            since: endpoint.since,
            address: endpoint.to_string(),
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)?;
        match &self.container {
            Some(id) => write!(f, " (container {id}")?,
            None => write!(f, " (no container named")?,
        }
        match self.since {
            Some(since) => write!(f, ", since {since})"),
            None => write!(f, ")"),
        }
    }
}

/// A container's start that lies further than this in the future means that the clocks differ.
const CLOCKS_DIFFER: Duration = Duration::from_secs(1);

/// A warning to add where a key stands by for `holder` whose container starts later than `now`, this machine's
/// wall clock: while that holder lives, containers that started after it wait.
#[must_use]
pub fn clock_warning(holder: &Holder, now: Since) -> Option<String> {
    let ahead = holder.since?.ahead_of(now)?;
    (ahead >= CLOCKS_DIFFER).then(|| {
        format!(
            "; its start is {} s ahead of this machine's clock: check the clocks of both machines",
            ahead.as_secs()
        )
    })
}

/// What to do about a key that another holder has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Precedence {
    /// The key is on our lease.
    Ours,
    /// Overwrite the value, if it is still the same.
    TakeOver,
    /// Leave the value, and wait until the key is deleted.
    StandBy(Holder),
}

/// Compares our holder with a value that hangs on another lease.
///
/// `overtook_us`: the value was written after our own last write of this key. An earlier process of ours can't
/// have done that, so a second sidekick announces the same life of the same container. The first one then
/// stands by: else the two would overwrite each other for ever.
#[must_use]
pub fn precedence_of(ours: &Holder, value: &[u8], overtook_us: bool) -> Precedence {
    // A value that can't be decoded has no `since`.
    let Ok(theirs) = Holder::of(value) else {
        return Precedence::TakeOver;
    };
    // The later life has precedence, be it of the same container or of another: a second sidekick may know of
    // a restart that we can't see. No `since` counts as the earliest; of equal ones the greater container id
    // has precedence.
    match (theirs.since, &theirs.container).cmp(&(ours.since, &ours.container)) {
        Ordering::Less => Precedence::TakeOver,
        Ordering::Equal if !overtook_us => Precedence::TakeOver,
        Ordering::Equal | Ordering::Greater => Precedence::StandBy(theirs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(container: &str, since: &str) -> Vec<u8> {
        format!(r#"{{"host":"a","port":1,"container":"{container}","since":"{since}"}}"#).into()
    }

    fn holder(container: &str, since: &str) -> Holder {
        Holder::of(&value(container, since)).unwrap()
    }

    const EARLY: &str = "2026-11-23T05:06:06.5Z";
    const LATE: &str = "2026-11-23T05:06:06.51Z";

    #[test]
    fn the_later_container_has_the_better_right() {
        let ours = holder("aa", LATE);
        assert!(matches!(
            precedence_of(&ours, &value("bb", EARLY), true),
            Precedence::TakeOver
        ));
        let ours = holder("aa", EARLY);
        assert!(matches!(
            precedence_of(&ours, &value("bb", LATE), false),
            Precedence::StandBy(_)
        ));
    }

    #[test]
    fn of_equally_old_ones_the_smaller_id_stands_by() {
        let (a, b) = (holder("aa", LATE), holder("bb", LATE));
        assert!(matches!(
            precedence_of(&a, &value("bb", LATE), false),
            Precedence::StandBy(_)
        ));
        assert!(matches!(
            precedence_of(&b, &value("aa", LATE), false),
            Precedence::TakeOver
        ));
    }

    #[test]
    fn a_value_without_since_yields() {
        let ours = holder("aa", EARLY);
        let bare = br#"{"host":"a","port":1}"#;
        assert!(matches!(
            precedence_of(&ours, bare, true),
            Precedence::TakeOver
        ));
        assert!(matches!(
            precedence_of(&ours, b"\xff", true),
            Precedence::TakeOver
        ));
    }

    #[test]
    fn our_own_past_life_yields_and_a_second_sidekick_does_not() {
        let ours = holder("aa", LATE);
        assert_eq!(
            precedence_of(&ours, &value("aa", LATE), false),
            Precedence::TakeOver
        );
        assert!(matches!(
            precedence_of(&ours, &value("aa", LATE), true),
            Precedence::StandBy(_)
        ));
    }

    #[test]
    fn a_view_of_an_earlier_life_yields_to_one_of_a_later() {
        for overtook_us in [true, false] {
            let (stale, fresh) = (holder("aa", EARLY), holder("aa", LATE));
            assert!(matches!(
                precedence_of(&stale, &value("aa", LATE), overtook_us),
                Precedence::StandBy(_)
            ));
            let precedence = precedence_of(&fresh, &value("aa", EARLY), overtook_us);
            assert_eq!(precedence, Precedence::TakeOver);
        }
    }

    #[test]
    fn only_the_same_containers_earlier_or_same_life_is_a_past_life() {
        let down = holder("aa", EARLY);
        assert!(holder("aa", EARLY).is_past_life_of(&down));
        assert!(!holder("aa", LATE).is_past_life_of(&down));
        assert!(!holder("bb", EARLY).is_past_life_of(&down));
        let unnamed = Holder::of(br#"{"host":"a","port":1}"#).unwrap();
        assert!(!unnamed.is_past_life_of(&unnamed));
    }

    #[test]
    fn a_holder_whose_start_is_in_the_future_has_its_clock_named_and_no_other() {
        let at = |text| Since::parse(text).unwrap();
        let holder = Holder {
            since: Some(at("2026-11-24T13:00:00Z")),
            ..Holder::of(br#"{"host":"a","port":1}"#).unwrap()
        };
        let warning = clock_warning(&holder, at("2026-11-24T12:00:00Z")).unwrap();
        assert!(warning.contains("3600 s ahead"), "{warning}");
        for now in ["2026-11-24T12:59:59.000000001Z", "2026-11-24T13:00:01Z"] {
            assert_eq!(clock_warning(&holder, at(now)), None, "{now}");
        }
        assert!(clock_warning(&holder, at("2026-11-24T12:59:59Z")).is_some());
        let bare = Holder::of(br#"{"host":"a","port":1}"#).unwrap();
        assert_eq!(clock_warning(&bare, at("2026-11-24T12:00:00Z")), None);
    }
}
