//! The first process of a container: which process may stand for it, and when its death ends the container's life.
//! Pure.
//!
//! `State.Pid` is a number in the engine's pid namespace. The same number may be another process here, or a later one.
//! So a pidfd (`pidfd_open(2)`) counts only where it is the init of a pid namespace one below ours, and where an
//! inspect that began after it was opened still shows the same `Pid` and `StartedAt`. Then its death is the end of that
//! life, whatever an inspect of that life says later.

use super::container::{ContainerView, Observation};
use super::life::Life;
use std::num::NonZeroI32;

/// The first process of one life of a container, as an inspect shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstProcess {
    /// The container's life.
    pub life: Life,
    /// `State.Pid`, a number in the engine's pid namespace.
    pub pid: NonZeroI32,
}

impl Observation {
    /// The first process that the engine's answer shows; `None` where the container doesn't run.
    #[must_use]
    pub fn first_process(&self) -> Option<FirstProcess> {
        match self {
            Self::Present(container) if container.has_processes() => Some(FirstProcess {
                life: container.life()?,
                pid: container.pid?,
            }),
            Self::Present(_) | Self::Absent | Self::NeverAsked => None,
        }
    }
}

/// A process that a pidfd was opened on, because an inspect showed it as a container's first.
#[derive(Debug)]
pub struct WatchedProcess {
    process: FirstProcess,
    /// An inspect that began after the pidfd was opened has shown the same process.
    is_confirmed: bool,
    is_dead: bool,
}

impl WatchedProcess {
    /// The pidfd was opened just now.
    #[must_use]
    pub const fn opened(process: FirstProcess) -> Self {
        Self {
            process,
            is_confirmed: false,
            is_dead: false,
        }
    }

    /// An inspect that began after the pidfd was opened shows this view, which is corrected where the process is dead.
    /// Returns whether the pidfd still stands for the container's first process.
    pub fn shown(&mut self, view: &mut ContainerView) -> bool {
        self.is_confirmed = view.observation.first_process().as_ref() == Some(&self.process);
        if let Some(life) = self.ended() {
            view.process_died(life);
        }
        self.is_confirmed
    }

    /// Whether the process's death counts.
    #[must_use]
    pub const fn is_confirmed(&self) -> bool {
        self.is_confirmed
    }

    /// The pidfd tells that its process is dead.
    pub const fn died(&mut self) {
        self.is_dead = true;
    }

    /// The process.
    #[must_use]
    pub const fn process(&self) -> &FirstProcess {
        &self.process
    }

    /// The life that is over by what is known of the process.
    #[must_use]
    pub fn ended(&self) -> Option<&Life> {
        (self.is_confirmed && self.is_dead).then_some(&self.process.life)
    }
}

/// How a container's death becomes known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeathSource {
    /// At once, from the kernel: there is a pidfd on this process.
    Kernel(NonZeroI32),
    /// When the engine tells, because there is no pidfd.
    Events(NoPidfd),
}

impl std::fmt::Display for DeathSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Kernel(pid) => write!(f, "by the kernel (a pidfd on process {pid})"),
            Self::Events(why) => write!(f, "by the engine's events: {why}"),
        }
    }
}

/// Why a container's death is known by the engine's events alone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoPidfd {
    /// The engine is reached over TCP.
    #[error("the engine is reached over TCP and may run on another machine")]
    Tcp,
    /// The process that listens on the engine's socket is in another pid namespace than sidekick.
    #[error(
        "the engine runs in another pid namespace (sidekick in a container needs `docker run --pid=host`)"
    )]
    OtherNamespace,
    /// The process is in no pid namespace of its own.
    #[error(
        "process {0} is not the init of the container's own pid namespace (as with --pid=host)"
    )]
    NoInit(NonZeroI32),
    /// There is no such process here: it has died, or the engine counts processes elsewhere.
    #[error("there is no process {0} in sidekick's pid namespace")]
    NoProcess(NonZeroI32),
    /// Half of the file descriptors that sidekick may open are pidfds already.
    #[error(
        "{0} containers have a pidfd, which is half of the open files that sidekick may have (LimitNOFILE=, ulimit -n)"
    )]
    OpenFiles(usize),
    /// The kernel, or a filter of system calls, refuses pidfds.
    #[error("pidfds cannot be had: {0}")]
    Refused(String),
}

/// How many pid namespaces a process is in, from ours down, and its number in the last of them, by the lines of
/// `/proc/self/fdinfo/FD` of a pidfd; `None` where the process is dead or isn't seen from our namespace.
#[must_use]
pub fn namespaces(fdinfo: &str) -> Option<(usize, i32)> {
    let line = fdinfo
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))?;
    let numbers = line.split_ascii_whitespace().map(str::parse::<i32>);
    let numbers: Vec<i32> = numbers.collect::<Result<_, _>>().ok()?;
    let last = *numbers.last()?;
    numbers
        .iter()
        .all(|n| *n > 0)
        .then_some((numbers.len(), last))
}

