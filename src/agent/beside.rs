//! Two maps side by side, in the order of their names. Pure.
//!
//! With a thousand services, looking each of them up costs more than whatever is then done about it.

use std::cmp::Ordering;

/// Every entry of `left` with the one of `right` that has the same name. Both come in the order of
/// their names, as out of a `BTreeMap`.
pub(super) fn beside<'l, 'r, L, R>(
    left: impl Iterator<Item = (&'l String, L)>,
    right: impl Iterator<Item = (&'r String, R)>,
) -> impl Iterator<Item = (&'l String, L, Option<R>)> {
    let mut right = right.peekable();
    left.map(move |(name, it)| {
        loop {
            match right.peek().map(|(other, _)| other.cmp(&name)) {
                Some(Ordering::Less) => drop(right.next()),
                Some(Ordering::Equal) => return (name, it, right.next().map(|(_, other)| other)),
                Some(Ordering::Greater) | None => return (name, it, None),
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_finds_what_a_look_up_finds(
            left in prop::collection::btree_map("[ab]{0,3}", any::<u8>(), 0..8),
            right in prop::collection::btree_map("[ab]{0,3}", any::<u8>(), 0..8)
        ) {
            let looked_up = left.iter().map(|(name, it)| (name, it, right.get(name)));
            let looked_up: Vec<_> = looked_up.collect();
            prop_assert_eq!(beside(left.iter(), right.iter()).collect::<Vec<_>>(), looked_up);
        }
    }
}
