//! A Docker Engine that no user ever sees.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::process::Command;
use tokio::sync::OnceCell;
use tokio::time::timeout;

use super::container::Run;
use super::engine_network::EngineNetwork;
use super::etcd::Etcd;
use super::scene::{HOST, KEY};
use super::sidekick::{Announce, Sidekick};
use super::wait::{eventually, secs};
use super::warden::{Charge, Warden, require};

/// A dockerd in namespaces of its own (network, mounts, pids, host name), reached by its Unix socket alone.
///
/// `SIDEKICK_TEST_ENGINE_TREE` names the directory of another Debian whose engine it is (`scripts/debian-tree`), and
/// `SIDEKICK_TEST_ENGINE=podman` has Podman serve Docker's API in dockerd's place.
pub struct Engine {
    warden: Warden,
    shared: bool,
}

/// What a dockerd may be started with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Restore {
    /// Containers end with their engine.
    Off,
    /// Containers outlive their engine.
    Live,
}

impl Engine {
    /// The host name that the engine tells in `/info`; no machine has it.
    pub const HOSTNAME: &str = "engine.test";

    /// An address of the engine's host that is not loopback, to publish ports on.
    pub const ADDRESS: &str = "10.99.0.1";

    /// The engine that most tests use at the same time; container names come from [`Engine::name`].
    pub async fn shared() -> &'static Engine {
        static SHARED: OnceCell<Engine> = OnceCell::const_new();
        SHARED
            .get_or_init(|| async {
                let engine = Engine {
                    shared: true,
                    ..Engine::planned(Restore::Off)
                };
                engine.start_again().await;
                engine
            })
            .await
    }

    /// A running engine of a test's own, for tests that stop it.
    pub async fn start() -> Engine {
        let engine = Engine::planned(Restore::Off);
        engine.start_again().await;
        engine
    }

    /// A running engine of a test's own, whose containers live on while it is down.
    pub async fn start_with_live_restore() -> Engine {
        let engine = Engine::planned(Restore::Live);
        engine.start_again().await;
        engine
    }

    /// An engine with an address, not started yet.
    pub fn not_yet() -> Engine {
        Engine::planned(Restore::Off)
    }

    /// Its address, as DOCKER_HOST has it.
    pub fn host(&self) -> String {
        format!(
            "unix://{}",
            self.warden.directory().join("docker.sock").display()
        )
    }

    /// Lets a group speak to the engine, as Docker's packages do with the group docker.
    pub fn opens_to(&self, group: u32) {
        let socket = self.warden.directory().join("docker.sock");
        std::os::unix::fs::chown(&socket, None, Some(group)).expect("the socket is ours");
        let passable = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        fs::set_permissions(self.warden.directory(), passable).expect("the directory is ours");
    }

    /// A container name that no other test uses.
    pub fn name(&self, base: &str) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        format!("{base}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// A Redis container to be, by a name that no other test uses, its port published at a free one of the engine's host.
    pub fn redis(&self) -> Run<'_> {
        let name = self.name("redis1");
        self.container(&name).publish("6379")
    }

    /// A Redis container to be, by exactly this name.
    pub fn container<'e>(&'e self, name: &str) -> Run<'e> {
        Run::new(self, name)
    }

    /// What announces the container of this name, in this etcd, at [`KEY`] and as on [`HOST`].
    pub fn announce(&self, name: &str, etcd: &Etcd) -> Announce {
        let announce = Sidekick::announce(name, KEY).etcd(etcd);
        announce.docker(self).host(HOST)
    }

    /// What announces all containers of the engine, in this etcd and as on [`HOST`].
    pub fn announce_all(&self, etcd: &Etcd) -> Announce {
        let announce = Sidekick::announce_all().etcd(etcd);
        announce.docker(self).host(HOST)
    }

    /// Starts dockerd, for the first time or again with what it had, and waits until it answers.
    pub async fn start_again(&self) {
        self.warden.start();
        eventually(secs(40), "dockerd answers", async || {
            assert!(
                self.warden.is_up(),
                "dockerd has ended; its log:\n{}",
                self.warden.log_tail()
            );
            self.try_docker(&["version"]).await.map(drop)
        })
        .await;
        if self.try_docker(&["image", "inspect", IMAGE]).await.is_err() {
            self.import_image().await;
        }
    }

    /// Ends dockerd in good order; without live restore its containers end too.
    pub async fn stop(&self) {
        self.warden.end_with("TERM").await;
    }

    /// Kills dockerd; with live restore its containers live on.
    pub async fn kill9(&self) {
        self.warden.end_with("KILL").await;
    }

    /// Stops dockerd's clock: its socket accepts, and nothing answers.
    pub fn freeze(&self) {
        self.warden.signal("STOP");
    }

    /// Lets dockerd go on.
    pub fn thaw(&self) {
        self.warden.signal("CONT");
    }

    /// Kills a container's process behind dockerd's back, by the pid that inspect told.
    pub fn kill_process(&self, pid: u32) {
        self.warden.kill_process(pid);
    }

    /// Surroundings in which a program shares the engine's pid namespace and its /proc, as on a user's machine; for
    /// `Announce::within`. Without them it sees the engine's processes from a namespace above.
    pub fn beside(&self) -> Vec<String> {
        let unshare = self.warden.keeper();
        let namespace = |kind: &str, file: &str| format!("--{kind}=/proc/{unshare}/ns/{file}");
        let enter = [
            require("nsenter").display().to_string(),
            namespace("pid", "pid_for_children"),
            namespace("mount", "mnt"),
            "--".to_owned(),
        ];
        let with_its_parent = ["setpriv", "--pdeathsig", "KILL", "--"].map(str::to_owned);
        enter.into_iter().chain(with_its_parent).collect()
    }

    /// The engine's network namespace, from which this etcd can be reached.
    pub fn network(&self, etcd: &Etcd) -> EngineNetwork {
        let namespace = format!("/proc/{}/ns/net", self.warden.keeper());
        EngineNetwork::of(namespace.into(), etcd.url())
    }

    /// Whether the engine is Podman.
    pub fn is_podman() -> bool {
        match std::env::var("SIDEKICK_TEST_ENGINE").as_deref() {
            Err(_) | Ok("" | "docker") => false,
            Ok("podman") => true,
            Ok(other) => panic!("SIDEKICK_TEST_ENGINE={other}: docker or podman"),
        }
    }

    /// What `docker run` needs besides, so that the janitor finds the container's control groups.
    pub(super) fn cgroup_parent(&self) -> Option<String> {
        let directory = self.warden.directory();
        Engine::is_podman().then(|| format!("--cgroup-parent=/{}", file_name(directory)))
    }

    /// Runs the docker command against this engine; fails the test where it fails.
    pub async fn docker(&self, arguments: &[&str]) -> String {
        let done = self.try_docker(arguments).await;
        done.unwrap_or_else(|error| {
            // An engine that has gone tells why in its log alone.
            let log = error
                .contains("error during connect")
                .then(|| self.warden.log_tail());
            let log = log.map(|log| format!("; the engine's log:\n{log}"));
            panic!(
                "docker {}: {error}{}",
                arguments.join(" "),
                log.unwrap_or_default()
            )
        })
    }

    /// Whether many tests use this engine.
    pub fn is_shared(&self) -> bool {
        self.shared
    }

    /// The docker command against this engine, and never a user's engine or configuration.
    pub fn command(&self) -> std::process::Command {
        let mut command = std::process::Command::new(require("docker"));
        command
            .env_clear()
            .env("DOCKER_HOST", self.host())
            .env("DOCKER_CONFIG", self.warden.directory().join("cli"))
            .stdin(Stdio::null());
        command
    }

    /// Runs the docker command against this engine; tells what it printed, or why it failed.
    pub async fn try_docker(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::from(self.command());
        command.args(arguments).kill_on_drop(true);
        let output = timeout(secs(60), command.output())
            .await
            .map_err(|_| "no end in a minute".to_owned())?;
        let output = output.map_err(|error| error.to_string())?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
        }
    }

    /// The machine's own redis-server with the libraries it needs and a shell for health checks: no registry.
    async fn import_image(&self) {
        let tar = self.warden.directory().join("image.tar");
        // Docker runs health checks by /bin/sh, by that path.
        let programs = [
            require("redis-server"),
            require("redis-cli"),
            PathBuf::from("/bin/sh"),
        ];
        let packed = Command::new("sh")
            .arg("-c")
            .arg(include_str!("image.sh"))
            .arg(&tar)
            .args(&programs)
            .output()
            .await
            .expect("no shell can be started");
        assert!(
            packed.status.success(),
            "no image: {}",
            String::from_utf8_lossy(&packed.stderr)
        );
        let path = tar
            .to_str()
            .expect("the temporary directory's name is UTF-8");
        self.docker(&[
            "import",
            "--change=ENTRYPOINT [\"redis-server\"]",
            "--change=CMD [\"--save\",\"\",\"--protected-mode\",\"no\"]",
            "--change=EXPOSE 6379",
            path,
            IMAGE,
        ])
        .await;
    }

    fn planned(restore: Restore) -> Engine {
        let podman = Engine::is_podman();
        let tools = [
            "docker",
            "redis-server",
            "redis-cli",
            "unshare",
            "ip",
            "setpriv",
        ];
        let own_dockerd = (!podman && !another_debian()).then_some("dockerd");
        let programs: Vec<&str> = tools.into_iter().chain(own_dockerd).collect();
        let directory = Warden::directory_for("dockerd", &programs);
        let server = if podman {
            podman_server(&directory)
        } else {
            docker_server(&directory, restore)
        };
        let surroundings = [
            "unshare",
            "--net",
            "--mount",
            "--pid",
            "--uts",
            "--fork",
            "--mount-proc",
        ];
        let surroundings = surroundings
            .into_iter()
            .chain([
                "sh",
                "-c",
                include_str!("engine.sh"),
                Engine::HOSTNAME,
                Engine::ADDRESS,
            ])
            .map(str::to_owned)
            .collect();
        Engine {
            warden: Warden::of(Charge {
                directory,
                surroundings,
                server,
            }),
            shared: false,
        }
    }
}

