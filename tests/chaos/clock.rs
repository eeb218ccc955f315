//! A wall clock of a process's own, by libfaketime: it can be stepped while the process runs. The
//! clock that waits are measured by goes on as ever, as when a person sets a machine's clock.

use std::path::PathBuf;
use tempfile::TempDir;

/// See the module's text.
pub struct Clock {
    directory: TempDir,
}

/// libfaketime leaves its files in /dev/shm behind when its process is killed, and stumbles over
/// them when the process id comes again; so each process has a /dev/shm that goes with it. `$LIB` is
/// the dynamic linker's own word.
const BEGIN: &str = r#"mount -t tmpfs sidekick-test /dev/shm && exec env \
    LD_PRELOAD='/usr/$LIB/faketime/libfaketime.so.1' FAKETIME_TIMESTAMP_FILE="$0" \
    FAKETIME_DONT_FAKE_MONOTONIC=1 FAKETIME_NO_CACHE=1 "$@""#;

impl Clock {
    /// One that is right.
    pub fn new() -> Clock {
        let clock = Clock {
            directory: tempfile::tempdir().expect("no temporary directory can be made"),
        };
        clock.step(0);
        clock
    }

    /// From now on it differs by so many seconds from the machine's.
    pub fn step(&self, seconds: i64) {
        let draft = self.directory.path().join("draft");
        let written = std::fs::write(&draft, format!("{seconds:+}"));
        let renamed = written.and_then(|()| std::fs::rename(&draft, self.file()));
        renamed.expect("the clock's file cannot be written");
    }

    /// The command that starts another, appended to it, under this clock.
    pub fn surroundings(&self) -> Vec<String> {
        let words = ["unshare", "--mount", "sh", "-c", BEGIN];
        let file = self.file().display().to_string();
        words.map(str::to_owned).into_iter().chain([file]).collect()
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("now")
    }
}
