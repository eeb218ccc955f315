//! A command line, and what comes of it.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use tempfile::TempDir;

/// A command line, good but for what a test changes, and two sockets that notice if it goes to work.
pub struct Usage {
    words: Vec<String>,
    options: Vec<(String, String)>,
    environment: Vec<(String, String)>,
    etcd: TcpListener,
    docker: UnixListener,
    _directory: TempDir,
}

impl Usage {
    /// Any words.
    pub fn of(words: &[&str]) -> Usage {
        let directory = tempfile::tempdir().expect("no temporary directory can be made");
        let socket = directory.path().join("docker.sock");
        let docker = UnixListener::bind(&socket).expect("no Unix socket can be bound");
        let etcd = TcpListener::bind("127.0.0.1:0").expect("no TCP port is free");
        Usage {
            words: words.iter().map(|&word| word.to_owned()).collect(),
            options: vec![],
            environment: vec![],
            etcd,
            docker,
            _directory: directory,
        }
    }

    /// `sidekick announce redis1` with all it needs.
    pub fn announce() -> Usage {
        let usage = Usage::explain()
            .with("--key", "/services/redis/redis@1")
            .with("--host", "worker-1.test");
        usage.by("announce redis1")
    }

    /// `sidekick announce --all` with all it needs.
    pub fn announce_all() -> Usage {
        Usage::announce().without("--key").by("announce --all")
    }

    /// `sidekick explain redis1` with all it needs.
    pub fn explain() -> Usage {
        let usage = Usage::of(&["explain", "redis1"]);
        let etcd = format!("http://{}", usage.address());
        let socket = usage._directory.path().join("docker.sock");
        usage
            .with("--etcd-endpoints", &etcd)
            .with("--docker-host", &format!("unix://{}", socket.display()))
    }

    /// `sidekick explain --all` with all it needs.
    pub fn explain_all() -> Usage {
        Usage::explain().by("explain --all")
    }

    /// `sidekick list` with all it needs.
    pub fn list() -> Usage {
        let usage = Usage::of(&["list"]);
        let etcd = format!("http://{}", usage.address());
        usage.with("--etcd-endpoints", &etcd)
    }

    /// `sidekick drain`, `undrain` or `wait` with all it needs but its words.
    pub fn instance(words: &[&str]) -> Usage {
        let usage = Usage::of(words);
        let etcd = format!("http://{}", usage.address());
        usage.with("--etcd-endpoints", &etcd)
    }

    /// `sidekick agent --dry-run` with all it needs, which is no HAProxy.
    pub fn agent() -> Usage {
        Usage::list().by("agent --dry-run")
    }

    /// The same options after other words.
    fn by(mut self, words: &str) -> Usage {
        self.words = words.split(' ').map(str::to_owned).collect();
        self
    }

    /// Where the TCP socket listens.
    pub fn address(&self) -> String {
        let address = self.etcd.local_addr();
        address.expect("a bound socket has an address").to_string()
    }

    /// Sets an option, instead of what it was.
    pub fn with(self, option: &str, value: &str) -> Usage {
        let mut usage = self.without(option);
        usage.options.push((option.to_owned(), value.to_owned()));
        usage
    }

    /// Takes an option away.
    pub fn without(mut self, option: &str) -> Usage {
        self.options.retain(|(name, _)| name != option);
        self
    }

    /// Adds a word.
    pub fn word(mut self, word: &str) -> Usage {
        self.words.push(word.to_owned());
        self
    }

