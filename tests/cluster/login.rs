//! An etcd that wants a password, which reaches the units by LoadCredential= as their comments say.

use std::time::Instant;

use crate::harness::{Cluster, Machine, SOON};
use sidekick_harness::blocking::{eventually, never_for};
use sidekick_harness::secs;

/// As the units' comments have it.
const USER: &str = "sidekick";
const PASSWORD: &str = "correct:horse";

/// A container of worker2 that sidekick.service announces.
const LABELLED: &str = "/services/redis/labelled@worker2";

/// redis-discovery@, sidekick, and sidekick-agent with either HAProxy. The rights of their user in etcd are enough, they
/// run as dynamic users, and no other user can read the password from outside.
pub fn every_unit_logs_in_with_a_password_that_only_root_may_read(cluster: &Cluster) {
    let (announcer, all) = (&cluster.worker1, &cluster.worker2);
    let (attached, agent) = (&cluster.haproxy, &cluster.members[1]);
    let units = [
        (announcer, "redis-discovery@1", "redis-discovery@"),
        (all, "sidekick", "sidekick"),
        (attached, "sidekick-agent", "sidekick-agent"),
        (agent, "sidekick-agent", "sidekick-agent"),
    ];
    announcer.stop("redis-discovery@1"); // while it can still take its key away
    for (machine, _, file) in units {
        give_password(machine, file);
    }
    cluster.etcd.lock(USER, PASSWORD);
    let stranger = ["etcdctl", "put", "/services/redis/stranger", "x"];
    let refused = cluster.members[0].try_run(&[&["env", "ETCDCTL_API=3"], &stranger[..]].concat());
    let refused = refused.expect_err("a stranger may write");
    assert!(refused.contains("user name is empty"), "{refused}");

    all.run_words("docker run --detach --name=labelled --publish=6379:6379 --label=sidekick.service=redis redis");
    for (machine, unit, _) in units {
        machine.systemctl("restart", unit); // returns when it said READY=1
    }
    cluster.is_announced_by(announcer);
    let labelled = || cluster.etcd.get(LABELLED);
    eventually(SOON, "the labelled container's key is there", labelled);
    for machine in [attached, agent] {
        eventually(SOON, "the agent serves both", || {
            let status = machine.property("sidekick-agent", "StatusText");
            status.contains(" 2 instances")
        });
    }
    // What an agent served before its restart and doesn't find has left just now; with what goes within
    // 2 s of that it would be a crowd, and be held.
    never_for(secs(3), "an agent holds an instance", || {
        let status = |machine: &&Machine| machine.property("sidekick-agent", "StatusText");
        let statuses = [&attached, &agent].map(status);
        statuses.iter().any(|status| status.contains(" held"))
    });
    // The labelled one goes with its container, the other one with its sidekick, and HAProxy hears of both.
    all.run(&["docker", "rm", "--force", "labelled"]);
    announcer.stop("redis-discovery@1");
    assert_eq!(cluster.key(), None, "the key outlived its sidekick");
    let gone = Instant::now();
    eventually(secs(5), "the worker is refused", || {
        !cluster.worker().complaints(gone).is_empty()
    });
    announcer.start("redis-discovery@1");
    cluster.prints_bar(Instant::now() - secs(1));

    let docker = Some("docker");
    is_unprivileged(announcer, "redis-discovery@1", docker, "0000000000000000");
    is_unprivileged(announcer, "redis@1", docker, "0000000000000000");
    is_unprivileged(all, "sidekick", docker, "0000000000000000");
    is_unprivileged(agent, "sidekick-agent", None, "0000000000000400"); // CAP_NET_BIND_SERVICE
    for (machine, unit, _) in units {
        keeps_the_password(machine, unit);
    }

    all.stop("sidekick");
    agent.stop("sidekick-agent");
    announcer.stop("redis-discovery@1");
    cluster.etcd.unlock(USER);
    for (machine, _, file) in units {
        machine.run(&["rm", "-r", &drop_in(file), "/etc/sidekick"]);
        machine.run(&["systemctl", "daemon-reload"]);
    }
    attached.systemctl("restart", "sidekick-agent");
    announcer.start("redis-discovery@1");
}

fn drop_in(file: &str) -> String {
    format!("/etc/systemd/system/{file}.service.d/login.conf")
}

