//! What the machines are made of, and what their engines are given to run.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::host_engine::{HostEngine, finish};

const PACKAGES: &str =
    "systemd systemd-sysv dbus docker.io etcd-server etcd-client haproxy iproute2 iptables procps";

/// What is under test, and what stands by.
pub struct Parts {
    /// The binary.
    pub sidekick: PathBuf,
    /// examples/worker.rs, built static: the machines' libc may be another.
    pub worker: PathBuf,
    /// What [`debian_root`] made.
    pub debian: PathBuf,
}

/// The machines' root file system as a tar, made by the first who asks; `DEBIAN` in the environment is 12 (as if not
/// set) or 13.
pub fn debian_root() -> String {
    let codename = match std::env::var("DEBIAN").as_deref() {
        Err(_) | Ok("" | "12") => "bookworm",
        Ok("13") => "trixie",
        Ok(other) => panic!("DEBIAN={other}: 12 or 13"),
    };
    let mut debian = Command::new("scripts/debian-root");
    debian.arg(codename).args(PACKAGES.split(' '));
    debian.stderr(Stdio::inherit());
    if codename == "trixie" {
        debian.arg("docker-cli"); // a package of its own since Debian 13
    }
    finish("scripts/debian-root", &mut debian).unwrap_or_else(|error| panic!("{error}"))
}

/// sidekick-machine: Debian. For the machines: redis, from this one's own redis-server, as redis.tar; sidekick.tar.
pub fn make_images(engine: &HostEngine, parts: &Parts) {
    let debian = parts.debian.to_str().expect("a path in UTF-8");
    engine.docker(&["import", debian, "sidekick-machine"]);
    let sidekick = std::fs::canonicalize(&parts.sidekick).expect("the binary is there");
    let sidekick = sidekick.to_str().expect("a path in UTF-8");
    let redis = r#"CMD ["redis-server", "--protected-mode", "no", "--save", ""]"#;
    let entry = format!(r#"ENTRYPOINT ["{sidekick}"]"#);
    make_image(engine, "redis", &[redis, "redis-server", "redis-cli"]);
    make_image(engine, "sidekick", &[&entry, sidekick]);
}

/// Of this machine's programs, saved for the engines of the machines.
fn make_image(engine: &HostEngine, name: &str, parts: &[&str]) {
    let mut import = engine.command(&[&["scripts/import-image", name], parts].concat());
    finish("scripts/import-image", &mut import).unwrap_or_else(|error| panic!("{error}"));
    let tar = engine.directory().join(name).with_extension("tar");
    let tar = tar.to_str().expect("a path in UTF-8");
    engine.docker(&["save", "--output", tar, name]);
}
