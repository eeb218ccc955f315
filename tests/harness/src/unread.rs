//! A log pipe that nothing reads.

use std::fs::OpenOptions;
use std::io::{ErrorKind, PipeReader, PipeWriter, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use nix::libc::O_NONBLOCK;

/// The two ends of a pipe that is full: the next write into it waits until something reads.
pub(crate) fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, writer) = std::io::pipe().expect("no pipe can be made");
    // A file description of its own, for O_NONBLOCK would be sidekick's too.
    let filler = OpenOptions::new()
        .write(true)
        .custom_flags(O_NONBLOCK)
        .open(format!("/proc/self/fd/{}", writer.as_raw_fd()));
    let mut filler = filler.expect("our own pipe can be opened");
    // Whole pages, so that there is room for nothing smaller either.
    let page = [b"-".repeat(4095), b"\n".to_vec()].concat();
    loop {
        match filler.write(&page) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return (reader, writer),
            Err(error) => panic!("the pipe cannot be filled: {error}"),
        }
    }
}
