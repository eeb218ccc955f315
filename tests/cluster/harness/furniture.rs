//! Which machines there are, and what lies on each besides Debian.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::images::Parts;
use super::machine::Role;
use sidekick_harness::secs;

/// Short, so that waiting for it takes no minute. etcd's least is 1.5 election timeouts, 2 s.
pub const TTL: Duration = secs(10);
const INTERVAL: &str = "7s";

/// So little that a scenario can fill it: the third member's disk.
const SMALL_DISK: u64 = 16 << 20;

const ENGINE: Role = &["docker.service", "docker.socket", "containerd.service"];
const ETCD: Role = &["etcd.service"];
const ETCD_AND_ENGINE: Role = &[
    "etcd.service",
    "docker.service",
    "docker.socket",
    "containerd.service",
];

/// By name, address and role: role=services, role=worker, and the third kind. etcd1 has a Docker Engine to be Swarm's manager with.
pub const MACHINES: [(&str, &str, Role); 6] = [
    ("etcd1", "10.77.0.11", ETCD_AND_ENGINE),
    ("etcd2", "10.77.0.12", ETCD),
    ("etcd3", "10.77.0.13", ETCD),
    ("worker1", "10.77.0.21", ENGINE),
    ("worker2", "10.77.0.22", ENGINE),
    ("haproxy", "10.77.0.31", &["haproxy.service"]),
];

/// The settings, written where [`files`] finds them.
pub fn write_files(directory: &Path) {
    let write = |name: &str, text: String| {
        std::fs::write(directory.join(name), text).expect("a file can be written")
    };
    let members = &MACHINES[..3];
    let urls = members
        .iter()
        .map(|(name, _, _)| format!("http://{name}:2379"));
    let ttl = TTL.as_secs();
    write(
        "sidekick",
        format!(
            "ETCDCTL_ENDPOINTS={}\nSIDEKICK_TTL={ttl}s\nSIDEKICK_INTERVAL={INTERVAL}\nSIDEKICK_BIND=redis=:80\n",
            urls.collect::<Vec<_>>().join(",")
        ),
    );
    let peers = members
        .iter()
        .map(|(name, address, _)| format!("{name}=http://{address}:2380"));
    let peers = peers.collect::<Vec<_>>().join(",");
    for (name, address, _) in members {
        let quota = if *name == "etcd3" { SMALL_DISK } else { 0 };
        write(
            &format!("etcd-{name}"),
            format!(
                "ETCD_NAME={name}\n\
                 ETCD_LISTEN_PEER_URLS=http://{address}:2380\n\
                 ETCD_INITIAL_ADVERTISE_PEER_URLS=http://{address}:2380\n\
                 ETCD_LISTEN_CLIENT_URLS=http://0.0.0.0:2379\n\
                 ETCD_ADVERTISE_CLIENT_URLS=http://{name}:2379\n\
                 ETCD_INITIAL_CLUSTER={peers}\n\
                 ETCD_QUOTA_BACKEND_BYTES={quota}\n"
            ),
        );
    }
    // Debian's unit restarts an etcd that was killed; here it stays dead until a scenario starts it.
    write("etcd-stays-dead", "[Service]\nRestart=no\n".to_owned());
    write(
        "settings.yml",
        format!(
            "version: '3.8'\nservices: {{sidekick: {{environment: {{SIDEKICK_TTL: {ttl}s, SIDEKICK_INTERVAL: {INTERVAL}}}}}}}\n"
        ),
    );
    write("attached", drop_in_of_the_agent());
}

/// The drop-in for Debian's haproxy.service, as the comment in the unit shows it.
fn drop_in_of_the_agent() -> String {
    let unit =
        std::fs::read_to_string("systemd/sidekick-agent.service").expect("the unit is there");
    let comment = unit.lines().take_while(|line| line.starts_with('#'));
    let indented = comment.filter_map(|line| line.strip_prefix("#   "));
    indented
        .skip_while(|line| !line.starts_with('['))
        .fold(String::new(), |text, line| text + line + "\n")
}

/// What lies on a machine besides Debian, by its path there.
pub fn files(parts: &Parts, directory: &Path, name: &str) -> Vec<(String, PathBuf)> {
    let written = |name: &str| directory.join(name);
    let unit = |name: &str| format!("etc/systemd/system/{name}");
    let mut files = vec![
        ("machine-init".to_owned(), "scripts/machine-init".into()),
        ("usr/local/bin/sidekick".to_owned(), parts.sidekick.clone()),
        ("etc/default/sidekick".to_owned(), written("sidekick")),
    ];
    for service in ["redis@", "redis-discovery@", "sidekick", "sidekick-agent"] {
        let file = format!("{service}.service");
        files.push((unit(&file), Path::new("systemd").join(file)));
    }
    if name.starts_with("etcd") {
        let settings = written(&format!("etcd-{name}"));
        files.push(("etc/default/etcd".to_owned(), settings));
        let drop_in = unit("etcd.service.d/stays-dead.conf");
        files.push((drop_in, written("etcd-stays-dead")));
    }
    if name == "haproxy" {
        files.push(("usr/local/bin/worker".to_owned(), parts.worker.clone()));
        let drop_in = unit("sidekick-agent.service.d/override.conf");
        files.push((drop_in, written("attached")));
    }
    files
}
