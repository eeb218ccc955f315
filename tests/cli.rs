//! Wrong usage: one line that names the option, exit status 2, and nobody is asked for anything.
//!
//! Needs no server: two sockets that nobody serves notice whether sidekick knocks.

// A test that can't go on panics, and says where.
#![allow(clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use tempfile::TempDir;

#[test]
fn an_interval_must_be_shorter_than_the_ttl() {
    for (ttl, interval) in [("60s", "60s"), ("60", "61"), ("1m", "1m1s"), ("45s", "45s")] {
        Usage::announce()
            .with("--ttl", ttl)
            .with("--interval", interval)
            .complains_of("--interval");
    }
    // The default interval is 45 s.
    Usage::announce()
        .with("--ttl", "30s")
        .complains_of("--interval");
    Usage::announce()
        .with("--interval", "0")
        .complains_of("--interval");
}

#[test]
fn a_ttl_has_two_seconds_at_least() {
    for ttl in ["1s", "1", "0", "1999ms"] {
        Usage::announce()
            .with("--ttl", ttl)
            .with("--interval", "500ms")
            .complains_of("--ttl");
    }
}

#[test]
fn a_duration_must_be_one() {
    for duration in ["soon", "", "1 potato", "99999999999999999999s"] {
        Usage::announce()
            .with("--ttl", duration)
            .complains_of("--ttl");
        Usage::announce()
            .with("--interval", duration)
            .complains_of("--interval");
        Usage::announce()
            .with("--docker-grace", duration)
            .complains_of("--docker-grace");
    }
    Usage::announce().word("--ttl=-5s").complains_of("--ttl");
}

#[test]
fn a_key_has_no_empty_part_no_space_no_control_character_and_no_dots() {
    for key in [
        "",
        "/",
        "//redis/redis@1",
        "/services//redis@1",
        "/services/redis/",
        "/services/redis/redis 1",
        "/services/redis/redis\t1",
        "/services/redis/redis\n1",
        "/services/redis/\u{7f}",
        "/services/redis/\u{85}",
        "/services/../redis@1",
        "/services/redis/..",
    ] {
        Usage::announce().with("--key", key).complains_of("--key");
        Usage::explain().with("--key", key).complains_of("--key");
    }
}

#[test]
fn a_key_is_needed() {
    Usage::announce().without("--key").complains_of("--key");
}

#[test]
fn a_port_is_from_1_to_65535() {
    for port in [
        "0", "65536", "x", "", "6379/", "/tcp", "6379/ftp", "1e3", " 6379",
    ] {
        Usage::announce()
            .with("--port", port)
            .complains_of("--port");
        Usage::explain().with("--port", port).complains_of("--port");
    }
    Usage::announce().word("--port=-1").complains_of("--port");
}

#[test]
fn a_host_is_not_loopback_not_empty_and_holds_no_white_space() {
    for host in [
        "127.0.0.1",
        "127.8.9.10",
        "::1",
        "::ffff:127.0.0.1",
        "localhost",
        "LocalHost",
        "localhost.",
        "",
        " ",
        "a b",
        "worker\t1",
        "worker\n1",
    ] {
        Usage::announce()
            .with("--host", host)
            .complains_of("--host");
        Usage::explain().with("--host", host).complains_of("--host");
    }
}

#[test]
fn a_certificate_must_be_readable() {
    let files = Files::new();
    let https = || Usage::announce().with("--etcd-endpoints", "https://127.0.0.1:2379");
    for unreadable in [&files.missing, &files.directory, &files.junk] {
        https()
            .with("--etcd-cacert", unreadable)
            .complains_of("--etcd-cacert");
        https()
            .with("--etcd-cert", unreadable)
            .with("--etcd-key", &files.key)
            .complains_of("--etcd-cert");
        https()
            .with("--etcd-cert", &files.certificate)
            .with("--etcd-key", unreadable)
            .complains_of("--etcd-key");
    }
}

#[test]
fn a_certificate_and_its_key_come_together() {
    let files = Files::new();
    let https = || Usage::announce().with("--etcd-endpoints", "https://127.0.0.1:2379");
    https()
        .with("--etcd-cert", &files.certificate)
        .complains_of("--etcd-key");
    https()
        .with("--etcd-key", &files.key)
        .complains_of("--etcd-cert");
}

#[test]
fn a_password_file_must_be_readable() {
    let files = Files::new();
    for unreadable in [&files.missing, &files.directory] {
        Usage::announce()
            .with("--etcd-user", "root")
            .with("--etcd-password-file", unreadable)
            .complains_of("--etcd-password-file");
    }
}

#[test]
fn an_endpoint_is_a_url() {
    for endpoints in [
        ",",
        "http://",
        "http://a b:2379",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:x",
        "ftp://127.0.0.1:2379",
        "http://127.0.0.1:2379,",
        "http://127.0.0.1:2379,no url",
    ] {
        Usage::announce()
            .with("--etcd-endpoints", endpoints)
            .complains_of("--etcd-endpoints");
    }
}

