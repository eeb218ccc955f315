//! A pseudo-terminal with sidekick in it, and what a person sees there.

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};
use vt100::{Color, Parser};

use super::sidekick::Announce;
use super::wait::{SOON, eventually};

/// What stands on the first screen before sidekick is started.
const PROMPT: &str = "a line of before\r\n$ sidekick list --watch\r\n";

/// sidekick as the foreground process of a terminal of its own.
pub struct PseudoTerminal {
    /// The end at which a terminal emulator sits.
    emulator: File,
    /// Kept, so that the modes can be asked for when sidekick has ended.
    line: File,
    child: Child,
    seen: Arc<Mutex<Seen>>,
    reader: Option<JoinHandle<()>>,
    modes: String,
}

/// All that was written to the terminal.
struct Seen {
    parser: Parser,
    bytes: Vec<u8>,
}

impl Announce {
    /// Starts it in a terminal of so many rows and columns.
    pub fn in_terminal(self, rows: u16, columns: u16) -> PseudoTerminal {
        let emulator = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&emulator).expect("it is ours");
        unlockpt(&emulator).expect("it is ours");
        let name = ptsname(&emulator, Vec::new()).expect("it has a name");
        let line = open(&name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty());
        let line = File::from(line.expect("the terminal can be opened"));
        tcsetwinsize(&emulator, size(rows, columns)).expect("a terminal has a size");
        let modes = shown(&tcgetattr(&line).expect("a terminal has modes"));
        let emulator = File::from(emulator);
        let seen = Arc::new(Mutex::new(Seen {
            parser: Parser::new(positive(rows), positive(columns), 0),
            bytes: Vec::new(),
        }));
        (&line).write_all(PROMPT.as_bytes()).expect("it is open");
        let reader = collect(&emulator, &seen);
        let end = || line.try_clone().expect("a file can be shared");
        // Makes the terminal the one that Ctrl-C and SIGWINCH come from.
        let leads = ["setsid", "--ctty"].map(str::to_owned);
        let has_term = self.sets("TERM");
        let mut command = self.within(&leads).command();
        if !has_term {
            command.env("TERM", "xterm-256color");
        }
        let child = command
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .expect("sidekick cannot be started");
        PseudoTerminal {
            emulator,
            line,
            child,
            seen,
            reader: Some(reader),
            modes,
        }
    }
}

impl PseudoTerminal {
    /// What is on the screen: a line for each row, without blanks at its end.
    pub fn rows(&self) -> Vec<String> {
        let seen = self.seen();
        let (_, columns) = seen.parser.screen().size();
        let rows = seen.parser.screen().rows(0, columns.get());
        rows.map(|row| row.trim_end().to_owned()).collect()
    }

    /// The first row with this text, the number of its colour, and whether it is bold.
    pub fn row(&self, text: &str) -> Option<(String, Option<u8>, bool)> {
        let rows = self.rows();
        let number = rows.iter().position(|row| row.contains(text))?;
        let column = rows[number].find(|c| c != ' ')?;
        let seen = self.seen();
        let at = |n: usize| u16::try_from(n).expect("a screen is small");
        let cell = seen.parser.screen().cell(at(number), at(column))?;
        let colour = match cell.fgcolor() {
            Color::Idx(number) => Some(number),
            _ => None,
        };
        Some((rows[number].clone(), colour, cell.bold()))
    }

    /// Waits until a row has this text.
    #[track_caller]
    pub fn shows(&self, text: &str) -> impl Future<Output = ()> {
        let what = format!("the terminal shows {text:?}");
        let found = async move || match self.rows().iter().any(|row| row.contains(text)) {
            true => Ok(()),
            false => Err(format!("{:#?}", self.rows())),
        };
        eventually(SOON, what, found)
    }

    /// Waits until no row has this text. More than [`SOON`]: what is gone is shown for a while.
    #[track_caller]
    pub fn shows_no_more(&self, text: &str) -> impl Future<Output = ()> {
        let what = format!("the terminal shows {text:?} no more");
        let gone = async move || !self.rows().iter().any(|row| row.contains(text));
        eventually(2 * SOON, what, gone)
    }

    /// Whether it shows its alternate screen, without a cursor.
    pub fn is_taken(&self) -> bool {
        let seen = self.seen();
        let screen = seen.parser.screen();
        assert_eq!(screen.alternate_screen(), screen.hide_cursor());
        screen.alternate_screen()
    }

    /// Fails the test unless screen, cursor and modes are what they were before sidekick was started.
    #[track_caller]
    pub fn is_as_before(&self) {
        assert!(!self.is_taken(), "the alternate screen is left");
        let (rows, columns) = self.seen().parser.screen().size();
        let mut before = Parser::new(rows, columns, 0);
        before.process(PROMPT.as_bytes());
        let seen = self.seen();
        let (screen, before) = (seen.parser.screen(), before.screen());
        assert_eq!(screen.contents(), before.contents());
        assert_eq!(screen.cursor_position(), before.cursor_position());
        assert_eq!(screen.attributes_formatted(), before.attributes_formatted());
        let modes = tcgetattr(&self.line).expect("a terminal has modes");
        assert_eq!(shown(&modes), self.modes);
    }

    /// All bytes that came so far, as text.
    pub fn written(&self) -> String {
        String::from_utf8_lossy(&self.seen().bytes).into_owned()
    }

    /// Gives it another size, as a person does who drags its corner.
    pub fn resize(&self, rows: u16, columns: u16) {
        self.seen()
            .parser
            .screen_mut()
            .set_size(positive(rows), positive(columns));
        tcsetwinsize(&self.emulator, size(rows, columns)).expect("a terminal has a size");
    }

    /// Presses keys.
    pub fn types(&self, keys: &str) {
        (&self.emulator)
            .write_all(keys.as_bytes())
            .expect("it is open");
    }

    /// Sends sidekick a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid is small");
        kill(Pid::from_raw(pid), signal).expect("sidekick cannot be signalled");
    }

    /// Waits until it has exited.
    pub async fn wait_exit(&mut self, deadline: Duration) -> ExitStatus {
        let child = &mut self.child;
        let status = eventually(deadline, "sidekick exits", async || {
            child.try_wait().expect("sidekick can be waited for")
        })
        .await;
        // What it wrote last is read when a mark behind it is.
        const MARK: &str = "\x1b]0;the end\x07";
        (&self.line).write_all(MARK.as_bytes()).expect("it is open");
        eventually(SOON, "all is read", async || self.written().ends_with(MARK)).await;
        status
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        // Also after a failed comparison, to show what was on the screen.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for PseudoTerminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            println!("the terminal:\n{}", self.rows().join("\n"));
        }
        // It ends when the last file of the line is closed, which is after this.
        drop(self.reader.take());
    }
}

fn collect(emulator: &File, seen: &Arc<Mutex<Seen>>) -> JoinHandle<()> {
    let mut emulator = emulator.try_clone().expect("a file can be shared");
    let seen = Arc::clone(seen);
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = emulator.read(&mut buffer) {
            let mut seen = seen.lock().expect("a test panicked");
            seen.parser.process(&buffer[..length]);
            seen.bytes.extend_from_slice(&buffer[..length]);
        }
    })
}

fn positive(n: u16) -> NonZeroU16 {
    NonZeroU16::new(n).expect("a terminal has rows and columns")
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

/// All modes of a terminal.
fn shown(modes: &Termios) -> String {
    format!("{modes:?}")
}
