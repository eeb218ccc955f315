//! The terminal of `sidekick list --watch`: its alternate screen, and back to how it was.

use rustix::process::{Signal, getpid, kill_process};
use rustix::termios::tcgetwinsize;
use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::fd::AsFd;

/// Of xterm's control sequences, which every terminal of today understands (ctlseqs): the alternate screen, with the
/// cursor saved, and the cursor hidden.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";

/// The cursor shown, and the first screen again, with its cursor.
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// To the first line; what follows a line; and what follows the last one.
const HOME: &str = "\x1b[H";
const END_OF_LINE: &str = "\x1b[K";
const REST_OF_SCREEN: &str = "\x1b[J";

/// Where the terminal doesn't say how large it is: the size of a VT100.
const USUAL_SIZE: (usize, usize) = (80, 24);

/// Stdout, where it is a terminal that can be drawn on. Leaves the alternate screen when it is dropped.
#[derive(Debug)]
pub(super) struct Terminal {
    is_entered: bool,
    /// Whether SGR sequences may be used.
    pub(super) has_colour: bool,
}

impl Terminal {
    /// `None` where stdout is no terminal, or one without control sequences.
    pub(super) fn of_stdout() -> Option<Self> {
        let kind = std::env::var_os("TERM").filter(|kind| !kind.is_empty())?;
        // https://no-color.org: set to anything but nothing.
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|it| !it.is_empty());
        (kind != "dumb" && io::stdout().is_terminal()).then_some(Self {
            is_entered: false,
            has_colour: !no_colour,
        })
    }

    /// Its width and height, in characters.
    pub(super) fn size() -> (usize, usize) {
        match tcgetwinsize(io::stdout()) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
                (size.ws_col.into(), size.ws_row.into())
            }
            _ => USUAL_SIZE,
        }
    }

    /// Draws the lines over what is there. `false`: the terminal is gone.
    pub(super) fn draw(&mut self, lines: &[String]) -> io::Result<bool> {
        let mut text = String::new();
        if !self.is_entered {
            self.is_entered = true;
            text += ENTER;
        }
        text += HOME;
        for (number, line) in lines.iter().enumerate() {
            // None after the last one: in the last row it would scroll.
            let begin = if number > 0 { "\r\n" } else { "" };
            text += &format!("{begin}{line}{END_OF_LINE}");
        }
        text += REST_OF_SCREEN;
        write(&text)
    }

    /// SIGTSTP (Ctrl-Z): gives the terminal back, and stops until the shell lets it go on; the next draw takes the
    /// terminal again.
    pub(super) fn suspend(&mut self) {
        self.leave();
        let _ = kill_process(getpid(), Signal::STOP);
    }

    fn leave(&mut self) {
        if std::mem::take(&mut self.is_entered) {
            let _ = write(LEAVE);
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.leave();
    }
}

/// In one piece, so that no half of a screen is seen: past std's stdout, which writes what follows the last line break
/// apart.
fn write(text: &str) -> io::Result<bool> {
    let mut terminal = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    match terminal.write_all(text.as_bytes()) {
        // EIO: it was hung up.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) if rustix::io::Errno::from_io_error(&error) == Some(rustix::io::Errno::IO) => {
            Ok(false)
        }
        result => result.map(|()| true),
    }
}