#[test]
fn docker_over_tls_is_refused_and_never_plain_text_instead() {
    let url = |usage: &Usage| format!("tcp://{}", usage.address());
    let usage = Usage::announce().without("--docker-host");
    let host = url(&usage);
    usage
        .environment("DOCKER_TLS_VERIFY", "1")
        .environment("DOCKER_HOST", &host)
        .complains_of("DOCKER_TLS_VERIFY");
    let usage = Usage::announce().without("--docker-host");
    let host = url(&usage);
    usage
        .environment("DOCKER_TLS_VERIFY", "1")
        .with("--docker-host", &host)
        .complains_of("DOCKER_TLS_VERIFY");
}

#[test]
fn a_docker_host_is_a_socket_or_an_address() {
    for host in [
        "unix://",
        "/var/run/docker.sock",
        "ssh://root@machine",
        "tcp://",
        "tcp://127.0.0.1",
    ] {
        Usage::announce()
            .with("--docker-host", host)
            .complains_of("--docker-host");
    }
}

#[test]
fn a_bad_variable_names_its_option() {
    for (variable, value, option) in [
        ("SIDEKICK_TTL", "1s", "--ttl"),
        ("SIDEKICK_INTERVAL", "2m", "--interval"),
        ("SIDEKICK_PORT", "0", "--port"),
        ("SIDEKICK_DOCKER_GRACE", "never", "--docker-grace"),
        ("SIDEKICK_LOG_FORMAT", "xml", "--log-format"),
        ("SIDEKICK_LOG_LEVEL", "loud", "--log-level"),
    ] {
        Usage::announce()
            .environment(variable, value)
            .complains_of(option);
    }
    Usage::announce()
        .without("--host")
        .environment("SIDEKICK_HOST", "localhost")
        .complains_of("--host");
    Usage::announce()
        .without("--key")
        .environment("SIDEKICK_KEY", "/a//b")
        .complains_of("--key");
    Usage::announce()
        .without("--etcd-endpoints")
        .environment("ETCDCTL_ENDPOINTS", "no url")
        .complains_of("--etcd-endpoints");
    Usage::announce()
        .without("--docker-host")
        .environment("DOCKER_HOST", "ssh://a")
        .complains_of("--docker-host");
    Usage::announce()
        .environment("ETCDCTL_CACERT", "/nowhere/ca.crt")
        .complains_of("--etcd-cacert");
}

#[test]
fn an_unknown_option_is_named() {
    Usage::announce().with("--tll", "60s").complains_of("--tll");
}

#[test]
fn an_unknown_command_is_named() {
    Usage::of(&["anounce", "redis1"]).complains_of("anounce");
}

#[test]
fn no_secret_is_repeated_in_a_complaint() {
    let usage = Usage::announce()
        .with("--etcd-user", "root:hunter2")
        .with("--ttl", "1s");
    let complaint = usage.complains_of("--ttl");
    assert!(!complaint.contains("hunter2"), "{complaint}");
}

#[test]
fn good_usage_goes_to_work() {
    Usage::announce().goes_to_work();
    Usage::announce()
        .with("--ttl", "60")
        .with("--interval", "45")
        .goes_to_work();
    Usage::announce()
        .with("--ttl", "1m30s")
        .with("--interval", "1m")
        .goes_to_work();
    Usage::announce()
        .with("--ttl", "2s")
        .with("--interval", "500ms")
        .goes_to_work();
    Usage::announce()
        .with("--docker-grace", "forever")
        .goes_to_work();
    Usage::announce().with("--docker-grace", "0").goes_to_work();
    Usage::announce().with("--port", "1").goes_to_work();
    Usage::announce().with("--port", "65535/udp").goes_to_work();
    Usage::announce().with("--host", "10.0.0.1").goes_to_work();
    Usage::announce()
        .with("--host", "2001:db8::1")
        .goes_to_work();
    Usage::announce()
        .with("--etcd-endpoints", "127.0.0.1:1,http://[::1]:1,https.test")
        .goes_to_work();
    // Empty variables are unset ones, as etcdctl and docker have it.
    Usage::announce()
        .environment("ETCDCTL_CACERT", "")
        .environment("DOCKER_TLS_VERIFY", "")
        .goes_to_work();
    // A Unix socket needs no TLS, whatever a person's shell has set for other machines.
    Usage::announce()
        .environment("DOCKER_TLS_VERIFY", "1")
        .goes_to_work();
}

#[test]
fn help_and_version_are_no_mistakes() {
    for words in [
        &["--help"][..],
        &["--version"],
        &["announce", "--help"],
        &["explain", "--help"],
    ] {
        let output = Usage::of(words).run();
        assert_eq!(output.status.code(), Some(0), "sidekick {words:?}");
        assert!(
            !output.stdout.is_empty(),
            "sidekick {words:?} prints to stdout"
        );
        assert!(output.stderr.is_empty(), "sidekick {words:?} complains");
    }
}

