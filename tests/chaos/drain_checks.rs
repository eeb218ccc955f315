//! The checker's rules for instances that drain, held against small histories.

use super::{EARLY, History, KEY, LATE, id, quiet};
use crate::record::{Dial, What};
use crate::spans::{Ms, Span};

/// The key of another instance, of the second container.
const OTHER: &str = "/services/redis/redis@2";

impl History {
    pub(crate) fn drains(self, at: Ms) -> History {
        let value = format!(
            r#"{{"host":"h","port":7000,"container":"{}","since":"{EARLY}","status":"draining"}}"#,
            id(0)
        );
        self.event(at, Some((value, 1)))
    }

    fn wished(mut self, from: Ms, to: Ms) -> History {
        self.0.wishes.push((KEY.to_owned(), Span::new(from, to)));
        self
    }

    fn dialled(mut self, at: Ms, container: usize) -> History {
        self.0.dials.push(Dial {
            span: Span::new(at - 10, at),
            service: "redis".to_owned(),
            container,
        });
        self
    }

    /// The second container is up from 5 s on, and announced at a key of its own.
    fn with_another(mut self) -> History {
        for claim in self.0.claims.iter_mut().filter(|it| it.client == 1) {
            claim.key = OTHER.to_owned();
        }
        let mut history = self.turns(1, 5_000, Some(LATE)).puts(5_050, 1, LATE, 2);
        if let Some(event) = history.0.events.last_mut() {
            event.key = OTHER.to_owned();
            event.put.iter_mut().for_each(|put| put.version = 1);
        }
        history
    }
}

#[test]
fn whoever_drains_was_asked_to() {
    quiet().drains(20_000).breaks(13);
    let wished = || quiet().wished(19_950, 30_000).drains(20_000);
    wished().puts(30_020, 0, EARLY, 1).keeps_all();
    wished().breaks(13);
    quiet()
        .turns(0, 19_950, None)
        .drains(20_000)
        .deletes(20_500)
        .keeps_all();
    // A restart: it was stopped as well.
    quiet()
        .turns(0, 19_950, Some(LATE))
        .drains(20_000)
        .deletes(20_020)
        .puts(20_080, 0, LATE, 2)
        .keeps_all();
    quiet()
        .trouble(What::Client(0), 19_990, 22_000)
        .drains(20_000)
        .deletes(21_990)
        .puts(22_050, 0, EARLY, 2)
        .keeps_all();
}

#[test]
fn whoever_is_wished_to_drain_does() {
    quiet().wished(20_000, 30_000).breaks(13);
    quiet().wished(20_000, 21_000).keeps_all();
    quiet()
        .wished(20_000, 30_000)
        .trouble(What::Login, 19_000, 30_000)
        .keeps_all();
    let late = quiet().wished(20_000, 30_000).drains(24_000);
    late.puts(30_010, 0, EARLY, 1).breaks(13);
}

#[test]
fn whoever_drains_gets_no_new_connection_beside_another() {
    let drains = |history: History| {
        let history = history.wished(19_950, 40_000).drains(20_000);
        history.puts(40_010, 0, EARLY, 1)
    };
    let beside = || drains(quiet().with_another());
    // The versions of another key's events follow none of this one's.
    let renumbered = |mut history: History| {
        let own = history.0.events.iter_mut().filter(|it| it.key == KEY);
        for (version, event) in (1..).zip(own) {
            event.put.iter_mut().for_each(|put| put.version = version);
        }
        history
    };
    renumbered(beside()).dialled(20_500, 0).keeps_all();
    renumbered(beside()).dialled(30_000, 1).keeps_all();
    renumbered(beside()).dialled(30_000, 0).breaks(13);
    // HAProxy couldn't be told.
    let away = renumbered(beside()).trouble(What::Client(2), 15_000, 29_000);
    away.dialled(30_000, 0).keeps_all();
    // The last of its service goes on serving.
    drains(quiet()).dialled(30_000, 0).keeps_all();
}
