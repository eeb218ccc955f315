//! Which containers are inspected next: a few at a time, and those whose inspect fails without delaying the
//! others. Pure.

use crate::announce::policy::container::Death;
use crate::clock::Moment;
use std::collections::BTreeMap;
use std::time::Duration;

/// Inspects under way at a time: enough to keep an engine busy, few enough to leave room for other clients.
pub(super) const AT_A_TIME: usize = 8;

/// How many of these may be of containers whose last inspect failed: an engine that hangs on ten containers
/// answers for the rest.
const TROUBLED_AT_A_TIME: usize = 2;

/// The pause before a failed inspect is tried again: the key has to be right within 2 s after the failure is
/// over (`make chaos`, seed 78, found 5 s).
const TROUBLE_PAUSE: Duration = Duration::from_secs(1);

/// An event may come later than the inspect that shows the change, but no later than this.
const EVENTS_LATENESS: Duration = Duration::from_secs(5);

/// Why a container is inspected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum InspectTrigger {
    /// A pidfd was opened, and counts after another inspect. Those that wait for anything else come first.
    Pidfd,
    /// The routine relist.
    Timer,
    /// An event, or a new connection to the engine.
    Event,
}

/// What happened while a container was inspected.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FinishedInspect {
    /// An event was the reason, or came meanwhile.
    pub(super) hinted: bool,
    /// Deaths since the inspect began. Docker marks a container as ended before it tells of the
    /// death (moby holds the container's lock over both, libpod too), so an inspect that begins after the
    /// event shows the death or a later life; the answer of one that began before may be older.
    pub(super) deaths: Vec<Death>,
}

#[derive(Debug)]
struct ActiveInspect {
    trigger: InspectTrigger,
    deaths: Vec<Death>,
}

/// The containers that are to be inspected, and those that are being inspected.
#[derive(Debug, Default)]
pub(super) struct InspectQueue {
    /// Waiting to be inspected.
    waiting: BTreeMap<String, InspectTrigger>,
    /// Being inspected.
    under_way: BTreeMap<String, ActiveInspect>,
    /// Containers whose last inspect failed, and when it may be tried again.
    troubled: BTreeMap<String, Moment>,
    /// Containers in a state that is none we know, and when they are inspected again if nothing asks for that sooner.
    puzzling: BTreeMap<String, Moment>,
    /// Containers that changed without an event, and when that was seen.
    suspects: BTreeMap<String, Moment>,
}

impl InspectQueue {
    /// Adds a container; also one that is being inspected, which is then inspected once more.
    pub(super) fn want(&mut self, id: String, trigger: InspectTrigger) {
        if trigger == InspectTrigger::Event {
            self.suspects.remove(&id);
        }
        // What a puzzling container shows next needs no event.
        let trigger = match self.puzzling.remove(&id) {
            Some(_) => InspectTrigger::Event,
            None => trigger,
        };
        let known = self.waiting.entry(id).or_insert(trigger);
        *known = trigger.max(*known);
    }

    /// Whether no container waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The containers whose inspects begin now.
    pub(super) fn begin(&mut self, now: Moment) -> Vec<String> {
        let waiting = &mut self.waiting;
        self.puzzling.retain(|id, again_at| {
            let waits = now < *again_at;
            if !waits {
                waiting.insert(id.clone(), InspectTrigger::Event);
            }
            waits
        });
        let is_troubled = |id: &&String| self.troubled.contains_key(*id);
        let mut troubled = self.under_way.keys().filter(is_troubled).count();
        let mut begun = Vec::new();
        let is_last = |it: &(&String, &InspectTrigger)| *it.1 == InspectTrigger::Pidfd;
        let first = self.waiting.iter().filter(|it| !is_last(it));
        for (id, trigger) in first.chain(self.waiting.iter().filter(is_last)) {
            if self.under_way.len() + begun.len() >= AT_A_TIME {
                break;
            }
            if self.under_way.contains_key(id) {
                continue;
            }
            if let Some(again_at) = self.troubled.get(id) {
                if now < *again_at || troubled >= TROUBLED_AT_A_TIME {
                    continue;
                }
                troubled += 1;
            }
            begun.push((id.clone(), *trigger));
        }
        for (id, trigger) in &begun {
            self.waiting.remove(id);
            let begun = ActiveInspect {
                trigger: *trigger,
                deaths: Vec::new(),
            };
            self.under_way.insert(id.clone(), begun);
        }
        begun.into_iter().map(|(id, _)| id).collect()
    }

