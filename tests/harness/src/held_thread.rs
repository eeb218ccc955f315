//! A process of which one thread stands still while the others run: ptrace(2), by which a signal stops a thread alone.

use nix::sys::ptrace;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

/// The main thread of a child of this process, held; it goes on when this is dropped.
pub struct HeldThread {
    release: Option<mpsc::Sender<()>>,
    tracer: Option<JoinHandle<()>>,
}

impl HeldThread {
    /// Holds the main thread of that process from now on.
    pub fn of(pid: u32) -> HeldThread {
        let pid = Pid::from_raw(i32::try_from(pid).expect("a process id"));
        let (release, released) = mpsc::channel();
        let (tell, told) = mpsc::channel();
        // Only the thread that has attached may detach.
        let tracer = thread::spawn(move || {
            ptrace::attach(pid).expect("ptrace is refused");
            let stopped = waitpid(pid, None).expect("it is our child");
            assert!(matches!(stopped, WaitStatus::Stopped(..)), "{stopped:?}");
            let _ = tell.send(());
            // An error is the sender's end.
            let _ = released.recv();
            let _ = ptrace::detach(pid, None);
        });
        let held = HeldThread {
            release: Some(release),
            tracer: Some(tracer),
        };
        told.recv().expect("the thread can't be held");
        held
    }
}

impl Drop for HeldThread {
    fn drop(&mut self) {
        self.release = None;
        let _ = self.tracer.take().map(JoinHandle::join);
    }
}
