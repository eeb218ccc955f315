//! One machine: a container that boots its own systemd.

use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Arc;

use super::SOON;
use super::host_engine::{HostEngine, ip};
use sidekick_harness::blocking::eventually;
use sidekick_harness::secs;

/// What runs on a machine besides systemd: Debian's units that it has. Of those in [`UNITS`] the others are masked.
pub type Role = &'static [&'static str];

/// Debian enables all that it installs.
const UNITS: &[&str] = &[
    "etcd.service",
    "haproxy.service",
    "docker.service",
    "docker.socket",
    "containerd.service",
];

/// All that --privileged gives but CAP_SYS_RESOURCE, which an engine in a sandbox may not have itself to give away.
/// /var/lib/docker is a volume because overlayfs does not stack on the container's own overlayfs.
const AS_A_MACHINE: &[&str] = &[
    "--tty",
    "--stop-signal=SIGRTMIN+3",
    "--cap-add=ALL",
    "--cap-drop=SYS_RESOURCE",
    "--device-cgroup-rule=a *:* rwm",
    "--cgroupns=private",
    "--security-opt=seccomp=unconfined",
    "--security-opt=apparmor=unconfined",
    "--security-opt=systempaths=unconfined",
    "--tmpfs=/run",
    "--tmpfs=/run/lock",
    "--tmpfs=/tmp",
    "--volume=/var/lib/docker",
    "--env=container=docker",
];

/// A machine of the cluster.
pub struct Machine {
    /// Its host name, which every other machine knows.
    pub name: &'static str,
    /// Its address in the cluster's network.
    pub address: &'static str,
    engine: Arc<HostEngine>,
}

impl Machine {
    /// Makes it, with `files` laid over its root; it has yet to be booted.
    pub fn make(
        engine: &Arc<HostEngine>,
        (name, address): (&'static str, &'static str),
        role: Role,
        hosts: &[(&str, &str)],
        files: &[(String, PathBuf)],
    ) -> Machine {
        let machine = Machine {
            name,
            address,
            engine: Arc::clone(engine),
        };
        let hosts = hosts.iter();
        let hosts = hosts.map(|(name, address)| format!("--add-host={name}:{address}"));
        let hosts: Vec<String> = hosts.collect();
        let create =
            format!("create --name {name} --hostname {name} --network=cluster --ip={address}");
        let mut arguments: Vec<&str> = create.split(' ').collect();
        arguments.extend(hosts.iter().map(String::as_str));
        arguments.extend(AS_A_MACHINE);
        arguments.extend(["sidekick-machine", "/machine-init"]);
        engine.docker(&arguments);
        let root = engine.directory().join(name);
        for (path, source) in files {
            let target = root.join(path);
            std::fs::create_dir_all(target.parent().expect("a file is in a directory"))
                .expect("a directory");
            std::fs::copy(source, &target).unwrap_or_else(|e| panic!("{}: {e}", source.display()));
        }
        // Without one systemd takes it for the first boot, and enables all that can be enabled.
        let id: std::net::Ipv4Addr = address.parse().expect("an address");
        let id = format!("{:032x}\n", u32::from(id));
        std::fs::write(root.join("etc/machine-id"), id).expect("a file can be written");
        let masks = root.join("etc/systemd/system");
        std::fs::create_dir_all(&masks).expect("a directory");
        for unit in UNITS.iter().filter(|unit| !role.contains(unit)) {
            std::os::unix::fs::symlink("/dev/null", masks.join(unit)).expect("a link");
        }
        machine.copy_in(&root.join("."), "/");
        machine
    }

    /// Turns it on, and waits until it is up.
    #[track_caller]
    pub fn power_on(&self) {
        self.engine.docker(&["start", self.name]);
        // degraded counts as up: some unit that has no business in a container failed (kernel modules, for one).
        eventually(secs(120), "the machine is up", || {
            let said = self.try_run(&["systemctl", "is-system-running"]);
            said.is_ok() || said.is_err_and(|error| error.contains("degraded"))
        });
    }

    /// As when its plug is pulled: it sends no further packet, not even the end of a connection.
    pub fn power_off(&self) {
        self.cut_off();
        self.engine.docker(&["kill", self.name]);
    }

    /// In good order, as by `systemctl reboot`.
    #[track_caller]
    pub fn reboot(&self) {
        self.engine.docker(&["stop", "--time=60", self.name]);
        self.power_on();
    }

    /// Pulls its network cable; the machine itself runs on.
    pub fn cut_off(&self) {
        ip(&["link", "set", &self.cable(), "down"]);
    }

    /// Puts its network cable back.
    pub fn reconnect(&self) {
        ip(&["link", "set", &self.cable(), "up"]);
    }

    /// Runs a command on it, for two minutes at most; fails the scenario where that fails.
    #[track_caller]
    pub fn run(&self, command: &[&str]) -> String {
        let output = self.try_run(command);
        output.unwrap_or_else(|error| panic!("{error}"))
    }

    /// The same for a command without spaces in its words.
    #[track_caller]
    pub fn run_words(&self, command: &str) -> String {
        self.run(&command.split_whitespace().collect::<Vec<_>>())
    }