    /// Until a failed inspect may be tried again, or a puzzling container is inspected again; `None` where none waits for
    /// that.
    pub(super) fn pause(&self, now: Moment) -> Option<Duration> {
        let waiting = |(id, _): &(&String, &Moment)| self.waiting.contains_key(*id);
        let times = self.troubled.iter().filter(waiting).map(|(_, at)| *at);
        let times = times.chain(self.puzzling.values().copied());
        // Containers that are already due wait until another inspect ends.
        times.filter(|at| *at > now).min().map(|at| at - now)
    }

    /// A container with this id (or name) has died. That outdates the inspect that is under way, and no later
    /// one.
    pub(super) fn died(&mut self, id: &str, death: Death) {
        if let Some(inspect) = self.under_way.get_mut(id) {
            // Bounded by the containers that had the name during one inspect.
            inspect.deaths.retain(|earlier| earlier.id != death.id);
            inspect.deaths.push(death);
        }
    }

    /// Whether the container is being inspected, or waits for it.
    pub(super) fn concerns(&self, id: &str) -> bool {
        self.under_way.contains_key(id)
            || self.waiting.contains_key(id)
            || self.puzzling.contains_key(id)
    }

    /// The inspect was answered.
    pub(super) fn answered(&mut self, id: &str) -> FinishedInspect {
        self.troubled.remove(id);
        let ended = self.under_way.remove(id);
        let meanwhile = self.waiting.get(id) == Some(&InspectTrigger::Event);
        FinishedInspect {
            hinted: meanwhile
                || ended
                    .as_ref()
                    .is_none_or(|inspect| inspect.trigger == InspectTrigger::Event),
            deaths: ended.map(|inspect| inspect.deaths).unwrap_or_default(),
        }
    }

    /// The inspect failed, and is tried again later.
    pub(super) fn failed(&mut self, id: String, now: Moment) {
        let trigger = self
            .under_way
            .remove(&id)
            .map_or(InspectTrigger::Event, |inspect| inspect.trigger);
        self.troubled.insert(id.clone(), now + TROUBLE_PAUSE);
        self.want(id, trigger);
    }

    /// The inspect showed a state that is none we know, of whose end no event may tell: it is repeated after a pause, or at
    /// once where something asks for that.
    pub(super) fn puzzled(&mut self, id: String, now: Moment) {
        self.suspects.remove(&id);
        match self.waiting.get_mut(&id) {
            Some(trigger) => *trigger = InspectTrigger::Event,
            None => drop(self.puzzling.insert(id, now + TROUBLE_PAUSE)),
        }
    }

    /// Whether no container's last inspect failed.
    pub(super) fn is_well(&self) -> bool {
        self.troubled.is_empty()
    }

    /// The container has changed, and no event had told so until `now`.
    pub(super) fn suspect(&mut self, id: String, now: Moment) {
        self.suspects.insert(id, now);
    }

    /// Whether an event is missing: a change is older than any event may be late.
    pub(super) fn misses_events(&self, now: Moment) -> bool {
        let mut seen = self.suspects.values();
        seen.any(|at| now.saturating_sub(*at) >= EVENTS_LATENESS)
    }