/// The image's name on every test engine.
pub(crate) const IMAGE: &str = "sidekick-test/redis";

/// Whether the engine is that of another Debian.
fn another_debian() -> bool {
    std::env::var_os("SIDEKICK_TEST_ENGINE_TREE").is_some_and(|tree| !tree.is_empty())
}

fn docker_server(directory: &Path, restore: Restore) -> Vec<String> {
    let path = |name: &str| directory.join(name).display().to_string();
    // Else dockerd would read a user's /etc/docker/daemon.json.
    fs::write(directory.join("daemon.json"), "{}")
        .expect("dockerd's configuration cannot be written");
    let mut server = vec![
        "dockerd".to_owned(),
        format!("--config-file={}", path("daemon.json")),
        format!("--data-root={}", path("data")),
        format!("--exec-root={}", path("exec")),
        format!("--pidfile={}", path("pid")),
        format!("--host=unix://{}", path("docker.sock")),
        // Named after the directory, so that the janitor finds what is left of it.
        format!("--cgroup-parent=/{}", file_name(directory)),
    ];
    if restore == Restore::Live {
        server.push("--live-restore".to_owned());
    }
    server
}

fn podman_server(directory: &Path) -> Vec<String> {
    let path = |name: &str| directory.join(name).display().to_string();
    fs::write(directory.join("podman.conf"), include_str!("podman.conf"))
        .expect("Podman's configuration cannot be written");
    vec![
        "env".to_owned(),
        // conmon leaves a file `oom` where it was started.
        format!("--chdir={}", directory.display()),
        format!("CONTAINERS_CONF={}", path("podman.conf")),
        "podman".to_owned(),
        format!("--root={}", path("data")),
        format!("--runroot={}", path("exec")),
        format!("--tmpdir={}", path("libpod")),
        "--storage-driver=overlay".to_owned(),
        "system".to_owned(),
        "service".to_owned(),
        "--time=0".to_owned(),
        format!("unix://{}", path("docker.sock")),
    ]
}

fn file_name(directory: &Path) -> String {
    directory
        .file_name()
        .expect("a directory has a name")
        .to_string_lossy()
        .into_owned()
}
