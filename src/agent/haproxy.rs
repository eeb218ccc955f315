//! A real HAProxy and its file: runs what `apply` decides.

use super::apply::{Proxy, Reload, Trouble, Worker};
use super::child::{Child, command, terminate};
use super::diff::{Command, Running, parse_state};
use super::layout::{Bind, sockets};
use super::master::{Master, RELOAD, alerts};
use super::render::{MARK, OURS};
use crate::systemd::Pulse;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::net::TcpSocket;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

/// `haproxy -c`: 0.2 s for ten thousand servers on a small machine.
const CHECK: Duration = Duration::from_secs(10);

/// After a stop, an adopted HAProxy gets so long to be gone.
const FAREWELL: Duration = Duration::from_secs(3);

/// `wait … srv-removable` came with 3.0.
const CAN_WAIT: (u32, u32) = (3, 0);

/// A backend's servers can be asked for one by one; for more than so many, all at once is faster.
const FEW: usize = 8;

/// HAProxy, by its master's socket.
#[derive(Debug)]
pub(super) struct Haproxy {
    binary: PathBuf,
    file: PathBuf,
    master: Master,
    /// Whether it is ours to start and to stop.
    ours: bool,
    child: Option<Child>,
    /// Master, worker, and what the worker was started from: that never changes.
    mark: RefCell<Option<(u32, u32, Option<String>)>>,
    pulse: Pulse,
}

impl Haproxy {
    /// `ours`: to be supervised. Starts nothing yet.
    pub(super) const fn new(binary: PathBuf, file: PathBuf, socket: PathBuf, ours: bool, pulse: Pulse) -> Self {
        let master = Master::new(socket);
        Self { binary, file, master, ours, child: None, mark: RefCell::new(None), pulse }
    }

    /// Returns when our own one has died, and never where there is none. Cancel-safe.
    pub(super) async fn died(&mut self) {
        match &mut self.child {
            Some(child) => child.wait().await,
            None => std::future::pending().await,
        }
    }

