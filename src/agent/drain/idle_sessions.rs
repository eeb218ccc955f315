//! Which sessions of draining servers are idle: looks in, sessions to end out. Pure.
//!
//! A session is idle if the server has spoken last, and no byte came from either side between two looks. One whose client
//! has spoken last is in flight, and is waited for. Who has spoken last is told by the kernel, or by the only side that
//! has spoken between two looks.

use crate::agent::haproxy::last_speaker::LastSpeaker;
use crate::agent::haproxy::session_list::Session;
use crate::clock::Moment;
use std::collections::BTreeMap;
use std::time::Duration;

/// A client of which the kernel has nothing yet gets so long to say something. It may just have connected, on a busy
/// machine, or over a network that loses packets: one that is lost is sent again after 0.2, 0.6, 1.4 and 3 s. One that a
/// pool has opened in advance delays the word by as much.
const FIRST_WORD: Duration = Duration::from_secs(5);

/// A session, by the process id of its worker and its own number.
type SessionKey = (u32, u64);

/// What was seen of the sessions until now.
#[derive(Debug, Default)]
pub(super) struct IdleSessions {
    seen: BTreeMap<SessionKey, SeenSession>,
}

#[derive(Debug, Clone, Copy)]
struct SeenSession {
    from_client: u64,
    from_server: u64,
    /// When a byte had come since the look before.
    moved: Moment,
    /// The only side that has spoken, when one has between two looks.
    speaker: LastSpeaker,
    /// The number of the look at which it was there last.
    look: u64,
}

impl IdleSessions {
    /// Whether that session is idle at look number `look`; `ask` says what the kernel knows of it.
    pub(super) fn is_idle(
        &mut self,
        worker: u32,
        session: &Session,
        look: u64,
        now: Moment,
        ask: impl FnOnce(&Session) -> LastSpeaker,
    ) -> bool {
        let (from_client, from_server) = (session.from_client, session.from_server);
        let fresh = SeenSession {
            from_client,
            from_server,
            moved: now,
            speaker: LastSpeaker::Unknown,
            look,
        };
        let Some(seen) = self.seen.get_mut(&(worker, session.id)) else {
            self.seen.insert((worker, session.id), fresh);
            return false;
        };
        let moved = (
            seen.from_client != from_client,
            seen.from_server != from_server,
        );
        if moved != (false, false) {
            let speaker = match moved {
                (true, false) => LastSpeaker::Client,
                (false, true) => LastSpeaker::Server,
                _ => LastSpeaker::Unknown,
            };
            *seen = SeenSession { speaker, ..fresh };
            return false;
        }
        seen.look = look;
        let speaker = ask(session);
        if from_client == 0 {
            // HAProxy reads nothing of a client before the server has accepted: what it has said is in the kernel until then.
            return speaker != LastSpeaker::Client && seen.moved + FIRST_WORD <= now;
        }
        let speaker = match speaker {
            LastSpeaker::Unknown => seen.speaker,
            known => known,
        };
        speaker == LastSpeaker::Server
    }

    /// Forgets the sessions that were not there at look number `look`.
    pub(super) fn forget_ended(&mut self, look: u64) {
        self.seen.retain(|_, seen| seen.look == look);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::session;
    use super::*;
    use LastSpeaker::{Client, Server, Unknown};

    /// Looks at one session, 80 ms apart: its bytes from either side, and what the kernel says.
    fn idle(looks: &[(u64, u64, LastSpeaker)]) -> Vec<bool> {
        let mut idle = IdleSessions::default();
        let looks = (1..).zip(looks);
        let results = looks.map(|(look, (from_client, from_server, speaker))| {
            let mut session = session(7, "10.0.0.1:6379");
            (session.from_client, session.from_server) = (*from_client, *from_server);
            let now = Duration::from_millis(1_000 + 80 * look);
            let result = idle.is_idle(1, &session, look, now, |_| *speaker);
            idle.forget_ended(look);
            result
        });
        results.collect()
    }

    #[test]
    fn a_session_is_idle_when_the_server_spoke_last_and_nothing_moves() {
        assert_eq!(idle(&[(6, 5, Server), (6, 5, Server)]), [false, true]);
        assert_eq!(idle(&[(6, 5, Client), (6, 5, Client)]), [false, false]);
        assert_eq!(idle(&[(6, 5, Unknown); 3]), [false; 3]);
        let asks = [(6, 5, Server), (12, 10, Server), (12, 10, Server)];
        assert_eq!(idle(&asks), [false, false, true]);
    }

    #[test]
    fn where_the_kernel_is_silent_the_only_side_that_spoke_tells() {
        let answered = [(6, 5, Unknown), (6, 10, Unknown), (6, 10, Unknown)];
        assert_eq!(idle(&answered), [false, false, true]);
        let asked = [(6, 5, Unknown), (12, 5, Unknown), (12, 5, Unknown)];
        assert_eq!(idle(&asked), [false; 3]);
        let both = [(6, 5, Unknown), (12, 10, Unknown), (12, 10, Unknown)];
        assert_eq!(idle(&both), [false; 3]);
    }

    #[test]
    fn a_client_that_has_said_nothing_gets_five_seconds() {
        let looks = idle(&[(0, 3, Server); 70]);
        let first = looks.iter().position(|idle| *idle);
        assert_eq!(first, Some(63), "{looks:?}");
        let unheard = idle(&[(0, 0, Client); 90]);
        assert_eq!(unheard, [false; 90], "its server hasn't accepted yet");
    }
}