    /// Runs a command on it.
    ///
    /// # Errors
    /// What the command complained of.
    pub fn try_run(&self, command: &[&str]) -> Result<String, String> {
        self.engine
            .try_docker(&[&["exec", self.name], command].concat())
    }

    /// `systemctl VERB UNIT`, such as `systemctl("start", "redis@1")`.
    #[track_caller]
    pub fn systemctl(&self, verb: &str, unit: &str) {
        self.run(&["systemctl", "--quiet", verb, unit]);
    }

    /// Starts a unit.
    #[track_caller]
    pub fn start(&self, unit: &str) {
        self.systemctl("start", unit);
    }

    /// Stops a unit.
    #[track_caller]
    pub fn stop(&self, unit: &str) {
        self.systemctl("stop", unit);
    }

    /// Sends a signal (`KILL`, `STOP`, `CONT`) to a unit's main process alone.
    #[track_caller]
    pub fn signal(&self, unit: &str, signal: &str) {
        self.run_words(&format!(
            "systemctl kill --kill-who=main --signal={signal} {unit}"
        ));
    }

    /// Whether a unit is active; for our own sidekicks that means that they said READY=1.
    pub fn is_active(&self, unit: &str) -> bool {
        self.try_run(&["systemctl", "--quiet", "is-active", unit])
            .is_ok()
    }

    /// A property of a unit, such as `StatusText`.
    #[track_caller]
    pub fn property(&self, unit: &str, property: &str) -> String {
        self.run_words(&format!(
            "systemctl show --value --property={property} {unit}"
        ))
    }

    /// The container that runs under this name, as 12 digits.
    pub fn container(&self, name: &str) -> Option<String> {
        let filter = format!("name=^/?{name}$");
        let id = self
            .try_run(&["docker", "ps", "--filter", &filter, "--format", "{{.ID}}"])
            .ok()?;
        (!id.is_empty()).then_some(id)
    }

    /// What Redis on another machine answers to PING, dialled from this one.
    ///
    /// # Errors
    /// No server answers there.
    pub fn ping(&self, host: &str, port: u16) -> Result<String, String> {
        let dial = format!(
            "exec 3<>/dev/tcp/{host}/{port} && printf 'PING\\r\\n' >&3 && read -r answer <&3 && echo $answer"
        );
        self.try_run(&["timeout", "5", "bash", "-c", &dial])
    }

    /// Copies a file, or what is below a directory that ends in `/.`, onto it.
    pub fn copy_in(&self, from: &Path, to: &str) {
        let from = from.to_str().expect("a path in UTF-8");
        self.engine
            .docker(&["cp", from, &format!("{}:{to}", self.name)]);
    }

    /// Writes a file on it; its directory has to be there.
    pub fn write(&self, path: &str, text: &str) {
        let file = self.engine.directory().join("written");
        std::fs::write(&file, text).expect("a file can be written");
        self.copy_in(&file, path);
    }

    /// Waits until its Docker Engine answers, and gives it an image that `docker save` wrote.
    pub fn load_image(&self, tar: &Path) {
        eventually(SOON, "its Docker Engine answers", || {
            self.try_run(&["docker", "version"]).ok()
        });
        self.copy_in(tar, "/var/tmp/image.tar");
        self.run(&["docker", "load", "--quiet", "--input", "/var/tmp/image.tar"]);
    }

    /// Its Docker Engine, for clients outside of it.
    pub fn open_engine(&self) -> OpenEngine {
        let socket = self.engine.directory().join(format!("{}.sock", self.name));
        let listen = format!("UNIX-LISTEN:{},fork", socket.display());
        let dial = format!(
            "EXEC:docker exec --interactive {} docker system dial-stdio",
            self.name
        );
        let socat = self.engine.command(&["socat", &listen, &dial]).spawn();
        let engine = OpenEngine {
            host: format!("unix://{}", socket.display()),
            socat: socat.expect("socat can be started"),
        };
        eventually(SOON, "its engine's socket is there", || socket.exists());
        engine
    }

    /// The end of what these units said.
    pub fn journal(&self, units: &[&str], since: &str) -> String {
        let mut command = vec!["journalctl", "--no-pager"];
        command.extend(["--output=short-precise", "--since", since]);
        command.extend(units.iter().flat_map(|unit| ["--unit", unit]));
        let said = self.try_run(&command).unwrap_or_else(|error| error);
        // With --since, --lines= would be the first ones.
        let lines: Vec<_> = said.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    /// The engine's end of it: the peer of the machine's eth0.
    fn cable(&self) -> String {
        let index = self.run(&["cat", "/sys/class/net/eth0/iflink"]);
        let links = ip(&["-oneline", "link"]);
        let end = links.lines().find_map(|line| {
            let (number, rest) = line.split_once(": ")?;
            (number == index).then(|| rest.split(['@', ':']).next())?
        });
        end.unwrap_or_else(|| panic!("no cable leads to {}", self.name))
            .to_owned()
    }
}

/// A machine's Docker Engine for clients outside of it, until this value is dropped.
pub struct OpenEngine {
    /// As `DOCKER_HOST`.
    pub host: String,
    socat: Child,
}

impl Drop for OpenEngine {
    /// What it forked ends with its client.
    fn drop(&mut self) {
        let _ = self.socat.kill();
        let _ = self.socat.wait();
    }
}
