//! The article's cluster on real systemd: three etcd machines, two workers, and a machine with HAProxy, as containers
//! that boot; the shipped units and the release binary on them; and what becomes of the key when things fail.
//!
//!     cluster SIDEKICK WORKER [NAME…]        all scenarios, or those whose name contains one of the NAMEs
//!     cluster SIDEKICK WORKER --stay         boots, says how to look around, and stays until Ctrl-C
//!
//! SIDEKICK is the binary, WORKER that of examples/worker.rs. Needs root: it starts a Docker Engine of its own.
//! `make cluster` and `make test` call it. DEBIAN=13 has machines of Debian 13. One boot serves all scenarios; each
//! leaves the cluster as it found it.

// A scenario that can't go on panics, and says where; no other crate uses its items.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    unreachable_pub
)]

mod by_hand;
mod handover;
mod harness;
mod host;
mod login;
mod loss;
mod lost;
mod members;
mod planned;
mod proxied;
mod stay;
mod swarm;
mod units;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use harness::{Cluster, Parts, debian_root, enter_own_network};

type Scenario = (&'static str, fn(&Cluster));

macro_rules! scenarios {
    ($($room:ident::$name:ident),* $(,)?) => { &[$((stringify!($name), $room::$name as fn(&Cluster))),*] };
}

/// In this order: one machine and its units, an operator's hands on them, a machine lost, a member lost, the agent, stops on purpose, `announce --all`, a locked etcd.
const SCENARIOS: &[Scenario] = scenarios![
    units::understands_the_units,
    units::sidekick_pulls_in_its_redis_and_nothing_else,
    units::starts_both,
    units::the_doctor_judges_the_pair,
    units::stops_the_sidekick_first,
    units::comes_back_after_docker_kill,
    units::knows_a_death_under_a_frozen_engine,
    units::comes_back_after_its_client_is_killed,
    units::takes_its_own_key_over_after_sigkill,
    units::comes_back_after_docker_restart,
    units::stays_stopped_when_asked,
    units::comes_back_while_etcd_is_out_of_reach,
    units::comes_back_after_a_reboot,
    by_hand::docker_restart_costs_no_stop_timeout,
    by_hand::stop_in_any_phase_leaves_no_container,
    by_hand::no_unit_takes_the_user_of_a_package,
    by_hand::masked_stays_out_while_redis_restarts,
    by_hand::unloaded_from_fleet_stays_out_while_redis_restarts,
    by_hand::wrong_option_is_said_once,
    lost::power_off_lets_the_key_go_with_its_ttl,
    lost::power_off_and_another_worker_takes_over_at_once,
    lost::cut_off_lets_the_key_go_with_its_ttl,
    lost::cut_off_and_back_it_stands_by_and_removes_nothing,
    members::one_member_killed,
    members::the_leader_killed,
    members::the_leader_frozen,
    members::the_first_member_cut_off_from_its_peers,
    members::two_of_three_gone_for_30_seconds,
    members::a_members_disk_full,
    proxied::attached_to_debians_haproxy,
    proxied::attached_with_debians_own_sections,
    proxied::supervised_by_its_own_unit,
    planned::a_sole_instance_restarts_as_fast_as_without_draining,
    planned::stop_and_start_cost_no_request,
    planned::restart_costs_no_request,
    planned::reboot_costs_no_request,
    planned::docker_stop_of_a_server_that_still_accepts_costs_no_request,
    planned::compose_up_with_a_changed_image_costs_no_request,
    planned::docker_stop_of_a_server_that_is_gone_at_once,
    host::one_sidekick_for_a_whole_host,
    handover::a_restart_of_the_hosts_sidekick_hands_over,
    handover::a_stop_of_the_hosts_sidekick_drains,
    handover::a_restart_into_a_broken_sidekick_lets_the_keys_go,
    handover::a_restart_of_one_containers_sidekick_hands_over,
    handover::a_restart_of_redis_itself_drains_first,
    login::every_unit_logs_in_with_a_password_that_only_root_may_read,
    swarm::swarm_moves_redis_and_its_key_follows,
    swarm::a_rolling_update_costs_no_request,
];

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (Some(sidekick), Some(worker)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: cluster SIDEKICK WORKER [NAME… | --stay]");
        return ExitCode::from(2);
    };
    let names: Vec<String> = arguments.collect();
    if let Some(name) = names
        .iter()
        .find(|name| **name != "--stay" && !SCENARIOS.iter().any(|(s, _)| s.contains(*name)))
    {
        eprintln!("cluster: no scenario's name contains {name}");
        return ExitCode::from(2);
    }
    let debian = enter_own_network(debian_root);
    let began = Instant::now();
    let cluster = Cluster::boot(Parts {
        sidekick: PathBuf::from(sidekick),
        worker: PathBuf::from(worker),
        debian: PathBuf::from(debian),
    });
    let seconds = began.elapsed().as_secs_f32();
    println!("{} ({seconds:.0} s)", cluster.describe());
    let done = if names == ["--stay"] {
        stay::stay(&cluster);
        true
    } else {
        run(&cluster, &names)
    };
    println!("{:.0} s in all", began.elapsed().as_secs_f32());
    if done {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Ends with the first failure: the scenarios after it would find another cluster than they expect.
fn run(cluster: &Cluster, names: &[String]) -> bool {
    let asked = |name: &str| names.is_empty() || names.iter().any(|part| name.contains(part));
    let asked = SCENARIOS.iter().filter(|(name, _)| asked(name));
    let scene: Scenario = ("the_scene_is_set", Cluster::set_the_scene);
    let mut longest = (Duration::ZERO, "");
    for (name, scenario) in [&scene].into_iter().chain(asked) {
        let began = Instant::now();
        let done = catch_unwind(AssertUnwindSafe(|| {
            scenario(cluster);
            cluster.is_as_it_was();
        }));
        if done.is_err() {
            println!("FAILED  {name}");
            cluster.journals(began);
            return false;
        }
        let (seconds, seen) = (began.elapsed().as_secs_f32(), cluster.seen_since(began));
        println!("ok  {name} ({seconds:.1} s); {seen}");
        longest = longest.max((cluster.worker().longest_without_bar(began), name));
    }
    let (longest, name) = (longest.0.as_secs_f32(), longest.1);
    println!("longest stretch without bar: {longest:.1} s, in {name}");
    true
}
