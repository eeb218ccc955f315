//! A socket whose listener is another process, as far as SO_PEERCRED tells: what a program sees of a server in another
//! pid namespace than its proxy's.

use std::io::{self, BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Stdio};

/// The other process; killed when dropped.
pub(super) struct Stranger(Child);

impl Stranger {
    /// Starts it by this command, and waits for its word. The socket is its standard input.
    pub(super) fn listens(socket: &UnixListener, command: &[String]) -> Stranger {
        let socket: OwnedFd = socket
            .as_fd()
            .try_clone_to_owned()
            .expect("a socket can be shared");
        // The kernel kills it with the thread that started it, which is the runtime's.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .args(command)
            .stdin(Stdio::from(socket))
            .stdout(Stdio::piped())
            .spawn();
        let mut stranger = Stranger(child.expect("no process can be started"));
        let said = stranger.0.stdout.take().expect("stdout is piped");
        let mut line = String::new();
        let length = BufReader::new(said).read_line(&mut line);
        assert!(length.is_ok_and(|n| n > 0), "nothing listens: {command:?}");
        stranger
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What such a process does: it becomes the listener of its standard input, says so, and waits to be killed.
pub fn become_the_listener() -> ! {
    const BACKLOG: i32 = 1024;
    // A socket that listens already takes the credentials of who calls it once more.
    rustix::net::listen(io::stdin(), BACKLOG).expect("standard input is a socket");
    println!("it listens");
    loop {
        std::thread::park();
    }
}
