//! What an operator does by hand to the shipped units: `docker restart`, a stop at a bad moment, an instance taken out of
//! service, a wrong option; and a machine on which the units' user names are taken.

use std::time::{Duration, Instant};

use crate::harness::{Cluster, Machine, SOON, unix_seconds};
use crate::login::is_unprivileged;
use sidekick_harness::blocking::{eventually, never_for};
use sidekick_harness::secs;

/// What `docker stop -t 10` takes where Redis ignores its SIGTERM, as it does until it handles signals.
const STOP_TIMEOUT: Duration = secs(10);

const RESTARTS: u32 = 8;

/// The container that `docker restart` starts again is no longer the unit's: redis@1 removes it and runs another, and
/// doesn't wait for it to obey a SIGTERM.
pub fn docker_restart_costs_no_stop_timeout(cluster: &Cluster) {
    let worker = &cluster.worker1;
    let mut longest = Duration::ZERO;
    for _ in 0..RESTARTS {
        let (asked, since) = (Instant::now(), unix_seconds());
        let container = worker.container("redis1");
        // The command may fail because redis@1 already removes the container.
        drop(worker.try_run(&["docker", "restart", "redis1"]));
        eventually(SOON, "another container answers", || {
            let now = worker.container("redis1");
            now.is_some() && now != container && worker.ping("127.0.0.1", 6379).is_ok()
        });
        let outage = asked.elapsed();
        let signals = signals(worker, since);
        let terms = signals.iter().filter(|signal| *signal == "15").count();
        assert_eq!(terms, 1, "docker restart sends one SIGTERM: {signals:?}");
        assert!(outage < STOP_TIMEOUT, "an outage of {outage:?}");
        longest = longest.max(outage);
        cluster.is_announced_by(worker);
    }
    let longest = longest.as_secs_f32();
    println!(
        "    docker restart: another Redis answers after {longest:.1} s at most, n {RESTARTS}"
    );
}