/// A command line, good but for what a test changes, and two sockets that notice if it goes to work.
struct Usage {
    words: Vec<String>,
    options: Vec<(String, String)>,
    environment: Vec<(String, String)>,
    etcd: TcpListener,
    docker: UnixListener,
    _directory: TempDir,
}

impl Usage {
    fn of(words: &[&str]) -> Usage {
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

    fn announce() -> Usage {
        let usage = Usage::explain()
            .with("--key", "/services/redis/redis@1")
            .with("--host", "worker-1.test");
        Usage {
            words: vec!["announce".to_owned(), "redis1".to_owned()],
            ..usage
        }
    }

    fn explain() -> Usage {
        let usage = Usage::of(&["explain", "redis1"]);
        let etcd = format!("http://{}", usage.address());
        let socket = usage._directory.path().join("docker.sock");
        usage
            .with("--etcd-endpoints", &etcd)
            .with("--docker-host", &format!("unix://{}", socket.display()))
    }

    /// Where the TCP socket listens.
    fn address(&self) -> String {
        self.etcd
            .local_addr()
            .expect("a bound socket has an address")
            .to_string()
    }

    /// Sets an option, instead of what it was.
    fn with(self, option: &str, value: &str) -> Usage {
        let mut usage = self.without(option);
        usage.options.push((option.to_owned(), value.to_owned()));
        usage
    }

    fn without(mut self, option: &str) -> Usage {
        self.options.retain(|(name, _)| name != option);
        self
    }

    fn word(mut self, word: &str) -> Usage {
        self.words.push(word.to_owned());
        self
    }

    fn environment(mut self, name: &str, value: &str) -> Usage {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Ends at once with one line that names `culprit`, and has asked nobody; returns the line.
    fn complains_of(self, culprit: &str) -> String {
        let output = self.run();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        let told = format!(
            "{:?} {:?} {:?}:\n{stderr}",
            self.words, self.options, self.environment
        );
        assert_eq!(output.status.code(), Some(2), "exit status of {told}");
        assert_eq!(stderr.lines().count(), 1, "one line from {told}");
        assert!(stderr.contains(culprit), "{culprit} is not named by {told}");
        assert_eq!(stdout, "", "nothing on stdout from {told}");
        self.etcd
            .set_nonblocking(true)
            .expect("a socket can be polled");
        self.docker
            .set_nonblocking(true)
            .expect("a socket can be polled");
        let nobody = |knock: ErrorKind| {
            assert_eq!(knock, ErrorKind::WouldBlock, "somebody was asked by {told}")
        };
        nobody(self.etcd.accept().expect_err("etcd was asked").kind());
        nobody(self.docker.accept().expect_err("Docker was asked").kind());
        stderr
    }

    /// Asks Docker, which comes after all checks.
    fn goes_to_work(self) {
        // The kernel kills it with the thread that started it, should an assertion fail.
        let mut command = self.command(&["setpriv", "--pdeathsig", "KILL", "--"]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().expect("sidekick cannot be started");
        let (asked, answer) = mpsc::channel();
        let docker = self.docker.try_clone().expect("a socket can be shared");
        std::thread::spawn(move || asked.send(docker.accept().is_ok()));
        let asked = answer.recv_timeout(Duration::from_secs(10));
        child.kill().expect("sidekick cannot be killed");
        child.wait().expect("sidekick cannot be waited for");
        assert_eq!(
            asked,
            Ok(true),
            "{:?} {:?} was to go to work",
            self.words,
            self.options
        );
    }

    /// Runs it to its end, which comes at once.
    fn run(&self) -> Output {
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

/// Files to be given for certificates.
struct Files {
    missing: String,
    directory: String,
    junk: String,
    certificate: String,
    key: String,
    _directory: TempDir,
}

impl Files {
    fn new() -> Files {
        let directory = tempfile::tempdir().expect("no temporary directory can be made");
        let path = |name: &str| directory.path().join(name).display().to_string();
        let write = |name: &str, content: &str| {
            fs::write(directory.path().join(name), content).expect("a file can be written");
            path(name)
        };
        let key = rcgen::KeyPair::generate().expect("no key pair can be made");
        let params =
            rcgen::CertificateParams::new(vec!["client".to_owned()]).expect("a valid name");
        let certificate = params
            .self_signed(&key)
            .expect("no certificate can be made");
        Files {
            missing: path("missing"),
            directory: directory.path().display().to_string(),
            junk: write("junk.pem", "-----BEGIN NOTHING-----\nx\n"),
            certificate: write("client.crt", &certificate.pem()),
            key: write("client.key", &key.serialize_pem()),
            _directory: directory,
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