    /// Ends it, if it is ours.
    pub(super) async fn stop(&mut self) {
        if let Some(child) = self.child.take() {
            return child.stop().await;
        }
        // One that an earlier life of ours started and left behind.
        if self.ours && let Ok(processes) = self.master.processes().await {
            terminate(processes.master);
            let end = Instant::now() + FAREWELL;
            while Instant::now() < end && self.master.processes().await.is_ok() {
                sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// Whether such a file would do; leaves the one that is there alone.
    ///
    /// # Errors
    /// It wouldn't, or can't be written.
    pub(super) async fn try_out(&self, text: &str) -> Result<(), Trouble> {
        let new = self.new_file();
        let text = text.to_owned();
        let put = { let new = new.clone(); move |file: &Path| put(&new, file, &text) };
        blocking(&self.file, put).await?;
        self.check(&new).await?;
        blocking(&new, |new| fs::remove_file(new)).await
    }

    fn new_file(&self) -> PathBuf {
        self.file.with_extension("cfg.new")
    }

    async fn mark(&self, master: u32, worker: u32) -> Result<Option<String>, Trouble> {
        if let Some((m, w, mark)) = &*self.mark.borrow()
            && (*m, *w) == (master, worker)
        {
            return Ok(mark.clone());
        }
        let answer = self.master.ask_worker(worker, &format!("show env {MARK}")).await?;
        let mark = answer.lines().find_map(|line| line.strip_prefix(MARK)?.strip_prefix('=')).map(str::to_owned);
        *self.mark.borrow_mut() = Some((master, worker, mark.clone()));
        Ok(mark)
    }

    /// `haproxy -c`.
    async fn check(&self, file: &Path) -> Result<(), Trouble> {
        let check = command(&self.binary)
            .arg("-c")
            .arg("-f")
            .arg(file)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let binary = self.binary.display();
        let output = timeout(CHECK, check).await;
        let output = output.map_err(|_| Trouble::Invalid(format!("{binary} -c takes more than {} s", CHECK.as_secs())))?;
        let output = output.map_err(|e| Trouble::Invalid(format!("can't run {binary}: {e}")))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let alerts = alerts(said.lines());
        Err(Trouble::Invalid(if alerts.is_empty() { said.into_owned() } else { alerts }))
    }
}

impl Proxy for Haproxy {
    async fn write(&self, text: &str) -> Result<(), Trouble> {
        self.pulse.beat();
        let (new, text) = (self.new_file(), text.to_owned());
        let put = { let new = new.clone(); move |file: &Path| put(&new, file, &text) };
        blocking(&self.file, put).await?;
        self.check(&new).await?;
        blocking(&self.file, move |file| replace(&new, file)).await
    }

    async fn worker(&self) -> Result<Worker, Trouble> {
        self.pulse.beat();
        let processes = self.master.processes().await?;
        let mark = self.mark(processes.master, processes.worker).await?;
        Ok(Worker { pid: processes.worker, mark, can_wait: processes.version >= CAN_WAIT })
    }

    async fn state(&self, worker: &Worker, backends: Option<&BTreeSet<String>>) -> Result<Running, Trouble> {
        self.pulse.beat();
        let mut running = Running::new();
        match backends {
            Some(backends) if backends.len() <= FEW => {
                for backend in backends {
                    let text = self.master.ask_worker(worker.pid, &format!("show servers state {backend}")).await?;
                    running.extend(parse_state(&text)?);
                }
            }
            _ => {
                let text = self.master.ask_worker(worker.pid, "show servers state").await?;
                running = parse_state(&text)?;
                running.retain(|name, _| backends.is_none_or(|wanted| wanted.contains(name)));
            }
        }
        Ok(running)
    }

    async fn tell(&self, worker: &Worker, commands: &[Command]) -> Result<String, Trouble> {
        self.pulse.beat();
        let lines = commands.iter().flat_map(|command| command.lines(worker.can_wait));
        self.master.tell_worker(worker.pid, lines).await
    }

    async fn start(&mut self) -> Result<Reload, Trouble> {
        self.pulse.beat();
        if !self.ours {
            return Err(Trouble::Down(format!("nobody is at {}", self.master.socket().display())));
        }
        if let Some(child) = &mut self.child {
            match child.ended() {
                None => return Err(Trouble::Down("it is there, but doesn't answer".to_owned())),
                Some(status) => warn!("HAProxy ended ({status}); starting it again"),
            }
            self.child = None;
        }
        let mut child = Child::start(&self.binary, &self.file, self.master.socket())?;
        let end = Instant::now() + RELOAD;
        while Instant::now() < end {
            if let Some(status) = child.ended() {
                // What it said may still be on its way through the pipe.
                sleep(Duration::from_millis(50)).await;
                let said = child.complaints();
                return Ok(Reload::Failed(if said.is_empty() { format!("it ended at once ({status})") } else { said }));
            }
            if self.master.processes().await.is_ok() {
                info!("HAProxy runs");
                child.complaints();
                self.child = Some(child);
                return Ok(Reload::Done);
            }
            sleep(Duration::from_millis(10)).await;
        }
        child.stop().await;
        Err(Trouble::Down(format!("it didn't start within {} s", RELOAD.as_secs())))
    }

    async fn reload(&mut self) -> Result<Reload, Trouble> {
        self.pulse.beat();
        let outcome = self.master.reload().await?;
        // 2.6 says nothing at the socket, but our own one's words reach us another way.
        Ok(match (outcome, &self.child) {
            (Reload::Failed(log), Some(child)) if log.is_empty() => Reload::Failed(child.complaints()),
            (outcome, _) => outcome,
        })
    }

    async fn obstacle(&self, bind: Bind) -> Option<String> {
        sockets(bind).into_iter().find_map(|address| {
            let error = try_to_bind(address).err()?;
            match error.kind() {
                ErrorKind::AddrInUse => Some("another process listens there".to_owned()),
                ErrorKind::AddrNotAvailable if bind == Bind::At(address) => Some("the machine has no such address".to_owned()),
                // HAProxy may be allowed more than we are, and without IPv6 it isn't asked for.
                _ => None,
            }
        })
    }
}

/// Binds and lets go. Without listen(2) nobody can connect meanwhile.
fn try_to_bind(address: SocketAddr) -> io::Result<()> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // As a server would: connections that are long over are no obstacle.
    socket.set_reuseaddr(true)?;
    socket.bind(address)
}

/// Whether the machine has IPv6: not with `ipv6.disable=1` on the kernel's command line.
pub(super) fn has_ipv6() -> bool {
    TcpSocket::new_v6().is_ok()
}

/// Files are written off the loop: an fsync can take a second.
async fn blocking<F>(file: &Path, work: F) -> Result<(), Trouble>
where
    F: FnOnce(&Path) -> io::Result<()> + Send + 'static,
{
    let path = file.to_owned();
    let result = tokio::task::spawn_blocking(move || work(&path).map_err(|e| format!("can't write {}: {e}", path.display()))).await;
    result.map_err(|e| Trouble::File(e.to_string()))?.map_err(Trouble::File)
}

/// The new file beside the old one, with the old one's permissions; and a copy of the old one if it
/// isn't ours, for somebody wrote it.
fn put(new: &Path, file: &Path, text: &str) -> io::Result<()> {
    let mut out = File::create(new)?;
    out.write_all(text.as_bytes())?;
    if let Ok(old) = fs::metadata(file) {
        out.set_permissions(old.permissions())?;
        if !fs::read(file)?.starts_with(OURS.as_bytes()) {
            let copy = file.with_extension("cfg.before-sidekick");
            if !copy.exists() {
                fs::copy(file, &copy)?;
                warn!("{} isn't ours; kept a copy as {}", file.display(), copy.display());
            }
        }
    }
    Ok(())
}

fn replace(new: &Path, file: &Path) -> io::Result<()> {
    File::open(new)?.sync_all()?;
    fs::rename(new, file)?;
    // The rename itself has to outlast a power cut too.
    let directory = file.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    File::open(directory)?.sync_all()
}
