//! HAProxy's configuration file: never half written, and never one that `haproxy -c` refuses.

use crate::agent::haproxy::api::ProxyError;
use crate::agent::haproxy::file_content::FileContent;
use crate::agent::haproxy::master_socket::alerts;
use crate::agent::haproxy::process::command;
use crate::agent::haproxy::render::FIRST_LINE;
use crate::file_replacement::replace;
use rustix::process::{Pid, setpriority_process};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::timeout;
use tracing::warn;

/// `haproxy -c`: 0.2 s for ten thousand servers on a small machine, and many times that on a busy one.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);

/// The niceness of a check in the background, from -20 to 19 (setpriority(2)): a third of the processor time
/// that a process at 0 gets (sched(7)). At 19 it is a seventieth, and beside six busy processes on two cores
/// a check took 12 s: the file fell behind for as long as the machine was busy.
const BACKGROUND_NICENESS: i32 = 5;

/// Whether a reload waits for the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WritePriority {
    /// A reload waits for it.
    Awaited,
    /// In the background: traffic and the next change come first.
    Beside,
}

/// The file, and the program that checks it.
#[derive(Debug, Clone)]
pub(crate) struct ConfigFile {
    binary: PathBuf,
    path: PathBuf,
    /// The file as the agent last read or wrote it; `None`: there was none.
    last_seen: Arc<Mutex<Option<FileIdentity>>>,
}

/// What identifies a version of the file without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileIdentity {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

impl FileIdentity {
    fn of(path: &Path) -> Option<Self> {
        let data = fs::metadata(path).ok()?;
        Some(Self {
            device: data.dev(),
            inode: data.ino(),
            length: data.len(),
            modified: (data.mtime(), data.mtime_nsec()),
        })
    }
}

impl ConfigFile {
    /// Reads and writes nothing yet.
    pub(crate) fn new(binary: PathBuf, path: PathBuf) -> Self {
        Self {
            binary,
            path,
            last_seen: Arc::default(),
        }
    }

    /// The `haproxy` program.
    pub(crate) fn binary(&self) -> &Path {
        &self.binary
    }

    /// The path of the file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file; `None` if it can't be read.
    pub(crate) fn read(&self) -> Option<String> {
        self.remember(FileIdentity::of(&self.path));
        fs::read_to_string(&self.path).ok()
    }

    /// Whether another process changed or removed the file since it was read or written last.
    pub(crate) fn is_changed_by_others(&self) -> bool {
        *self
            .last_seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            != FileIdentity::of(&self.path)
    }

    fn remember(&self, identity: Option<FileIdentity>) {
        *self
            .last_seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = identity;
    }

    /// Creates the directory if it is missing.
    ///
    /// # Errors
    /// The directory can't be created.
    pub(crate) fn create_directory(&self) -> Result<(), ProxyError> {
        let directory = self.path.parent().filter(|it| !it.as_os_str().is_empty());
        let missing = directory.filter(|it| !it.is_dir());
        missing.map_or(Ok(()), |it| {
            fs::create_dir_all(it).map_err(|e| {
                let it = it.display();
                ProxyError::File(format!(
                    "can't make {it}: {e}; make it, or name a file elsewhere with --haproxy-config"
                ))
            })
        })
    }

    /// Writes the file: temporary file → `haproxy -c` → fsync → rename.
    pub(crate) async fn write(
        &self,
        content: &FileContent,
        pace: WritePriority,
    ) -> Result<(), ProxyError> {
        let new = self.write_draft(content).await?;
        self.check(&new, pace).await?;
        // A rename changes none of it.
        let identity = FileIdentity::of(&new);
        self.blocking(move |path| replace(&new, path)).await?;
        self.remember(identity);
        Ok(())
    }

