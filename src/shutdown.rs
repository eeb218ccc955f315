//! SIGINT, SIGTERM and SIGHUP as a value that tasks await.

use crate::telemetry;
use rustix::process::Signal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};

/// Whether a stop was requested. All clones see the same.
#[derive(Debug, Clone)]
pub struct Shutdown {
    /// How often a stop was requested.
    requests: watch::Receiver<u32>,
    /// A second request cuts the drain short, and doesn't end the process.
    drains: Arc<AtomicBool>,
}

/// Requests a stop of the tasks that wait for the [`Shutdown`] it was made with.
#[derive(Debug)]
pub struct StopRequest(watch::Sender<u32>);

impl StopRequest {
    /// With the shutdown that it requests; a request that is dropped counts as one.
    #[must_use]
    pub fn new() -> (Self, Shutdown) {
        let (asked, requests) = watch::channel(0);
        let drains = Arc::default();
        (Self(asked), Shutdown { requests, drains })
    }

    /// Requests the stop.
    pub fn send(&self) {
        self.0.send_replace(1);
    }
}

impl Shutdown {
    /// Returns when a stop is requested; at once if it was before. Cancel-safe.
    pub async fn requested(&mut self) {
        // An error means that the task that receives signals is gone: no clean stop can be requested any
        // more, so that this counts as one.
        let _ = self.requests.wait_for(|asked| *asked > 0).await;
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
        let _ = self.requests.wait_for(|asked| *asked > 1).await;
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
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let ignored = is_in_mask(std::process::id(), "SigIgn:", Signal::HUP);
    let mut hangup = match ignored {
        true => None,
        false => Some(signal(SignalKind::hangup())?),
    };
    let (asked, requests) = watch::channel(0);
    let drains = Arc::new(AtomicBool::new(false));
    let shutdown = Shutdown {
        requests,
        drains: drains.clone(),
    };
    tokio::spawn(async move {
        let mut times = 0;
        loop {
            // Cancel-safe: a signal that isn't received now is received at the next turn.
            let (name, counts) = tokio::select! {
                _ = interrupt.recv() => ("SIGINT", true),
                _ = terminate.recv() => ("SIGTERM", true),
                Some(()) = next(&mut hangup) => ("SIGHUP", false),
            };
            times += u32::from(counts);
            if times > 1 && counts {
                if drains.swap(false, Ordering::Relaxed) {
                    info!("{name} received again: not draining any longer");
                    asked.send_replace(times);
                    continue;
                }
                warn!("{name} received again: exiting at once");
                telemetry::flush();
                std::process::exit(1);
            }
            if asked.send_replace(times.max(1)) == 0 {
                info!("{name}: stopping");
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