/// Whether the process is the init of a pid namespace one below ours, as a container's first process is where the
/// engine is in ours. (Deeper ones belong to an engine that runs in a container itself.)
#[must_use]
pub fn is_container_init(fdinfo: &str) -> bool {
    namespaces(fdinfo) == Some((2, 1))
}

/// Whether the process is in our own pid namespace, and in none below it.
#[must_use]
pub fn is_in_our_namespace(fdinfo: &str) -> bool {
    namespaces(fdinfo).is_some_and(|(count, _)| count == 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::announce::policy::container::{ContainerHealth, ContainerSnapshot, ContainerState};
    use crate::announce::policy::stop::StopSettings;
    use crate::clock::Moment;
    use crate::endpoint::Since;
    use std::collections::BTreeMap;
    use std::sync::Arc;

    fn view(container: &str, pid: i32, second: i128) -> ContainerView {
        let snapshot = ContainerSnapshot {
            id: container.to_owned(),
            name: "redis1".to_owned(),
            state: ContainerState::Running,
            pid: NonZeroI32::new(pid),
            health: ContainerHealth::Good,
            started_at: Since::from_unix_nanos(second * 1_000_000_000),
            stop: StopSettings::default(),
            host_network: false,
            ports: BTreeMap::new(),
            labels: BTreeMap::new(),
            refusal: None,
            addresses: Vec::new(),
        };
        let observation = Observation::Present(Arc::new(snapshot));
        ContainerView::seen(observation, None, None, Moment::ZERO)
    }

    fn opened(view: &ContainerView) -> WatchedProcess {
        WatchedProcess::opened(view.observation.first_process().unwrap())
    }

    #[test]
    fn a_death_counts_only_after_an_inspect_has_shown_the_same_process() {
        let mut view = view("aa", 4711, 10);
        let mut watched = opened(&view);
        assert_eq!(watched.ended(), None);
        assert!(watched.shown(&mut view));
        assert_eq!((watched.ended(), &view.ended), (None, &None), "it lives");
        watched.died();
        let life = watched.ended().cloned();
        assert!(life.is_some());
        assert!(watched.shown(&mut view), "an engine that is late");
        assert_eq!(view.ended, life);
    }

    #[test]
    fn a_process_that_dies_between_two_inspects_ends_the_life_that_the_second_still_shows() {
        let mut view = view("aa", 4711, 10);
        let mut watched = opened(&view);
        watched.died();
        assert_eq!(watched.ended(), None, "it may have been a stranger's pid");
        assert!(watched.shown(&mut view));
        assert_eq!(view.ended.as_ref(), watched.ended());
        assert!(view.ended.is_some());
    }

    #[test]
    fn a_pidfd_of_another_life_or_another_container_ends_nothing() {
        for mut other in [
            view("aa", 4711, 11),
            view("aa", 4712, 10),
            view("bb", 4711, 10),
            view("aa", 0, 10),
            ContainerView::unasked(Moment::ZERO),
        ] {
            let mut watched = opened(&view("aa", 4711, 10));
            watched.died();
            assert!(!watched.shown(&mut other), "{other:?}");
            assert_eq!((watched.ended(), &other.ended), (None, &None), "{other:?}");
        }
    }

    /// As kernel 6.18 writes it.
    fn fdinfo(nspid: &str) -> String {
        format!("pos:\t0\nflags:\t02000002\nmnt_id:\t16\nino:\t41\nPid:\t4711\n{nspid}\n")
    }

    #[test]
    fn a_containers_init_has_a_number_of_ours_and_is_1_in_its_own_namespace() {
        assert!(is_container_init(&fdinfo("NSpid:\t4711\t1")));
        for other in [
            // A process of ours, as with --pid=host; one that joined a container; an engine's init in a container.
            "NSpid:\t4711",
            "NSpid:\t4711\t7",
            "NSpid:\t4711\t52\t1",
            // Dead; of a namespace that isn't below ours; no kernel's line.
            "NSpid:\t-1",
            "NSpid:\t0",
            "NSpid:",
            "NSpid:\t4711\tx",
            "",
        ] {
            assert!(!is_container_init(&fdinfo(other)), "{other}");
        }
    }

    #[test]
    fn an_engine_of_ours_has_one_number() {
        assert!(is_in_our_namespace(&fdinfo("NSpid:\t812")));
        for other in ["NSpid:\t812\t1", "NSpid:\t0", "NSpid:\t-1", ""] {
            assert!(!is_in_our_namespace(&fdinfo(other)), "{other}");
        }
    }
}
