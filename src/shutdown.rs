//! SIGINT, SIGTERM, SIGHUP and SIGUSR1 as a value that tasks await.

use crate::telemetry;
use rustix::process::Signal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};

/// What was requested so far.
#[derive(Debug, Clone, Copy, Default)]
struct Requests {
    /// How often a stop was requested.
    times: u32,
    /// The first request was to hand over.
    hand_over: bool,
}

/// Whether a stop was requested. All clones see the same.
#[derive(Debug, Clone)]
pub struct Shutdown {
    requests: watch::Receiver<Requests>,
    /// A second request cuts the drain short, and doesn't end the process.
    drains: Arc<AtomicBool>,
}

/// Requests a stop of the tasks that wait for the [`Shutdown`] it was made with.
#[derive(Debug)]
pub struct StopRequest(watch::Sender<Requests>);

impl StopRequest {
    /// With the shutdown that it requests; a request that is dropped counts as one.
    #[must_use]
    pub fn new() -> (Self, Shutdown) {
        let (asked, requests) = watch::channel(Requests::default());
        let drains = Arc::default();
        (Self(asked), Shutdown { requests, drains })
    }

    /// Requests the stop; with `hand_over`, one that leaves the keys to the next process.
    pub fn send(&self, hand_over: bool) {
        let times = 1;
        self.0.send_replace(Requests { times, hand_over });
    }
}

impl Shutdown {
    /// Returns when a stop is requested; at once if it was before. Cancel-safe.
    pub async fn requested(&mut self) {
        // An error means that the task that receives signals is gone: no clean stop can be requested any
        // more, so that this counts as one.
        let _ = self.requests.wait_for(|asked| asked.times > 0).await;
    }

    /// Whether what was requested is to leave the keys to the next process.
    #[must_use]
    pub fn hands_over(&self) -> bool {
        self.requests.borrow().hand_over
    }

    /// Returns when a stop is requested a second time. As long as this is awaited the second signal doesn't end the
    /// process; the one after it does. Cancel-safe.
    pub async fn cut_short(&mut self) {
        struct Drains(Arc<AtomicBool>);
        impl Drop for Drains {
            fn drop(&mut self) {
                self.0.store(false, Ordering::Relaxed);
            }
        }
        let drains = Drains(self.drains.clone());
        drains.0.store(true, Ordering::Relaxed);
        let _ = self.requests.wait_for(|asked| asked.times > 1).await;
    }
}

/// Handles SIGINT, SIGTERM and SIGHUP from now on. The first of them requests a stop; the second
/// SIGINT or SIGTERM cuts a drain short, or else ends the process at once with status 1.
///
/// SIGHUP never counts as the second one: of a terminal that closes both kernel and shell send it, and
/// `SendSIGHUP=` of systemd.kill(5) sends it right after SIGTERM. It stays ignored where nohup(1) has it so.
///
/// # Errors
/// The kernel refuses the handlers.
pub fn on_signals() -> std::io::Result<Shutdown> {
    handle(None)
}

/// The same, and SIGUSR1 requests a stop that hands over. The SIGTERM that systemd sends after its `ExecStop=` did so
/// is the first one, which changes nothing. SIGUSR1 after another request changes nothing either.
///
/// # Errors
/// The kernel refuses the handlers.
pub fn on_signals_and_hand_over() -> std::io::Result<Shutdown> {
    handle(Some(signal(SignalKind::user_defined1())?))
}

fn handle(mut user: Option<tokio::signal::unix::Signal>) -> std::io::Result<Shutdown> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let ignored = is_in_mask(std::process::id(), "SigIgn:", Signal::HUP);
    let mut hangup = match ignored {
        true => None,
        false => Some(signal(SignalKind::hangup())?),
    };
    let (asked, requests) = watch::channel(Requests::default());
    let drains = Arc::new(AtomicBool::new(false));
    let shutdown = Shutdown {
        requests,
        drains: drains.clone(),
    };
    tokio::spawn(async move {
        let mut times = 0;
        loop {
            // Cancel-safe: a signal that isn't received now is received at the next turn. SIGUSR1 comes first, for
            // systemd sends SIGTERM right after it.
            let (name, counts, hand_over) = tokio::select! {
                biased;
                Some(()) = next(&mut user) => ("SIGUSR1", false, true),
                _ = interrupt.recv() => ("SIGINT", true, false),
                _ = terminate.recv() => ("SIGTERM", true, false),
                Some(()) = next(&mut hangup) => ("SIGHUP", false, false),
            };
            times += u32::from(counts);
            if times > 1 && counts {
                if drains.swap(false, Ordering::Relaxed) {
                    info!("{name} received again: not draining any longer");
                    asked.send_modify(|asked| asked.times = times);
                    continue;
                }
                warn!("{name} received again: exiting at once");
                telemetry::flush();
                std::process::exit(1);
            }
            let first = asked.borrow().times == 0;
            if first {
                let times = 1;
                asked.send_replace(Requests { times, hand_over });
                let how = if hand_over { " and handing over" } else { "" };
                info!("{name}: stopping{how}");
            }
        }
    });
    Ok(shutdown)
}

async fn next(signal: &mut Option<tokio::signal::unix::Signal>) -> Option<()> {
    match signal {
        Some(signal) => signal.recv().await,
        None => std::future::pending().await,
    }
}

/// Whether a process has a signal in one of its masks, such as `SigIgn:` or `SigCgt:` (proc_pid_status(5)).
/// A process whose masks can't be read has none.
#[must_use]
pub fn is_in_mask(pid: u32, mask: &str, signal: Signal) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix(mask))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal.as_raw() - 1) & 1 == 1)
}