    /// Forgets the containers that are gone.
    pub(super) fn retain(&mut self, is_there: impl Fn(&String) -> bool) {
        self.troubled.retain(|id, _| is_there(id));
        self.puzzling.retain(|id, _| is_there(id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = Duration::from_secs(100);

    fn with(ids: std::ops::Range<u32>) -> InspectQueue {
        let mut queue = InspectQueue::default();
        ids.for_each(|id| queue.want(format!("{id:03}"), InspectTrigger::Timer));
        queue
    }

    #[test]
    fn a_few_are_looked_at_at_a_time_and_all_in_the_end() {
        let mut queue = with(0..100);
        let mut seen = Vec::new();
        loop {
            let begun = queue.begin(NOW);
            assert!(queue.begin(NOW).is_empty(), "no place is free");
            if begun.is_empty() {
                break;
            }
            assert!(begun.len() <= AT_A_TIME);
            for id in begun {
                queue.answered(&id);
                seen.push(id);
            }
        }
        assert_eq!(seen.len(), 100);
        assert!(queue.is_empty());
    }

    #[test]
    fn inspects_for_a_pidfd_wait_until_no_other_does() {
        let mut queue = with(50..70);
        (0..20).for_each(|id| queue.want(format!("{id:03}"), InspectTrigger::Pidfd));
        queue.want("007".to_owned(), InspectTrigger::Event);
        let mut seen = Vec::new();
        while !queue.is_empty() {
            for id in queue.begin(NOW) {
                assert_eq!(queue.answered(&id).hinted, id == "007");
                seen.push(id);
            }
        }
        assert_eq!((seen.len(), seen[0].as_str()), (40, "007"));
        assert!(
            seen[1..21].iter().all(|id| id.as_str() >= "050"),
            "{seen:?}"
        );
    }

    #[test]
    fn one_that_is_hinted_at_while_it_is_looked_at_is_looked_at_again() {
        let mut queue = with(0..1);
        let begun = queue.begin(NOW);
        queue.want("000".to_owned(), InspectTrigger::Event);
        assert!(queue.begin(NOW).is_empty(), "not twice at a time");
        assert!(queue.answered(&begun[0]).hinted, "a hint came meanwhile");
        assert_eq!(queue.begin(NOW), ["000"]);
        assert!(queue.answered("000").hinted);
        queue.want("000".to_owned(), InspectTrigger::Timer);
        queue.begin(NOW);
        assert!(!queue.answered("000").hinted);
    }

    #[test]
    fn a_death_counts_against_the_look_that_began_before_it_was_heard_and_no_other() {
        let death = || Death {
            id: "aa".to_owned(),
            code: 137,
        };
        let mut queue = with(0..1);
        queue.died("000", death());
        queue.begin(NOW);
        assert_eq!(queue.answered("000").deaths, [], "begun after it was heard");

        queue.want("000".to_owned(), InspectTrigger::Timer);
        queue.begin(NOW);
        queue.died("000", death());
        queue.died("000", death());
        queue.want("000".to_owned(), InspectTrigger::Event);
        assert_eq!(queue.answered("000").deaths, [death()]);
        queue.begin(NOW);
        assert_eq!(queue.answered("000").deaths, []);
    }

    #[test]
    fn those_that_do_not_answer_leave_room_for_the_others() {
        let mut queue = with(0..20);
        for _ in 0..3 {
            for id in queue.begin(NOW) {
                queue.failed(id, NOW);
            }
        }
        assert_eq!(queue.pause(NOW), Some(TROUBLE_PAUSE));
        assert!(queue.begin(NOW).is_empty());
        let later = NOW + TROUBLE_PAUSE;
        assert_eq!(queue.begin(later).len(), TROUBLED_AT_A_TIME);
        assert_eq!(queue.pause(later), None, "the rest waits for a place");
        (50..60).for_each(|id| queue.want(id.to_string(), InspectTrigger::Event));
        assert_eq!(queue.begin(later).len(), AT_A_TIME - TROUBLED_AT_A_TIME);
        assert!(!queue.is_well());
    }

    #[test]
    fn an_answer_that_says_nothing_is_asked_for_again_after_a_pause() {
        let mut queue = with(0..1);
        queue.begin(NOW);
        queue.answered("000");
        queue.puzzled("000".to_owned(), NOW);
        assert!(queue.begin(NOW).is_empty());
        assert_eq!(queue.pause(NOW), Some(TROUBLE_PAUSE));
        assert_eq!(queue.begin(NOW + TROUBLE_PAUSE), ["000"]);
        // What it shows then needs no event.
        assert!(queue.answered("000").hinted);
        assert!(queue.is_empty() && queue.is_well());
    }

    #[test]
    fn a_puzzling_container_is_looked_at_at_once_where_an_event_asks_for_it_and_is_no_failure() {
        let mut queue = with(0..2);
        let begun = queue.begin(NOW);
        begun.iter().for_each(|id| drop(queue.answered(id)));
        queue.puzzled("000".to_owned(), NOW);
        assert!(queue.is_well() && queue.is_empty());
        assert!(queue.concerns("000"), "its next inspect is still to come");
        queue.want("000".to_owned(), InspectTrigger::Event);
        assert_eq!(queue.begin(NOW), ["000"]);
        // An event that comes meanwhile isn't made to wait by the answer.
        queue.want("000".to_owned(), InspectTrigger::Event);
        queue.answered("000");
        queue.puzzled("000".to_owned(), NOW);
        assert_eq!(queue.begin(NOW), ["000"]);
        queue.answered("000");
        assert_eq!(queue.pause(NOW), None);

        // The routine relist asks too, and what it shows then needs no event.
        queue.puzzled("000".to_owned(), NOW);
        queue.want("000".to_owned(), InspectTrigger::Timer);
        assert_eq!(queue.begin(NOW), ["000"]);
        assert!(queue.answered("000").hinted);

        queue.puzzled("001".to_owned(), NOW);
        queue.retain(|id| id != "001");
        assert!(queue.begin(NOW + TROUBLE_PAUSE).is_empty());
    }

    #[test]
    fn a_change_without_an_event_is_suspect_until_the_event_comes_late() {
        let mut queue = with(0..1);
        queue.suspect("000".to_owned(), NOW);
        assert!(!queue.misses_events(NOW + EVENTS_LATENESS - Duration::from_millis(1)));
        assert!(queue.misses_events(NOW + EVENTS_LATENESS));
        queue.want("000".to_owned(), InspectTrigger::Event);
        assert!(!queue.misses_events(NOW + EVENTS_LATENESS));
    }
}
