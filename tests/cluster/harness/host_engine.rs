//! The Docker Engine that the machines are containers of, in a network of this process's own.

use std::fs::File;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use sidekick_harness::blocking::eventually;
use sidekick_harness::secs;

const MARK: &str = "SIDEKICK_CLUSTER_PREPARED";

/// Starts this program again in a network namespace of its own: the machines' bridge is in there, so are we, and with
/// us all of it goes. Returns in there what `prepare` said before, with the network that there was.
pub fn enter_own_network(prepare: impl FnOnce() -> String) -> String {
    if let Ok(prepared) = std::env::var(MARK) {
        ip(&["link", "set", "lo", "up"]);
        return prepared;
    }
    let error = Command::new("unshare")
        .args(["--net", "--"])
        .arg(std::env::current_exe().expect("this program has a path"))
        .args(std::env::args_os().skip(1))
        .env(MARK, prepare())
        .exec();
    panic!("unshare can't be started: {error}");
}

/// ip(8), in our network.
pub fn ip(arguments: &[&str]) -> String {
    finish("ip", Command::new("ip").args(arguments)).unwrap_or_else(|error| panic!("{error}"))
}

/// A running engine; everything of it ends with this value, with this process, or with a SIGINT or SIGTERM to it.
///
/// Not the harness's: that one has a network of its own and its data in a small /tmp, while here this process has to be on
/// the machines' bridge, to dial them and to pull their cables. `scripts/private-engine` makes it, as for `make demo`.
pub struct HostEngine {
    directory: tempfile::TempDir,
    process: Arc<Mutex<Option<Child>>>,
}

impl HostEngine {
    /// Starts it, and waits until it answers.
    pub fn start() -> HostEngine {
        // /var/tmp: /tmp may be a small tmpfs, and the layers of all machines go here.
        let base = std::env::var_os("TMPDIR").unwrap_or_else(|| "/var/tmp".into());
        let directory = tempfile::Builder::new()
            .prefix("sidekick-cluster.")
            .tempdir_in(base)
            .expect("no temporary directory can be made");
        let log = File::create(directory.path().join("log")).expect("no log can be made");
        let child = Command::new("scripts/private-engine")
            .arg(directory.path().join("engine"))
            .arg("shared")
            .stdin(Stdio::piped())
            .stdout(log.try_clone().expect("a file has handles"))
            .stderr(log)
            // A terminal's Ctrl-C is for us alone.
            .process_group(0)
            .spawn()
            .expect("scripts/private-engine can't be started");
        let engine = HostEngine {
            directory,
            process: Arc::new(Mutex::new(Some(child))),
        };
        engine.end_on_signals();
        eventually(secs(60), "the Docker Engine answers", || {
            engine.try_docker(&["version"]).ok()
        });
        engine
    }

    /// A directory for whatever has to lie somewhere.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Runs docker; fails the scenario where it fails. Returns what it printed.
    #[track_caller]
    pub fn docker(&self, arguments: &[&str]) -> String {
        let output = self.try_docker(arguments);
        output.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Runs docker, for two minutes at most; returns what it printed.
    ///
    /// # Errors
    /// What it complained of.
    pub fn try_docker(&self, arguments: &[&str]) -> Result<String, String> {
        let mut docker = self.command(&["timeout", "120", "docker"]);
        finish("docker", docker.args(arguments))
    }

    /// A command whose docker speaks to this engine, and never to a user's.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(words[0]);
        let host = format!("unix://{}/engine/docker.sock", self.directory().display());
        command
            .args(&words[1..])
            .env("DOCKER_HOST", host)
            .env("DOCKER_CONFIG", self.directory().join("cli"))
            .env_remove("DOCKER_CONTEXT")
            .env_remove("DOCKER_TLS_VERIFY")
            .stdin(Stdio::null());
        command
    }

    fn end_on_signals(&self) {
        let (process, directory) = (Arc::clone(&self.process), self.directory().to_owned());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.expect("a runtime").block_on(async {
                use tokio::signal::unix::{SignalKind, signal};
                let mut terminate =
                    signal(SignalKind::terminate()).expect("SIGTERM can be handled");
                tokio::select! { _ = tokio::signal::ctrl_c() => {}, _ = terminate.recv() => {} }
            });
            println!("taking everything down");
            take_down(&process);
            drop(std::fs::remove_dir_all(directory));
            let stays = std::env::args().any(|word| word == "--stay");
            std::process::exit(if stays { 0 } else { 130 });
        });
    }
}

impl Drop for HostEngine {
    fn drop(&mut self) {
        take_down(&self.process);
    }
}

/// Runs to its end; the error is what it complained of.
///
/// # Errors
/// The command's, with its words.
pub fn finish(name: &str, command: &mut Command) -> Result<String, String> {
    let output = command
        .output()
        .map_err(|error| format!("{name}: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    let words = command.get_args().map(|word| word.to_string_lossy());
    let words = words.collect::<Vec<_>>().join(" ");
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    Err(format!("{name} {words}: {out} {err}"))
}

/// The script cleans up behind the engine when its input says so.
fn take_down(process: &Mutex<Option<Child>>) {
    let mut process = process.lock().unwrap_or_else(PoisonError::into_inner);
    let child = process.take();
    if let Some(mut child) = child {
        if let Some(mut input) = child.stdin.take() {
            drop(writeln!(input, "stop"));
        }
        drop(child.wait());
    }
}