/// Also while systemd waits for RestartSec=, when a stop runs no command of the unit, and while a new client starts.
pub fn stop_in_any_phase_leaves_no_container(cluster: &Cluster) {
    let worker = &cluster.worker1;
    for phase in ["deactivating", "auto-restart", "start-pre|running"] {
        // In one process on the machine itself: a phase may be shorter than it takes to get there.
        let stop = format!(
            "client=$(systemctl show --property=MainPID redis@1)
             docker restart redis1 & restart=$!
             while state=$(systemctl show --property=MainPID,ActiveState,SubState redis@1); do
                 [[ $state == *$client$'\\n'* || ! $state =~ =({phase}) ]] || break
             done
             systemctl stop redis@1
             wait $restart
             echo ${{state//$'\\n'/ }}"
        );
        let stopped_in = worker.run(&["timeout", "30", "bash", "-c", &stop]);
        println!("    {}", stopped_in.lines().last().unwrap_or_default());
        never_for(secs(3), "a container is up, or the unit is", || {
            worker.container("redis1").is_some() || worker.is_active("redis@1")
        });
        assert_eq!(cluster.key(), None, "the key outlived systemctl stop");
        worker.start("redis@1");
        cluster.is_announced_by(worker);
    }
    let at_once = "systemctl start redis@1; systemctl stop redis@1";
    worker.stop("redis@1");
    worker.run(&["bash", "-c", at_once]);
    never_for(secs(3), "a container is up", || {
        worker.container("redis1").is_some()
    });
    worker.start("redis@1");
    cluster.is_announced_by(worker);
}

/// DynamicUser= takes a user of its name where the machine has one: Debian's redis-server brings `redis`.
pub fn no_unit_takes_the_user_of_a_package(cluster: &Cluster) {
    let (redis, all) = (&cluster.worker1, &cluster.worker2);
    redis.stop("redis@1");
    for (machine, user) in [(redis, "redis"), (all, "sidekick")] {
        machine.run(&["useradd", "--system", "--user-group", user]);
    }
    redis.start("redis@1");
    all.start("sidekick");
    let docker = Some("docker");
    cluster.is_announced_by(redis);
    is_unprivileged(redis, "redis@1", docker, "0000000000000000");
    is_unprivileged(redis, "redis-discovery@1", docker, "0000000000000000");
    is_unprivileged(all, "sidekick", docker, "0000000000000000");
    all.stop("sidekick");
    for (machine, user) in [(redis, "redis"), (all, "sidekick")] {
        machine.run(&["userdel", user]);
    }
}

/// As the comment in redis-discovery@.service says: stopped, it comes back with the next restart of Redis; masked, it
/// doesn't.
pub fn masked_stays_out_while_redis_restarts(cluster: &Cluster) {
    let worker = &cluster.worker1;
    worker.stop("redis-discovery@1");
    worker.systemctl("restart", "redis@1");
    cluster.is_announced_by(worker);

    let said = commands_of_the_comment();
    let [mask, back] = [&said[0], &said[1]];
    worker.run(&["bash", "-c", mask]);
    stays_out_while_redis_restarts(cluster);
    worker.run(&["bash", "-c", back]);
    cluster.is_announced_by(worker);
}

/// As fleet does it (coreos/fleet, systemd/manager.go): a unit that is loaded is a file of its own, enabled and linked in
/// /run; `fleetctl unload` stops it and takes the file away.
pub fn unloaded_from_fleet_stays_out_while_redis_restarts(cluster: &Cluster) {
    let worker = &cluster.worker1;
    let load = "cp /run/fleet/template /run/fleet/units/redis-discovery@1.service
        systemctl --quiet link --runtime --force /run/fleet/units/redis-discovery@1.service
        systemctl --quiet enable --runtime --force /run/fleet/units/redis-discovery@1.service
        systemctl daemon-reload
        systemctl start redis-discovery@1";
    let template = "/etc/systemd/system/redis-discovery@.service";
    let unload = "systemctl stop redis-discovery@1
        systemctl --quiet disable --runtime redis-discovery@1.service
        rm /run/fleet/units/redis-discovery@1.service
        systemctl daemon-reload";
    worker.stop("redis-discovery@1");
    worker.run(&["mkdir", "-p", "/run/fleet/units"]);
    worker.run(&["mv", template, "/run/fleet/template"]);
    worker.run(&["bash", "-ec", load]);
    cluster.is_announced_by(worker);
    worker.stop("redis-discovery@1"); // fleetctl stop
    worker.systemctl("restart", "redis@1");
    cluster.is_announced_by(worker);
    worker.run(&["bash", "-ec", unload]);
    stays_out_while_redis_restarts(cluster);
    worker.run(&["bash", "-ec", load]);
    cluster.is_announced_by(worker);
    worker.run(&["bash", "-ec", unload]);
    worker.run(&["mv", "/run/fleet/template", template]);
    worker.run(&["systemctl", "daemon-reload"]);
    worker.start("redis-discovery@1");
}

/// Exit status 2: one start, one line, `failed`; and no start after it until an operator asks for one.
pub fn wrong_option_is_said_once(cluster: &Cluster) {
    let (announcer, all, agent) = (&cluster.worker1, &cluster.worker2, &cluster.members[1]);
    let units = [
        (announcer, "redis-discovery@1"),
        (all, "sidekick"),
        (agent, "sidekick-agent"),
    ];
    announcer.stop("redis-discovery@1");
    for (machine, unit) in units {
        let wrong = "echo ETCDCTL_ENDPOINTS=ftp://etcd1 >>/etc/default/sidekick";
        machine.run(&["sh", "-c", wrong]);
        let since = unix_seconds();
        let start = machine.try_run(&["systemctl", "start", unit]);
        start.expect_err("it starts with a wrong option");
        never_for(secs(4), "it is tried again", || {
            machine.property(unit, "ActiveState") != "failed"
        });
        assert_eq!(machine.property(unit, "ExecMainStatus"), "2", "{unit}");
        assert_eq!(machine.property(unit, "NRestarts"), "0", "{unit}");
        let journal = machine.journal(&[unit], &format!("@{since:.6}"));
        let said: Vec<_> = journal
            .lines()
            .filter(|line| line.contains("ETCDCTL_ENDPOINTS") || line.contains("--etcd-endpoints"))
            .collect();
        assert_eq!(said.len(), 1, "{unit}: {journal}");
        println!("    {unit}: {}", said[0]);
        let status = machine.try_run(&["systemctl", "status", "--no-pager", unit]);
        let status = status.unwrap_or_else(|error| error);
        machine.run(&["sed", "-i", "$d", "/etc/default/sidekick"]);
        machine.start(unit);
        assert!(status.contains("etcd-endpoints"), "{unit}: {status}");
    }
    assert!(announcer.is_active("redis@1"), "Redis went with it");
    all.stop("sidekick");
    agent.stop("sidekick-agent");
}

/// An operator restarts Redis, and then its unit does after a kill; redis-discovery@1 stays out through both.
#[track_caller]
fn stays_out_while_redis_restarts(cluster: &Cluster) {
    let worker = &cluster.worker1;
    let another = |than: Option<String>| {
        eventually(SOON, "there is another container", || {
            let now = worker.container("redis1");
            now.is_some() && now != than
        });
        never_for(secs(3), "it is announced", || {
            worker.is_active("redis-discovery@1") || cluster.key().is_some()
        });
    };
    assert_eq!(cluster.key(), None, "the key outlived its sidekick");
    let container = worker.container("redis1");
    worker.systemctl("restart", "redis@1");
    another(container);
    let container = worker.container("redis1");
    worker.run(&["docker", "kill", "redis1"]);
    another(container);
    assert!(worker.is_active("redis@1"), "Redis is not active");
}

/// What the comment in redis-discovery@.service has an operator type, for the instance 1.
fn commands_of_the_comment() -> Vec<String> {
    let unit = std::fs::read_to_string("systemd/redis-discovery@.service");
    let unit = unit.expect("the unit is there");
    let comments = unit.lines().filter_map(|line| line.strip_prefix("#   "));
    let commands = comments.filter(|line| line.starts_with("systemctl "));
    commands.map(str::to_owned).collect()
}

/// Each signal that the engine sent to a container since then, the earliest first.
fn signals(machine: &Machine, since: f64) -> Vec<String> {
    let (since, until) = (format!("{since:.6}"), format!("{:.6}", unix_seconds()));
    let format = "{{.Actor.Attributes.signal}}";
    let mut events = vec!["docker", "events", "--since", &since, "--until", &until];
    events.extend(["--filter", "event=kill", "--format", format]);
    machine.run(&events).lines().map(str::to_owned).collect()
}
