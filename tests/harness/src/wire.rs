//! What can be wrong with a wire. Pure.

use std::time::Duration;

/// How the wire is. A change holds for connections old and new; a connection that has lost bytes in
/// a black hole breaks when that closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// Everything passes.
    Whole,
    /// There is no listener, and open connections are closed.
    Refuse,
    /// Connections are made and reset (TCP), or closed (unix).
    Reset,
    /// Connections stay open and nothing gets through, either way.
    BlackHole,
    /// The server hears nothing; what it says gets through.
    DeafServer,
    /// The server hears everything; what it says is lost.
    MuteServer,
    /// Every chunk comes this much later.
    Delay(Duration),
    /// One byte at a time, some eight in a millisecond.
    Trickle,
    /// Whatever comes within one such window, connections and what they carry, goes on in the reverse
    /// order in the next; what a single connection carries stays in order.
    Reorder(Duration),
    /// A connection is closed when it has carried so many bytes in all.
    DropAfter(usize),
    /// Docker: every request reaches the engine this much later; events come as ever.
    SlowRequests(Duration),
    /// Docker: every request is answered with status 500.
    Status500,
    /// Docker: the next event ends, with its connection, in the middle of its JSON.
    CutEvent,
    /// Docker: every event is followed by one that no engine has.
    StrangeEvent,
    /// Docker: a container that runs is said to be jogging, which no engine says.
    StrangeState,
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To the server.
    Up,
    /// To the client.
    Down,
}

impl Wire {
    /// Whether what goes that way is lost.
    pub fn swallows(self, way: Direction) -> bool {
        self == Wire::BlackHole
            || self == Wire::DeafServer && way == Direction::Up
            || self == Wire::MuteServer && way == Direction::Down
    }
}

/// How much later something goes on that came so long after the first window's beginning.
pub fn mirrored(came: Duration, window: Duration) -> Duration {
    let within = came.as_millis() % window.as_millis().max(1);
    2 * (window - Duration::from_millis(within as u64))
}