    /// Sets an environment variable.
    pub fn environment(mut self, name: &str, value: &str) -> Usage {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Ends at once with one line that names `culprit`, and has dialled neither etcd nor Docker; returns the line.
    pub fn complains_of(self, culprit: &str) -> String {
        self.refuses(culprit, 2)
    }

    /// The same of a file that may be right later: status 1, so that a service manager tries again.
    pub fn cannot_use_the_file_of(self, culprit: &str) -> String {
        self.refuses(culprit, 1)
    }

    fn refuses(self, culprit: &str, status: i32) -> String {
        let output = self.run();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        let told = format!(
            "{:?} {:?} {:?}:\n{stderr}",
            self.words, self.options, self.environment
        );
        assert_eq!(output.status.code(), Some(status), "exit status of {told}");
        assert_eq!(stderr.lines().count(), 1, "one line from {told}");
        assert!(stderr.contains(culprit), "{culprit} is not named by {told}");
        assert_eq!(stdout, "", "nothing on stdout from {told}");
        let polled = "a socket can be polled";
        self.etcd.set_nonblocking(true).expect(polled);
        self.docker.set_nonblocking(true).expect(polled);
        let etcd = self.etcd.accept().expect_err("etcd was dialled").kind();
        let docker = self.docker.accept().expect_err("Docker was dialled").kind();
        assert_eq!([etcd, docker], [ErrorKind::WouldBlock; 2], "{told}");
        stderr
    }

    /// Ends with status 1, and these words in its last line.
    pub fn fails_with(self, words: &str) {
        let output = self.run();
        let stderr = text(&output.stderr);
        let told = format!("{:?} {:?}:\n{stderr}", self.words, self.options);
        assert_eq!(output.status.code(), Some(1), "exit status of {told}");
        let last = stderr.lines().last().unwrap_or_default();
        assert!(
            last.contains(words),
            "{words} isn't in the last line: {told}"
        );
    }

    /// Ends with status 1, with one warning about a variable, `culprit`; returns the line.
    pub fn warns_once_of(self, culprit: &str) -> String {
        let warnings = self.warnings();
        let told = format!("{:?} {:?}: {warnings:?}", self.words, self.environment);
        let [line] = warnings.as_slice() else {
            panic!("one warning from {told}");
        };
        assert!(line.contains(culprit), "{culprit} is not named by {told}");
        line.clone()
    }

    /// Ends with status 1, and without a warning about a variable.
    pub fn warns_of_nothing(self) {
        let warnings = self.warnings();
        let told = format!("{:?} {:?}: {warnings:?}", self.words, self.environment);
        assert!(warnings.is_empty(), "no warning from {told}");
    }

    fn warnings(&self) -> Vec<String> {
        let output = self.run();
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "exit status of {stderr}");
        // That etcd can't be asked is a warning as well.
        let about = |line: &&str| line.contains("ETCDCTL_") || line.contains("DOCKER_");
        let lines = stderr.lines().filter(|line| line.contains("WARN"));
        lines.filter(about).map(str::to_owned).collect()
    }

    /// Asks Docker, or etcd where no engine is asked first, which comes after all checks.
    pub fn goes_to_work(self) {
        // The kernel kills it with the thread that started it, should an assertion fail.
        let mut command = self.command(&["setpriv", "--pdeathsig", "KILL", "--"]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().expect("sidekick cannot be started");
        let (asked, answer) = mpsc::channel();
        let docker = self.docker.try_clone().expect("a socket can be shared");
        let etcd = self.etcd.try_clone().expect("a socket can be shared");
        let engine_first = matches!(self.words[0].as_str(), "announce" | "explain");
        std::thread::spawn(move || {
            asked.send(match engine_first {
                true => docker.accept().is_ok(),
                false => etcd.accept().is_ok(),
            })
        });
        let asked = answer.recv_timeout(Duration::from_secs(10));
        child.kill().expect("sidekick cannot be killed");
        child.wait().expect("sidekick cannot be waited for");
        let (words, options, environment) = (&self.words, &self.options, &self.environment);
        let told = format!("{words:?} {options:?} {environment:?} was to go to work");
        assert_eq!(asked, Ok(true), "{told}");
    }

    /// Runs it to its end, which comes at once.
    pub fn run(&self) -> Output {
        // Usage that is wrongly taken for good would run for ever.
        let mut command = self.command(&["timeout", "--signal=KILL", "10"]);
        command.output().expect("sidekick cannot be started")
    }

    fn command(&self, keeper: &[&str]) -> Command {
        let mut command = Command::new(keeper[0]);
        command
            .args(&keeper[1..])
            .arg(env!("CARGO_BIN_EXE_sidekick"))
            .args(&self.words)
            .args(self.options.iter().flat_map(|(name, value)| [name, value]))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null());
        command
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
