//! Which failures that repeat are worth a line in the log. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

/// What to say of a failure that repeats: the first time at once, then with a count and at growing
/// intervals, so that an hour of etcd's absence is ten lines and not ten thousand.
///
/// One that is over and back again within ten minutes is the same one still: it is told at growing
/// intervals too, so that what comes and goes is no thousand lines either.
#[derive(Debug, Clone, Default)]
pub struct LogThrottle {
    began: Option<Duration>,
    /// When it was over last, as long as that matters.
    ended: Option<Duration>,
    /// A line was said since it began.
    told: bool,
    told_at: Duration,
    next_line: Duration,
    /// Between two lines while it lasts.
    interval: Duration,
    /// Between two beginnings that are told, where it comes and goes.
    quiet: Duration,
    failures: u64,
}

/// A failure worth a line in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notice {
    /// How long it has been failing.
    pub lasted: Duration,
    /// How often it failed in that time; where it comes and goes, since it came first.
    pub failures: u64,
}

const FIRST_REPEAT: Duration = Duration::from_secs(10);
const LAST_REPEAT: Duration = Duration::from_secs(600);

impl LogThrottle {
    /// Nothing has failed yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            began: None,
            ended: None,
            told: false,
            told_at: Duration::ZERO,
            next_line: Duration::ZERO,
            interval: Duration::ZERO,
            quiet: Duration::ZERO,
            failures: 0,
        }
    }

    /// It failed at `now` (any clock that doesn't go back). `Some`: say so.
    pub fn failed(&mut self, now: Duration) -> Option<Notice> {
        let began = self.began.unwrap_or_else(|| self.begin(now));
        self.failures += 1;
        if now < self.next_line {
            return None;
        }
        if self.ended.is_some() && !self.told {
            self.quiet = grown(self.quiet.max(FIRST_REPEAT));
        }
        self.interval = grown(self.interval);
        self.next_line = now + self.interval;
        (self.told, self.told_at) = (true, now);
        Some(Notice {
            lasted: now.saturating_sub(began),
            failures: self.failures,
        })
    }

    fn begin(&mut self, now: Duration) -> Duration {
        if self.is_forgotten(now) {
            *self = Self::default();
        }
        // What lasts after it came back is told no sooner than what comes back.
        (self.interval, self.told) = (self.quiet, false);
        self.next_line = match self.ended {
            Some(_) => self.told_at + self.quiet.max(FIRST_REPEAT),
            None => now,
        };
        *self.began.insert(now)
    }

    /// It worked at `now`. `Some`: it had been failing and that was said, so say that it is over.
    pub fn recovered(&mut self, now: Duration) -> Option<Notice> {
        let began = self.began.take()?;
        self.ended = Some(now);
        self.told.then(|| Notice {
            lasted: now.saturating_sub(began),
            failures: self.failures,
        })
    }

    /// It happened at `now`, and was over at once. `Some`: say so.
    pub fn happened(&mut self, now: Duration) -> Option<Notice> {
        let notice = self.failed(now);
        self.recovered(now);
        notice
    }

    /// Since when it has been failing.
    #[must_use]
    pub const fn since(&self) -> Option<Duration> {
        self.began
    }

    /// Whether it was over for so long that the next one will be the first again.
    #[must_use]
    pub fn is_forgotten(&self, now: Duration) -> bool {
        let calm = |at| now.saturating_sub(at) >= LAST_REPEAT;
        self.began.is_none() && self.ended.is_none_or(calm)
    }
}

fn grown(interval: Duration) -> Duration {
    (interval * 2).clamp(FIRST_REPEAT, LAST_REPEAT)
}

/// What to say of many things, each of which may happen again and again: of each the first time at
/// once, then with a count and at growing intervals. Of more different ones than [`DIFFERENT`] within
/// ten minutes the rest is a number.
#[derive(Debug, Default)]
pub struct Repeats {
    said: BTreeMap<String, LogThrottle>,
    unsaid: u64,
    unsaid_since: Option<Duration>,
    /// Numbers that were told, as far as the log is concerned.
    floods: LogThrottle,
}

/// So many different things are told one by one.
pub const DIFFERENT: usize = 500;

/// How long a flood is counted before it is told for the first time.
const FLOOD: Duration = Duration::from_secs(60);

impl Repeats {
    /// That happened at `now`. `Some`: say so, and that it was so many times.
    pub fn happened(&mut self, what: &str, now: Duration) -> Option<u64> {
        if let Some(known) = self.said.get_mut(what) {
            return known.happened(now).map(|notice| notice.failures);
        }
        if self.said.len() >= DIFFERENT {
            self.said.retain(|_, known| !known.is_forgotten(now));
        }
        if self.said.len() >= DIFFERENT {
            self.unsaid += 1;
            self.unsaid_since.get_or_insert(now);
            return None;
        }
        let first = self.said.entry(what.to_owned()).or_default();
        first.happened(now).map(|notice| notice.failures)
    }

    /// To be asked now and then: so many different things happened that nothing was said of. `Some`: say so.
    pub fn flood(&mut self, now: Duration) -> Option<u64> {
        let due = self.unsaid_since.is_some_and(|at| now >= at + FLOOD);
        if !due || self.floods.happened(now).is_none() {
            return None;
        }
        self.unsaid_since = None;
        Some(std::mem::take(&mut self.unsaid))
    }
}

/// How many lines of one kind the log may have: [`BURST`] at once, and one more each [`ANOTHER`].
#[derive(Debug, Clone, Default)]
pub struct Allowance {
    used: u32,
    since: Duration,
}

