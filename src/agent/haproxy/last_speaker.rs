//! Who has spoken last on a session, by the times that the kernel keeps of its two connections. Pure.
//!
//! HAProxy knows how many bytes have come from either side, but not in which order. The kernel notes for each TCP
//! connection when data were last sent and last received, to the tick (1 to 10 ms; include/uapi/linux/tcp.h,
//! `tcpi_last_data_sent`, `tcpi_last_data_recv`). A request and its reply are often within one tick; then the
//! acknowledgements tell, and the number of segments.

/// A side of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastSpeaker {
    /// The client: its request is under way.
    Client,
    /// The server: the session is idle.
    Server,
    /// That can't be told.
    Unknown,
}

/// What the kernel knows of one connection of HAProxy's. Times are milliseconds ago.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionTimes {
    /// When HAProxy last sent data.
    pub sent: u32,
    /// When data last came.
    pub received: u32,
    /// When an acknowledgement last came, with data or without.
    pub acknowledged: u32,
    /// Segments that are sent and not acknowledged.
    pub unacknowledged: u32,
    /// Segments with data that came.
    pub segments_received: u32,
    /// Segments with data that HAProxy sent, repeated ones too.
    pub segments_sent: u32,
}

impl LastSpeaker {
    /// Who has spoken last, by the connection to the server, and by the client's where it is known.
    ///
    /// A doubt is never the server's: a session is ended where this says so.
    #[must_use]
    pub fn of(server: &ConnectionTimes, client: Option<&ConnectionTimes>) -> Self {
        // A SYN is one, too: the server hasn't accepted, and HAProxy reads nothing of the client until it has.
        if server.unacknowledged > 0 {
            return Self::Client;
        }
        // Without any data there is no order among them: what is told are the moments at which the two connected.
        let client_said = client.map_or(1, |it| it.segments_received) + server.segments_sent;
        if client_said == 0 {
            return match server.segments_received {
                0 => Self::Unknown,
                _ => Self::Server,
            };
        }
        // A server that has never said anything hasn't spoken last, whatever the acknowledgements look like: the client's that
        // ends the handshake may come after its data, by another processor's queue.
        if server.segments_received == 0 {
            return Self::Client;
        }
        // On the connection to the server the client's bytes are sent; on the client's they come.
        let by_server = order(server.sent, server.received);
        let by_client = client.map_or(Self::Unknown, |it| order(it.received, it.sent));
        match (by_server, by_client) {
            (Self::Client, _) | (_, Self::Client) => Self::Client,
            (Self::Server, _) | (_, Self::Server) => Self::Server,
            _ => Self::within_one_tick(server, client),
        }
    }

    /// The last bytes of both sides came within one tick.
    fn within_one_tick(server: &ConnectionTimes, client: Option<&ConnectionTimes>) -> Self {
        // Who speaks acknowledges what has come before. A later acknowledgement is of something that came later.
        let later = |it: &ConnectionTimes| it.acknowledged < it.received;
        if later(server) {
            return Self::Client;
        }
        // Each request was answered by one segment: where the last one were not, there would be one less.
        let answered = server.segments_sent == server.segments_received;
        if client.is_some_and(later) || (answered && server.segments_sent > 0) {
            return Self::Server;
        }
        Self::Unknown
    }
}

/// Times are ago: the smaller one is the later.
fn order(client: u32, server: u32) -> LastSpeaker {
    match client.cmp(&server) {
        std::cmp::Ordering::Less => LastSpeaker::Client,
        std::cmp::Ordering::Equal => LastSpeaker::Unknown,
        std::cmp::Ordering::Greater => LastSpeaker::Server,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sent, received, acknowledged; segments received and sent.
    fn times(times: [u32; 3], segments: [u32; 2]) -> ConnectionTimes {
        ConnectionTimes {
            sent: times[0],
            received: times[1],
            acknowledged: times[2],
            unacknowledged: 0,
            segments_received: segments[0],
            segments_sent: segments[1],
        }
    }

    #[test]
    fn a_server_that_has_not_accepted_is_waited_for_and_silence_is_nobodys_word() {
        let silent = times([900, 950, 900], [0, 0]);
        let connecting = ConnectionTimes {
            unacknowledged: 1,
            ..silent
        };
        let of = |server, client| LastSpeaker::of(&server, Some(&client));
        let asked = times([2000, 900, 900], [1, 0]);
        assert_eq!(of(connecting, silent), LastSpeaker::Client);
        assert_eq!(of(connecting, asked), LastSpeaker::Client);
        assert_eq!(of(silent, silent), LastSpeaker::Unknown);
        assert_eq!(
            of(times([800, 900, 900], [0, 1]), silent),
            LastSpeaker::Client
        );
        let greeted = times([950, 900, 900], [1, 0]);
        assert_eq!(
            of(greeted, times([900, 950, 900], [0, 1])),
            LastSpeaker::Server
        );
    }

    /// As Linux 6.18 (250 ticks a second) had it of a HAProxy 2.6 with a server that answers each PING, and never a
    /// BLPOP; the client's connection first.
    #[test]
    fn a_request_that_is_under_way_is_known_from_one_that_was_answered() {
        use LastSpeaker::{Client, Server};
        for (what, client, server, expected) in [
            (
                "one PING",
                times([3032, 3044, 3032], [1, 1]),
                times([3036, 3032, 3032], [1, 1]),
                Server,
            ),
            (
                "50 PINGs",
                times([3024, 3028, 2980], [50, 50]),
                times([3028, 3028, 3028], [50, 50]),
                Server,
            ),
            (
                "a PING a second after another",
                times([2024; 3], [2, 2]),
                times([2024; 3], [2, 2]),
                Server,
            ),
            (
                "PING, and BLPOP at once",
                times([2020; 3], [2, 1]),
                times([2020, 2020, 1976], [1, 2]),
                Client,
            ),
            (
                "50 PINGs, and BLPOP at once",
                times([2016; 3], [51, 50]),
                times([2016, 2016, 1972], [50, 51]),
                Client,
            ),
            (
                "PING, and BLPOP later",
                times([2012, 1512, 1512], [2, 1]),
                times([1512, 2012, 1468], [1, 2]),
                Client,
            ),
        ] {
            assert_eq!(LastSpeaker::of(&server, Some(&client)), expected, "{what}");
        }
    }

    /// What most likely ended 4 of 38,283 requests beside 100 restarts of a container, on a machine with a load of 20.
    #[test]
    fn a_server_that_has_said_nothing_has_not_spoken_last_in_whatever_order_segments_come() {
        let server = times([120; 3], [0, 1]);
        let late_handshake = times([120, 120, 116], [1, 0]);
        let of = LastSpeaker::of(&server, Some(&late_handshake));
        assert_eq!(of, LastSpeaker::Client);
        assert_eq!(LastSpeaker::of(&server, None), LastSpeaker::Client);
    }

    #[test]
    fn what_can_not_be_told_is_no_idle_session() {
        // Acknowledged at once, within the tick, and answered in several segments before.
        let blocked = times([100; 3], [7, 3]);
        assert_eq!(LastSpeaker::of(&blocked, None), LastSpeaker::Unknown);
        let client = times([100; 3], [3, 7]);
        assert_eq!(
            LastSpeaker::of(&blocked, Some(&client)),
            LastSpeaker::Unknown
        );
        let unsent = ConnectionTimes {
            unacknowledged: 1,
            ..times([100, 90, 90], [1, 1])
        };
        assert_eq!(LastSpeaker::of(&unsent, None), LastSpeaker::Client);
    }
}
