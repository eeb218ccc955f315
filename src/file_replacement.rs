//! A file that is replaced whole: its readers see the old content or the new one, and never a part.

use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Puts the file at `new`, in the same directory, in the place of the one at `path` (rename(2)), and waits until both are
/// on disk, so that a power cut leaves one of them whole.
///
/// # Errors
/// What fsync(2) or rename(2) say; then the old file may be in place still.
pub(crate) fn replace(new: &Path, path: &Path) -> io::Result<()> {
    File::open(new)?.sync_all()?;
    fs::rename(new, path)?;
    // The rename itself has to outlast a power cut too.
    let directory = path.parent().filter(|d| !d.as_os_str().is_empty());
    File::open(directory.unwrap_or_else(|| Path::new(".")))?.sync_all()
}