/// So many at once: a deploy is told change by change.
pub const BURST: u32 = 20;

/// Between two, of what goes on and on.
pub const ANOTHER: Duration = Duration::from_secs(10);

impl Allowance {
    /// Whether there may be one at `now`; then it is used up.
    pub fn take(&mut self, now: Duration) -> bool {
        let passed = now.saturating_sub(self.since).as_secs() / ANOTHER.as_secs();
        let again = u32::try_from(passed).unwrap_or(u32::MAX).min(self.used);
        self.used -= again;
        self.since = if self.used == 0 {
            now
        } else {
            self.since + ANOTHER * again
        };
        let may = self.used < BURST;
        self.used += u32::from(may);
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_of_failures_is_a_handful_of_lines() {
        let mut outage = LogThrottle::default();
        let lines: Vec<_> = (0..3600)
            .filter_map(|s| outage.failed(Duration::from_secs(s)))
            .collect();
        assert_eq!(lines[0].failures, 1);
        assert!((5..=12).contains(&lines.len()), "{} lines", lines.len());
        let over = outage.recovered(Duration::from_secs(3600)).unwrap();
        assert_eq!(over.lasted, Duration::from_secs(3600));
        assert_eq!(outage.recovered(Duration::from_secs(3601)), None);
    }

    #[test]
    fn a_second_outage_is_told_at_once_again() {
        let mut outage = LogThrottle::default();
        assert!(outage.failed(Duration::from_secs(1)).is_some());
        assert!(outage.failed(Duration::from_secs(2)).is_none());
        outage.recovered(Duration::from_secs(3));
        let again = outage.failed(Duration::from_secs(13)).unwrap();
        assert_eq!((again.lasted, again.failures), (Duration::ZERO, 3));
        outage.recovered(Duration::from_secs(14));
        let much_later = outage.failed(Duration::from_secs(614)).unwrap();
        assert_eq!(
            (much_later.lasted, much_later.failures),
            (Duration::ZERO, 1)
        );
    }

    /// What came back after more than ten seconds used to be a new one each time: a name that was
    /// looked up every 30 s and found every other time was 120 lines an hour.
    #[test]
    fn an_hour_of_coming_and_going_is_a_handful_of_lines() {
        for (every, lasts) in [(1, 0), (11, 1), (30, 1), (60, 30), (400, 300), (599, 1)] {
            let mut outage = LogThrottle::default();
            let (mut told, mut over, mut failures) = (Vec::new(), 0, 0);
            for second in 0..3600 {
                let now = Duration::from_secs(second);
                if second % every <= lasts {
                    failures += 1;
                    told.extend(outage.failed(now));
                }
                if second % every == lasts {
                    over += usize::from(outage.recovered(now).is_some());
                }
            }
            assert!((5..=24).contains(&told.len()), "{every} {lasts}: {told:?}");
            assert!(over <= 13, "{every} {lasts}: {over}");
            let last = told.last().unwrap();
            assert!(last.failures * 4 > failures * 3, "{last:?} of {failures}");
        }
    }

    #[test]
    fn a_flood_of_different_things_is_a_number() {
        let mut repeats = Repeats::default();
        let (mut one_by_one, mut floods, mut in_them) = (0, 0, 0);
        for second in 0..3600 {
            let now = Duration::from_secs(second);
            let things = (0..20).map(|n| format!("{second} {n}"));
            one_by_one += things.filter_map(|it| repeats.happened(&it, now)).count();
            if let Some(unsaid) = repeats.flood(now) {
                (floods, in_them) = (floods + 1, in_them + unsaid);
            }
        }
        assert_eq!(one_by_one, 6 * DIFFERENT, "so many in ten minutes");
        assert!((5..=13).contains(&floods), "{floods}");
        assert!(repeats.said.len() <= DIFFERENT);
        assert_eq!(one_by_one + (in_them + repeats.unsaid) as usize, 20 * 3600);
    }

    #[test]
    fn one_thing_that_keeps_happening_crowds_no_other_out() {
        let mut repeats = Repeats::default();
        let said = |repeats: &mut Repeats, what, second| {
            repeats.happened(what, Duration::from_secs(second))
        };
        let lines = (0..3600).filter_map(|second| said(&mut repeats, "a", second));
        assert!((5..=13).contains(&lines.count()));
        assert_eq!(said(&mut repeats, "b", 3600), Some(1));
        assert_eq!(repeats.flood(Duration::from_secs(7200)), None);
    }

    #[test]
    fn after_a_long_outage_the_next_one_is_told_at_once() {
        let mut outage = LogThrottle::default();
        for s in 0..3600 {
            outage.failed(Duration::from_secs(s));
        }
        outage.recovered(Duration::from_secs(3600));
        assert!(outage.failed(Duration::from_secs(3660)).is_some());
    }

    #[test]
    fn an_hour_of_eighty_lines_a_second_is_a_burst_and_then_six_a_minute() {
        let mut allowance = Allowance::default();
        let at = |n: u64| Duration::from_millis(7_000 + n * 1000 / 80);
        let lines = (0..3_600 * 80).filter(|n| allowance.take(at(*n))).count();
        assert!((375..=385).contains(&lines), "{lines}");
        let later = Duration::from_secs(8_000);
        assert_eq!(
            (0..50).filter(|_| allowance.take(later)).count(),
            BURST as usize
        );
    }
}
