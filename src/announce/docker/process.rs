//! Pidfds on the first processes of containers: a death is known when it happens, also while the engine is busy,
//! frozen or down.

use super::client::{CALL_DEADLINE, DockerHost};
use crate::announce::policy::container::{ContainerView, ContainerViews};
use crate::announce::policy::life::Life;
use crate::announce::policy::process::{
    DeathSource, FirstProcess, NoPidfd, WatchedProcess, is_container_init, is_in_our_namespace,
};
use crate::clock::now;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Resource, getrlimit, pidfd_open};
use std::collections::BTreeMap;
use std::future::{Future, pending};
use std::num::NonZeroI32;
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::pin;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use tracing::{debug, info, warn};

/// The pidfds of the containers that are watched, over all connections to the engine.
pub(super) struct ProcessWatcher {
    /// By the container's name or id, as in the views.
    watched: BTreeMap<String, Watched>,
    /// One for each pidfd that is open; ends when its process does.
    deaths: JoinSet<(String, FirstProcess)>,
    /// The most pidfds that may be open.
    at_most: usize,
    /// The last reason that was logged for containers that have no pidfd.
    told: Option<NoPidfd>,
}

struct Watched {
    process: WatchedProcess,
    pidfd: AbortHandle,
}

impl Drop for Watched {
    fn drop(&mut self) {
        // Closes the pidfd.
        self.pidfd.abort();
    }
}

impl ProcessWatcher {
    pub(super) fn new() -> Self {
        Self {
            watched: BTreeMap::new(),
            deaths: JoinSet::new(),
            at_most: most_pidfds(),
            told: None,
        }
    }

    /// An inspect has shown this view, which is corrected where the first process is known to be dead. `engine` is
    /// whether the engine's pids mean anything here. Returns whether a pidfd was opened, which counts after another
    /// inspect.
    pub(super) fn learn(
        &mut self,
        subject: &str,
        view: &mut ContainerView,
        engine: &Result<(), NoPidfd>,
    ) -> bool {
        if let Some(watched) = self.watched.get_mut(subject) {
            // The inspect began after the pidfd was opened: that was done when the one before it had been answered.
            let is_news = !watched.process.is_confirmed();
            if watched.process.shown(view) {
                if is_news {
                    let pid = watched.process.process().pid;
                    debug!(container = subject, pid, "its death is known by the kernel");
                }
                return false;
            }
            self.watched.remove(subject);
        }
        let process = view.observation.first_process();
        let Some(process) = process.filter(|_| view.ended.is_none()) else {
            return false;
        };
        let has_room = self.deaths.len() < self.at_most;
        let pidfd = engine.clone().and_then(|()| match has_room {
            true => open(process.pid),
            false => Err(NoPidfd::OpenFiles(self.at_most)),
        });
        match pidfd.and_then(register) {
            Ok(pidfd) => self.watch(subject, process, pidfd),
            Err(why) => {
                self.log(subject, why);
                return false;
            }
        }
        true
    }

    fn watch(&mut self, subject: &str, process: FirstProcess, pidfd: AsyncFd<OwnedFd>) {
        let told = (subject.to_owned(), process.clone());
        let task = self.deaths.spawn(async move {
            // Readable once the process has ended, and then for ever.
            let _ = pidfd.readable().await;
            told
        });
        let watched = Watched {
            process: WatchedProcess::opened(process),
            pidfd: task,
        };
        self.watched.insert(subject.to_owned(), watched);
    }

    /// The next life that has ended, and the name or id that its container is watched by. Cancel-safe.
    pub(super) async fn next_death(&mut self) -> (String, Life) {
        loop {
            let (subject, process) = match self.deaths.join_next().await {
                Some(Ok(ended)) => ended,
                // Its pidfd was closed.
                Some(Err(_)) => continue,
                None => pending().await,
            };
            let watched = self.watched.get_mut(&subject);
            let Some(watched) = watched.filter(|it| *it.process.process() == process) else {
                continue;
            };
            watched.process.died();
            debug!(container = subject, pid = process.pid, "process ended");
            if let Some(life) = watched.process.ended() {
                return (subject, life.clone());
            }
        }
    }

    /// Waits for `future`, and publishes the deaths of that time.
    pub(super) async fn until<T>(
        &mut self,
        views: &watch::Sender<ContainerViews>,
        future: impl Future<Output = T>,
    ) -> T {
        let mut future = pin!(future);
        loop {
            // Cancel-safe: a death that isn't returned yet is still to come, and the future is polled by reference.
            tokio::select! {
                biased;
                death = self.next_death() => publish(views, &death),
                done = &mut future => return done,
            }
        }
    }

