//! What a process takes of the machine, looked at again and again, and whether that grows.

use std::fmt;
use std::time::Instant;

/// One look. The process's log is to have debug output in it.
#[derive(Clone, Copy, Debug)]
pub struct Footprint {
    at: Instant,
    /// KiB.
    resident: usize,
    files: usize,
    threads: usize,
    /// tokio's, by the log's last word.
    tasks: usize,
    /// The child processes, also those that have ended and were not waited for.
    children: usize,
    /// Of the log, but for debug output.
    pub lines: usize,
    /// Of those the ones that tell of a failure, or of its end.
    failures: usize,
}

/// What the log says of each change that there is to tell of, and so as often as there is one.
const NO_FAILURE: [&str; 6] = [
    "announcing",
    "the container is gone",
    "by another writer; put back",
    " services, ",
    "are not logged one by one",
    "had no instance for long enough",
];

impl Footprint {
    /// Of that process, which has logged so much.
    pub fn of(pid: u32, log: &str) -> Footprint {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
            number.unwrap_or_else(|| panic!("{name} is missing in {status}"))
        };
        let files = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs");
        let tasks = log.rsplit_once("alive tasks=");
        let tasks = tasks.and_then(|(_, rest)| rest.lines().next()?.trim().parse().ok());
        let told = || log.lines().filter(|line| !line.contains(" DEBUG "));
        let is_failure = |line: &&str| !NO_FAILURE.iter().any(|words| line.contains(words));
        Footprint {
            at: Instant::now(),
            resident: field("VmRSS:"),
            files: files.count(),
            threads: field("Threads:"),
            tasks: tasks.expect("the log has no debug output"),
            children: children(pid),
            lines: told().count(),
            failures: told().filter(is_failure).count(),
        }
    }
}

fn children(pid: u32) -> usize {
    let all = std::fs::read_dir("/proc")
        .expect("there is /proc")
        .flatten();
    let stats = all.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
    // 17 (a name (of whatever)) S 1 …: the parent comes second after the name.
    let parent = |stat: &String| {
        stat.rsplit_once(')')?
            .1
            .split_whitespace()
            .nth(1)?
            .parse()
            .ok()
    };
    stats.filter(|stat| parent(stat) == Some(pid)).count()
}

/// Many looks at one process. The first fifth of them is its warming up; the second fifth is held
/// against the last.
#[derive(Default)]
pub struct Footprints {
    looks: Vec<Footprint>,
}

/// Between two fifths that many hundred things went wrong and were put right again; what isn't given
/// back once each time has grown by hundreds. What is under way at a look is no more than a few.
const A_FEW: usize = 8;

/// KiB, and the twentieth part: an allocator's holes, and buffers that were larger once. Ten thousand
/// containers that left a hundred bytes each would be as much.
const HOLES: usize = 1024;

/// Lines of failures in a fifth. Each kind of failure is told, with its end, at growing intervals: early on
/// they are dozens, late a few. Told each time they would be one a round, and a fifth has two dozen rounds.
const FAILURES: usize = 12;

/// The same where a fifth takes long: two lines in ten minutes of each kind, and there are some twenty kinds.
const FAILURES_IN_10_MINUTES: usize = 40;

impl Footprints {
    /// One more.
    pub fn add(&mut self, look: Footprint) {
        self.looks.push(look);
    }

    /// The last one's numbers, in the order of [`Footprints::HEAD`].
    pub fn row(&self) -> String {
        let look = self.looks.last().expect("there was a look");
        let numbers = MEASURES.map(|(_, number, _)| format!("{:>8}", number(look)));
        format!("{} {:>8}", numbers.join(" "), look.lines)
    }

    /// What the columns of a row are.
    pub const HEAD: &str = "     KiB    files  threads    tasks children    lines";

    fn fifth(&self, number: usize) -> &[Footprint] {
        let fifth = self.looks.len() / 5;
        assert!(fifth >= 3, "too few looks: {}", self.looks.len());
        &self.looks[number * fifth..(number + 1) * fifth]
    }

    /// What grew; nothing if all is well.
    pub fn growth(&self) -> Vec<String> {
        let (early, late) = (self.fifth(1), self.fifth(4));
        let mut grown = Vec::new();
        for (what, number, slack) in MEASURES {
            let (before, after) = (median(early, number), median(late, number));
            if after > before + slack(before) {
                grown.push(format!("{what} grew from {before} to {after}"));
            }
        }
        let (failures, seconds) = (rise(late, |look| look.failures), seconds(late));
        if failures > FAILURES.max(FAILURES_IN_10_MINUTES * seconds as usize / 600) {
            grown.push(format!("{failures} lines of failures in {seconds:.0} s"));
        }
        grown
    }
}

/// A number of a look's, and how much more of it is no growth.
type Measure = (&'static str, fn(&Footprint) -> usize, fn(usize) -> usize);

const MEASURES: [Measure; 5] = [
    (
        "resident memory (KiB)",
        |look| look.resident,
        |before| HOLES + before / 20,
    ),
    ("open files", |look| look.files, |_| A_FEW),
    ("threads", |look| look.threads, |_| A_FEW),
    ("tasks", |look| look.tasks, |_| A_FEW),
    ("children", |look| look.children, |_| A_FEW),
];

fn median(looks: &[Footprint], number: fn(&Footprint) -> usize) -> usize {
    let mut numbers: Vec<_> = looks.iter().map(number).collect();
    numbers.sort_unstable();
    numbers[numbers.len() / 2]
}

fn rise(looks: &[Footprint], number: fn(&Footprint) -> usize) -> usize {
    number(&looks[looks.len() - 1]) - number(&looks[0])
}

fn seconds(looks: &[Footprint]) -> f64 {
    (looks[looks.len() - 1].at - looks[0].at).as_secs_f64()
}

/// The second fifth beside the last.
impl fmt::Display for Footprints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (early, late) = (self.fifth(1), self.fifth(4));
        writeln!(f, "{:<28} {:>9} {:>9}", "", "early", "late")?;
        for (what, number, _) in MEASURES {
            let (before, after) = (median(early, number), median(late, number));
            writeln!(f, "{what:<28} {before:>9} {after:>9}")?;
        }
        let hourly = |looks, number| rise(looks, number) as f64 / seconds(looks) * 3600.0;
        for (what, number) in [
            (
                "log lines an hour",
                (|look| look.lines) as fn(&Footprint) -> usize,
            ),
            ("  of them of failures", |look| look.failures),
        ] {
            let (before, after) = (hourly(early, number), hourly(late, number));
            writeln!(f, "{what:<28} {before:>9.0} {after:>9.0}")?;
        }
        Ok(())
    }
}
