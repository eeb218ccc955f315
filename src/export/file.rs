//! The file of `sidekick export`: replaced whole, and only where its content differs.

use crate::file_replacement::replace;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The file, and what was last written.
#[derive(Debug)]
pub(super) struct ExportFile {
    path: PathBuf,
    last: Option<String>,
}

impl ExportFile {
    /// Reads and writes nothing yet.
    pub(super) const fn new(path: PathBuf) -> Self {
        Self { path, last: None }
    }

    /// The path of the file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What is in it; `None` if it can't be read.
    pub(super) fn read(&self) -> Option<String> {
        fs::read_to_string(&self.path).ok()
    }

    /// Replaces the file, unless it was written with this content last and is still there. Returns whether it was replaced.
    ///
    /// # Errors
    /// The directory takes no file, or the disk is full; then the old file stays.
    pub(super) async fn write(&mut self, text: String) -> io::Result<bool> {
        if self.last.as_ref() == Some(&text) && self.path.exists() {
            return Ok(false);
        }
        let (path, content) = (self.path.clone(), text.clone());
        // An fsync can take a second.
        let work = tokio::task::spawn_blocking(move || write_whole(&path, &content));
        work.await.map_err(io::Error::other)??;
        self.last = Some(text);
        Ok(true)
    }
}

/// Temporary file beside it → fsync → rename: Prometheus and Envoy watch for renames. The name's ending keeps it out of
/// patterns like `*.json`.
fn write_whole(path: &Path, content: &str) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let write = || {
        let mut out = File::create(&new)?;
        out.write_all(content.as_bytes())?;
        if let Ok(old) = fs::metadata(path) {
            out.set_permissions(old.permissions())?;
        }
        replace(&new, path)
    };
    // Half a file would only take space.
    write().inspect_err(|_| drop(fs::remove_file(&new)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[tokio::test]
    async fn a_file_is_replaced_whole_and_only_if_it_differs() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("targets.json");
        let inode = || fs::metadata(&path).unwrap().ino();
        let mut file = ExportFile::new(path.clone());
        assert_eq!(file.read(), None);
        assert!(file.write("[]\n".to_owned()).await.unwrap());
        fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        let first = inode();
        assert!(!file.write("[]\n".to_owned()).await.unwrap());
        assert_eq!(inode(), first);
        assert!(file.write("[1]\n".to_owned()).await.unwrap());
        assert_ne!(inode(), first);
        assert_eq!(file.read().as_deref(), Some("[1]\n"));
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        // A file that another program has removed comes back.
        fs::remove_file(&path).unwrap();
        assert!(file.write("[1]\n".to_owned()).await.unwrap());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_directory_that_is_gone_is_an_error() {
        let mut file = ExportFile::new("/proc/nowhere/targets.json".into());
        assert!(file.write(String::new()).await.is_err());
    }
}
