//! One agent per configuration file and per HAProxy: flock(2) on a lock file beside the configuration file
//! and beside the master socket.

use super::config::HaproxyMode;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use tracing::warn;

/// Longer than any process id.
const LONGEST_HOLDER: u64 = 20;

/// An agent's locks. The kernel releases them when the agent's process ends, however it ends; HAProxy doesn't
/// inherit them (`File::open` sets `O_CLOEXEC`).
#[derive(Debug)]
pub(crate) struct Locks {
    _config: File,
    _socket: Option<File>,
}

/// Why an agent can't have a lock.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    /// Another agent holds it. The second field is that agent's process id, where the lock file has it.
    #[error("another agent{1} uses {0}; stop that agent, or name another {2}")]
    Taken(PathBuf, String, &'static str),
    /// The lock file can't be created, opened or locked.
    #[error("can't lock {0}: {1}; name another {2}")]
    Unusable(PathBuf, io::Error, &'static str),
}

impl Locks {
    /// Locks `FILE.lock` and `SOCKET.lock`. Both stay on disk: the next start needs no space for them.
    ///
    /// # Errors
    /// Another agent has one of the locks, or one can't be had.
    pub(crate) fn take(config: &Path, mode: &HaproxyMode) -> Result<Self, LockError> {
        let file = lock(config, "file with --haproxy-config")?;
        let socket_lock = match mode {
            // Its default is beside the file.
            HaproxyMode::Supervise(socket) => Some(lock(
                socket,
                "file, in another directory, with --haproxy-config",
            )?),
            HaproxyMode::Attach(socket) => match lock(socket, "HAProxy with --haproxy-master") {
                // The directory of another's HAProxy may be closed to an agent that may use the socket in it.
                Err(LockError::Unusable(path, error, _))
                    if matches!(
                        error.kind(),
                        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem
                    ) =>
                {
                    let (socket, path) = (socket.display(), path.display());
                    warn!(
                        "can't lock {path}: {error}; a second agent at {socket} won't be noticed"
                    );
                    None
                }
                lock => Some(lock?),
            },
        };
        Ok(Self {
            _config: file,
            _socket: socket_lock,
        })
    }
}

/// Locks the file beside `path`. The file itself won't do: each write renames another one over it.
fn lock(path: &Path, what_else: &'static str) -> Result<File, LockError> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".lock");
    let beside = PathBuf::from(beside);
    let unusable = |error: io::Error| LockError::Unusable(beside.clone(), error, what_else);
    let mut options = File::options();
    let options = options.read(true).write(true).create(true).truncate(false);
    let mut file = options.open(&beside).map_err(unusable)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let taken = LockError::Taken(path.to_owned(), holder(&file), what_else);
            return Err(taken);
        }
        Err(error) => return Err(unusable(error.into())),
    }
    // For the operator who reads it; on a full disk it stays empty.
    let _ = file
        .set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(file)
}

/// ` (process 123)`, or nothing where the file doesn't say.
fn holder(file: &File) -> String {
    let mut text = String::new();
    let _ = file.take(LONGEST_HOLDER).read_to_string(&mut text);
    let pid: Option<u32> = text.trim().parse().ok();
    pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn supervise(directory: &Path) -> HaproxyMode {
        HaproxyMode::Supervise(directory.join("haproxy-master.sock"))
    }

    #[test]
    fn a_lock_names_its_holder_and_is_free_once_that_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("haproxy.cfg");
        let first = Locks::take(&file, &supervise(dir.path())).unwrap();
        let expected = format!(
            "another agent (process {}) uses {}; stop that agent, or name another file with --haproxy-config",
            std::process::id(),
            file.display()
        );
        let second = Locks::take(&file, &supervise(dir.path()));
        assert_eq!(second.unwrap_err().to_string(), expected);
        // A HAProxy of the same directory, with another file.
        let third = Locks::take(&dir.path().join("other.cfg"), &supervise(dir.path()));
        let said = third.unwrap_err().to_string();
        assert!(
            said.contains("haproxy-master.sock; stop that agent"),
            "{said}"
        );
        drop(first);
        Locks::take(&file, &supervise(dir.path())).unwrap();
    }

    #[test]
    fn what_cannot_be_locked_is_named() {
        let nowhere = Path::new("/proc/nowhere");
        let said = Locks::take(&nowhere.join("haproxy.cfg"), &supervise(nowhere));
        let said = said.unwrap_err().to_string();
        assert!(
            said.starts_with("can't lock /proc/nowhere/haproxy.cfg.lock: "),
            "{said}"
        );
    }
}
