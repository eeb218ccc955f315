//! A small disk that can be full.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system of a test's own, mounted over a directory until this is dropped.
pub struct Disk(PathBuf);

impl Disk {
    /// 1 MiB of memory at `directory`, which is to be empty.
    pub fn over(directory: &Path) -> Disk {
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
            .arg(directory)
            .status()
            .expect("mount can't be run; is util-linux installed?");
        assert!(mount.success(), "no tmpfs can be mounted; run as root");
        Disk(directory.to_owned())
    }

    /// Fills it to the last byte.
    pub fn fill(&self) {
        let mut filler = File::options()
            .create(true)
            .append(true)
            .open(self.filler())
            .unwrap();
        let full = std::iter::repeat_with(|| filler.write(&[0; 4096]))
            .find_map(Result::err)
            .unwrap();
        assert_eq!(full.kind(), ErrorKind::StorageFull);
    }

    /// There is room again.
    pub fn free(&self) {
        fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }
}

impl Drop for Disk {
    /// Lazily: HAProxy may still be there.
    fn drop(&mut self) {
        let umount = Command::new("umount").arg("-l").arg(&self.0).status();
        assert!(std::thread::panicking() || umount.unwrap().success());
    }
}
