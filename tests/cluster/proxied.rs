//! `sidekick agent` as a unit: attached to Debian's haproxy.service, and with a HAProxy of its own.

use std::time::Instant;

use crate::harness::{Cluster, Machine, SOON};
use sidekick_harness::blocking::{eventually, never_for};
use sidekick_harness::secs;

/// The drop-in that the comment in sidekick-agent.service shows. HAProxy runs without the agent, the agent through
/// HAProxy's restarts.
pub fn attached_to_debians_haproxy(cluster: &Cluster) {
    let machine = &cluster.haproxy;
    println!("    {}", machine.property("sidekick-agent", "StatusText"));

    machine.stop("sidekick-agent");
    let stopped = Instant::now();
    cluster.prints_bar(stopped + secs(1));
    machine.start("sidekick-agent");

    let process = machine.property("sidekick-agent", "MainPID");
    machine.signal("sidekick-agent", "KILL");
    eventually(SOON, "there is another agent", || {
        let now = machine.property("sidekick-agent", "MainPID");
        now != "0" && now != process && machine.is_active("sidekick-agent")
    });
    let noticed = cluster.worker().complaints(stopped);
    assert_eq!(noticed, [""; 0], "the worker noticed");

    machine.systemctl("restart", "haproxy");
    let restarted = Instant::now();
    cluster.prints_bar(restarted);
    // It is the agent that finds out: what changes now reaches the new HAProxy.
    cluster.worker1.stop("redis@1");
    let stopped = Instant::now();
    eventually(SOON, "the worker is refused", || {
        !cluster.worker().complaints(stopped).is_empty()
    });
    cluster.worker1.start("redis@1");
}

/// The drop-in that docs/deploying.md shows, which keeps Debian's own global and defaults sections.
pub fn attached_with_debians_own_sections(cluster: &Cluster) {
    let (machine, began) = (&cluster.haproxy, Instant::now());
    let page = std::fs::read_to_string("docs/deploying.md").expect("the page is there");
    let block = page
        .split_once("attach.conf <<'END'\n")
        .and_then(|(_, rest)| rest.split_once("END\n"));
    let (drop_in, _) = block.expect("the page shows a drop-in");
    let (file, path) = (
        "/etc/haproxy/haproxy.cfg",
        "/etc/systemd/system/sidekick-agent.service.d/docs.conf",
    );
    machine.run_words(&format!("cp {file}.before-sidekick /etc/haproxy/base.cfg"));
    machine.write(path, drop_in);
    restart_the_agent(cluster);
    machine.run(&["grep", "-q", "chroot /var/lib/haproxy", file]);
    machine.run(&["rm", path]);
    restart_the_agent(cluster);
    let noticed = cluster.worker().complaints(began);
    assert_eq!(noticed, [""; 0], "the worker noticed");
}

#[track_caller]
fn restart_the_agent(cluster: &Cluster) {
    cluster.haproxy.run(&["systemctl", "daemon-reload"]);
    cluster.haproxy.systemctl("restart", "sidekick-agent");
    eventually(SOON, "the agent serves redis", || {
        let status = cluster.haproxy.property("sidekick-agent", "StatusText");
        status.contains("serving") && !status.contains(" 0 instances")
    });
}

/// On a machine whose own haproxy.service is off.
pub fn supervised_by_its_own_unit(cluster: &Cluster) {
    let machine = &cluster.members[1];
    machine.start("sidekick-agent"); // returns when it said READY=1
    println!("    {}", machine.property("sidekick-agent", "StatusText"));
    answers(cluster);
    bound_with_one_capability(machine);

    machine.systemctl("restart", "sidekick-agent");
    answers(cluster);
    let processes = haproxies(machine).len();
    assert_eq!(processes, 2, "a master and a worker, none of before");

    machine.run(&["systemctl", "kill", "--signal=KILL", "sidekick-agent"]);
    is_back(cluster);

    machine.signal("sidekick-agent", "KILL");
    is_back(cluster);

    machine.stop("sidekick-agent");
    assert_eq!(haproxies(machine), [""; 0], "HAProxys left after the stop");
    let ping = cluster.haproxy.ping(machine.name, 80);
    assert!(ping.is_err(), "port 80 outlived the stop");
    let directory = machine.try_run(&["ls", "/run/sidekick"]);
    assert!(directory.is_err(), "/run/sidekick outlived the stop");
    // The configuration file is kept for the next boot, and belongs to a dynamic user.
    machine.run_words("grep -q redis::1 /var/lib/private/sidekick/haproxy.cfg");
    never_for(secs(1), "it is started behind our back", || {
        machine.is_active("sidekick-agent")
    });
}

#[track_caller]
fn is_back(cluster: &Cluster) {
    let machine = &cluster.members[1];
    eventually(SOON, "it is back", || {
        machine.is_active("sidekick-agent") && haproxies(machine).len() == 2
    });
    answers(cluster);
}

#[track_caller]
fn answers(cluster: &Cluster) {
    let machine = &cluster.members[1];
    eventually(SOON, "Redis answers at port 80", || {
        let said = cluster.haproxy.ping(machine.name, 80);
        said.is_ok_and(|said| said == "+PONG")
    });
}

/// HAProxy has CAP_NET_BIND_SERVICE (bit 10) and no other, and no name.
fn bound_with_one_capability(machine: &Machine) {
    for process in haproxies(machine) {
        let status = machine.run(&["cat", &format!("/proc/{process}/status")]);
        let line = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_default().trim().to_owned()
        };
        assert_eq!(line("CapEff:"), "0000000000000400", "process {process}");
        assert_eq!(line("NoNewPrivs:"), "1", "process {process}");
        let users = line("Uid:");
        let user = users
            .split_whitespace()
            .next()
            .and_then(|id| id.parse().ok());
        let dynamic = user.is_some_and(|user| (61184..=65519).contains(&user));
        assert!(
            dynamic,
            "process {process} runs as {users}, no dynamic user"
        );
    }
}

/// Process ids.
fn haproxies(machine: &Machine) -> Vec<String> {
    let found = machine.try_run(&["pgrep", "-x", "haproxy"]);
    let found = found.unwrap_or_default();
    found.lines().map(str::to_owned).collect()
}