/// The file that root alone may read, and what the comment in the unit says of it; the log in all detail.
fn give_password(machine: &Machine, file: &str) {
    machine.run(&["install", "--directory", "--mode=700", "/etc/sidekick"]);
    machine.write("/etc/sidekick/etcd.password", &format!("{PASSWORD}\n"));
    machine.run(&["chmod", "600", "/etc/sidekick/etcd.password"]);
    let unit = std::fs::read_to_string(format!("systemd/{file}.service"));
    let unit = unit.expect("the unit is there");
    let comment = unit.lines().filter_map(|line| line.strip_prefix("#   "));
    let login: Vec<&str> = comment.filter(|l| l.contains("etcd.password")).collect();
    assert_eq!(login.len(), 2, "{file}.service: {login:?}");
    let text = format!(
        "[Service]\nEnvironment=SIDEKICK_LOG_LEVEL=trace\n{}\n",
        login.join("\n")
    );
    let path = drop_in(file);
    machine.run(&["mkdir", "-p", path.trim_end_matches("/login.conf")]);
    machine.write(&path, &text);
    machine.run(&["systemctl", "daemon-reload"]);
}

/// A unit's main process: of a user that systemd made up, with this one group besides its own, and these capabilities.
#[track_caller]
pub fn is_unprivileged(machine: &Machine, unit: &str, group: Option<&str>, capabilities: &str) {
    let process = machine.property(unit, "MainPID");
    let status = machine.run(&["cat", &format!("/proc/{process}/status")]);
    let words = |name: &str| -> Vec<&str> {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().split_whitespace().collect()
    };
    let (users, own) = (words("Uid:"), words("Gid:"));
    let user: u32 = users[0].parse().expect("a user id");
    assert!(
        (61184..=65519).contains(&user) && users.iter().all(|id| *id == users[0]),
        "{unit} runs as {users:?}, no dynamic user"
    );
    let mut groups = words("Groups:");
    groups.retain(|id| *id != own[0]);
    let expected = group.map(|group| {
        let line = machine.run(&["getent", "group", group]);
        line.split(':').nth(2).expect("a group id").to_owned()
    });
    assert_eq!(groups, Vec::from_iter(expected.as_deref()), "{unit}");
    assert_eq!(words("CapEff:"), [capabilities], "{unit}");
    assert_eq!(words("NoNewPrivs:"), ["1"], "{unit}");
    println!(
        "    {unit}: uid {user}, groups {groups:?} ({}), capabilities {capabilities}",
        group.unwrap_or("none")
    );
}

/// Not in the journal at its most talkative, nor in what systemd, ps and /proc tell of the unit and of its HAProxy.
#[track_caller]
fn keeps_the_password(machine: &Machine, unit: &str) {
    let main = machine.property(unit, "MainPID");
    let environment = machine.run(&["cat", &format!("/proc/{main}/environ")]);
    let file = "SIDEKICK_ETCD_PASSWORD_FILE=/run/credentials/";
    assert!(environment.contains(file), "{unit}: {environment}");
    let journal = machine.run(&["journalctl", "--no-pager", "--output=export", "-u", unit]);
    assert!(journal.contains("INFO"), "{unit}: {journal}");
    let ps = machine.run(&["ps", "axeww"]);
    assert!(ps.contains("PASSWORD_FILE="), "ps shows environments");
    let show = machine.run(&["systemctl", "show", unit]);
    assert!(show.contains("etcd.password"), "{unit}: {show}");
    let mut told = vec![("journalctl", journal), ("ps", ps), ("systemctl", show)];
    let processes = machine.run(&["pgrep", "-x", "sidekick|haproxy"]);
    assert!(processes.lines().any(|process| process == main));
    for process in processes.lines() {
        for file in ["cmdline", "environ"] {
            let text = machine.run(&["cat", &format!("/proc/{process}/{file}")]);
            told.push((file, text));
        }
    }
    for (where_, text) in &told {
        assert!(!text.contains(PASSWORD), "{unit}: it is in {where_}");
    }
    println!(
        "    {unit} on {}: {} bytes looked through, no password in them",
        machine.name,
        told.iter().map(|(_, text)| text.len()).sum::<usize>()
    );
}
