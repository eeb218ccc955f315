//! SIGINT and SIGTERM, as a value that tasks wait for.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};

/// Whether it is time to stop. Clones see the same.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Receiver<bool>);

impl Shutdown {
    /// Returns when a stop was asked for; at once if it was before. Cancel-safe.
    pub async fn requested(&mut self) {
        // An error means that the listener is gone; then nobody can ask for a clean stop any more,
        // and the only safe reading is that it is time.
        let _ = self.0.wait_for(|asked| *asked).await;
    }
}

/// Listens for SIGINT and SIGTERM from now on. The first asks for a stop, the second ends the
/// process at once with status 1.
///
/// # Errors
/// The kernel refuses the handlers.
pub fn on_signals() -> std::io::Result<Shutdown> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let (asked, shutdown) = watch::channel(false);
    tokio::spawn(async move {
        let mut times = 0;
        loop {
            // Cancel-safe: a signal that isn't received now is received at the next turn.
            let name = tokio::select! {
                _ = interrupt.recv() => "SIGINT",
                _ = terminate.recv() => "SIGTERM",
            };
            times += 1;
            if times == 1 {
                info!("{name}: stopping");
                asked.send_replace(true);
            } else {
                warn!("{name} again: leaving at once");
                std::process::exit(1);
            }
        }
    });
    Ok(Shutdown(shutdown))
}