    /// Checks such a file with `haproxy -c`; leaves the existing one alone.
    ///
    /// # Errors
    /// `haproxy -c` refuses it, or it can't be written.
    pub(crate) async fn try_out(&self, content: &FileContent) -> Result<(), ProxyError> {
        let new = self.write_draft(content).await?;
        let result = self.check(&new, WritePriority::Awaited).await;
        self.blocking(move |_| fs::remove_file(new)).await?;
        result
    }

    /// Writes the new file beside the old one.
    async fn write_draft(&self, content: &FileContent) -> Result<PathBuf, ProxyError> {
        let mut name = self.path.clone().into_os_string();
        name.push(".new");
        let new = PathBuf::from(name);
        let (draft, content) = (new.clone(), content.clone());
        let write = move |path: &Path| {
            // Half a file would only take space.
            write_new(&draft, path, &content).inspect_err(|_| drop(fs::remove_file(&draft)))
        };
        self.blocking(write).await?;
        Ok(new)
    }

    /// `haproxy -c`.
    async fn check(&self, file: &Path, pace: WritePriority) -> Result<(), ProxyError> {
        let check = async {
            let check = command(&self.binary)
                .arg("-c")
                .arg("-f")
                .arg(file)
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .kill_on_drop(true)
                .spawn()?;
            let pid = check
                .id()
                .and_then(|pid| Pid::from_raw(pid.try_into().ok()?));
            if let (WritePriority::Beside, Some(pid)) = (pace, pid) {
                // A failure only costs politeness.
                let _ = setpriority_process(Some(pid), BACKGROUND_NICENESS);
            }
            check.wait_with_output().await
        };
        let binary = self.binary.display();
        let late = |_| {
            let seconds = CHECK_TIMEOUT.as_secs();
            ProxyError::InvalidConfig(format!("{binary} -c takes more than {seconds} s"))
        };
        let output = timeout(CHECK_TIMEOUT, check).await.map_err(late)?;
        let output =
            output.map_err(|e| ProxyError::InvalidConfig(format!("can't run {binary}: {e}")))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        // HAProxy says which line is wrong, and then twice more that there were errors.
        let faults = said
            .lines()
            .filter(|line| !line.contains("rrors found") && !line.contains("rror(s) found"));
        let alerts = alerts(faults);
        let why = if alerts.is_empty() { &*said } else { &alerts };
        Err(ProxyError::InvalidConfig(
            why.trim_end().replace('\n', "; "),
        ))
    }

    /// Files are written off the loop: an fsync can take a second.
    async fn blocking<F>(&self, work: F) -> Result<(), ProxyError>
    where
        F: FnOnce(&Path) -> io::Result<()> + Send + 'static,
    {
        let path = self.path.clone();
        let work = move || {
            work(&path).map_err(|e| {
                let why = format!("can't write {}: {e}", path.display());
                match e.kind() {
                    ErrorKind::StorageFull | ErrorKind::QuotaExceeded => ProxyError::DiskFull(why),
                    _ => ProxyError::File(why),
                }
            })
        };
        let result = tokio::task::spawn_blocking(work).await;
        result.map_err(|e| ProxyError::File(e.to_string()))?
    }
}

/// Writes with the old file's permissions; copies the old file first if sidekick did not write it.
fn write_new(new: &Path, path: &Path, content: &FileContent) -> io::Result<()> {
    let mut out = File::create(new)?;
    out.write_all(content.text().as_bytes())?;
    let Ok(mut old) = File::open(path) else {
        return Ok(());
    };
    out.set_permissions(old.metadata()?.permissions())?;
    let mut first_line = Vec::new();
    Read::by_ref(&mut old)
        .take(FIRST_LINE.len() as u64)
        .read_to_end(&mut first_line)?;
    if first_line != FIRST_LINE.as_bytes() {
        let mut copy = path.as_os_str().to_owned();
        copy.push(".before-sidekick");
        if !Path::new(&copy).exists() {
            fs::copy(path, &copy)?;
            warn!(
                "{} was not written by sidekick; kept a copy as {}",
                path.display(),
                Path::new(&copy).display()
            );
        }
    }
    Ok(())
}