    /// Logs a reason that holds for many containers once.
    fn log(&mut self, subject: &str, why: NoPidfd) {
        let is_general = match &why {
            NoPidfd::NoInit(_) | NoPidfd::NoProcess(_) => false,
            _ => self.told.as_ref() != Some(&why),
        };
        match &why {
            _ if !is_general => debug!(container = subject, "no pidfd: {why}"),
            NoPidfd::OpenFiles(_) => {
                warn!("the deaths of further containers are known by the engine's events: {why}");
            }
            _ => info!("deaths are known by the engine's events, not by the kernel: {why}"),
        }
        if is_general {
            self.told = Some(why);
        }
    }
}

/// Publishes a death at once.
pub(super) fn publish(views: &watch::Sender<ContainerViews>, (subject, life): &(String, Life)) {
    let now = now();
    views.send_if_modified(|views| views.change(subject, now, |view| view.process_died(life)));
}

/// By which source `announce` would know of deaths, for `explain`: it holds a pidfd for each container that it was
/// asked about, so that it meets the same limit.
#[derive(Debug)]
pub struct PidfdProbe {
    engine: Result<(), NoPidfd>,
    held: Vec<OwnedFd>,
}

impl PidfdProbe {
    /// Finds out whether the engine's pids mean anything here.
    pub async fn new(host: &DockerHost) -> Self {
        Self {
            engine: shares_our_namespace(host).await,
            held: Vec::new(),
        }
    }

    /// The source for this container; `None` where it doesn't run.
    pub fn source(&mut self, view: &ContainerView) -> Option<DeathSource> {
        let pid = view.observation.first_process()?.pid;
        let most = most_pidfds();
        let pidfd = self.engine.clone().and_then(|()| match self.held.len() {
            n if n < most => open(pid),
            _ => Err(NoPidfd::OpenFiles(most)),
        });
        Some(match pidfd {
            Ok(pidfd) => {
                self.held.push(pidfd);
                DeathSource::Kernel(pid)
            }
            Err(why) => DeathSource::Events(why),
        })
    }
}

/// Whether the process that listens on the engine's socket is in our pid namespace. (Where systemd listens for the
/// engine, that is systemd, and the engine is its child.)
pub(super) async fn shares_our_namespace(host: &DockerHost) -> Result<(), NoPidfd> {
    let DockerHost::Unix(path) = host else {
        return Err(NoPidfd::Tcp);
    };
    let connected = timeout(CALL_DEADLINE, UnixStream::connect(path)).await;
    let refused = |why: &dyn std::fmt::Display| NoPidfd::Refused(format!("{path}: {why}"));
    let peer = match connected {
        Ok(stream) => stream.and_then(|stream| stream.peer_cred()),
        Err(elapsed) => return Err(refused(&elapsed)),
    };
    // 0 where our pid namespace has no number for it.
    let pid = peer.map_err(|error| refused(&error))?.pid();
    let pid = pid.and_then(NonZeroI32::new);
    let listener = pidfd(pid.ok_or(NoPidfd::OtherNamespace)?)?;
    match is_in_our_namespace(&fdinfo(&listener)?) {
        true => Ok(()),
        false => Err(NoPidfd::OtherNamespace),
    }
}

/// Has the runtime wait for the end of the pidfd's process.
// What tokio wants of its `unsafe` successor, that the file stays open and the same, an OwnedFd promises.
#[allow(deprecated)]
fn register(pidfd: OwnedFd) -> Result<AsyncFd<OwnedFd>, NoPidfd> {
    AsyncFd::with_interest(pidfd, Interest::READABLE)
        .map_err(|error| NoPidfd::Refused(error.to_string()))
}

/// A pidfd on the init of a container.
fn open(pid: NonZeroI32) -> Result<OwnedFd, NoPidfd> {
    let pidfd = pidfd(pid)?;
    match is_container_init(&fdinfo(&pidfd)?) {
        true => Ok(pidfd),
        false => Err(NoPidfd::NoInit(pid)),
    }
}

fn pidfd(pid: NonZeroI32) -> Result<OwnedFd, NoPidfd> {
    let process = Pid::from_raw(pid.get()).ok_or(NoPidfd::NoProcess(pid))?;
    pidfd_open(process, PidfdFlags::empty()).map_err(|error| match error {
        Errno::SRCH => NoPidfd::NoProcess(pid),
        error => NoPidfd::Refused(error.to_string()),
    })
}

fn fdinfo(pidfd: &OwnedFd) -> Result<String, NoPidfd> {
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    std::fs::read_to_string(&path).map_err(|error| NoPidfd::Refused(format!("{path}: {error}")))
}

/// Half of the files that may be open: the rest is for etcd, the engine and the log.
fn most_pidfds() -> usize {
    let limit = getrlimit(Resource::Nofile).current;
    limit.map_or(usize::MAX, |n| usize::try_from(n / 2).unwrap_or(usize::MAX))
}
