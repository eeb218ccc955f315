//! What the network does to one request of a simulated sidekick.

use super::store::Author;
use crate::announce::lease::protocol::{Request, Response};
use crate::clock::Moment;
use std::time::Duration;

/// The call's deadline, as the real one.
const DEADLINE: Duration = Duration::from_secs(2);

/// A request that left, and what the network does to it.
pub(crate) struct UnderWay {
    pub(crate) request: Request,
    pub(crate) author: Author,
    /// When etcd does it; `None`: never.
    pub(crate) done_at: Option<Moment>,
    pub(crate) answer: Option<Response>,
    /// When the answer is here, or the deadline is over.
    pub(crate) back_at: Moment,
    pub(crate) lost: bool,
}

/// What the network does to a request: of 100 so many come to harm.
pub(crate) fn send(
    request: Request,
    author: Author,
    now: Moment,
    rng: &mut fastrand::Rng,
    harm: u32,
) -> UnderWay {
    let ms = Duration::from_millis;
    let lost = rng.u32(0..100) < harm;
    let (done_at, back_at) = match rng.u32(0..16) {
        // Lost on the way, done and the answer lost, and done after the deadline.
        0..6 if lost => (None, now + DEADLINE),
        6..12 if lost => (Some(now + ms(rng.u64(1..1500))), now + DEADLINE),
        _ if lost => {
            let late = now + DEADLINE + ms(rng.u64(1..6000));
            (Some(late), now + DEADLINE)
        }
        _ => {
            let done = now + ms(rng.u64(1..30));
            (Some(done), done + ms(rng.u64(1..30)))
        }
    };
    UnderWay {
        request,
        author,
        done_at,
        answer: None,
        back_at,
        lost,
    }
}
