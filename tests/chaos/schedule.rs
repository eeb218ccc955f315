//! Which faults, when, and for how long: all from one seed. Pure.

use crate::harness::Wire;
use crate::spans::Ms;
use fastrand::Rng;
use std::time::Duration;

/// How many of each there are.
pub const SIDEKICKS: usize = 6;
/// The agent's number among the clients of etcd.
pub const AGENT: usize = SIDEKICKS;
pub const MEMBERS: usize = 3;
pub const CONTAINERS: usize = 4;
pub const KEYS: usize = 4;

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    SidekickKilled(usize),
    SidekickFrozen(usize),
    SidekickStopped(usize),
    MemberKilled(usize),
    MemberFrozen(usize),
    LeaderKilled,
    LeaderFrozen,
    Wire(usize, usize, Wire),
    Wires(usize, Wire),
    DockerWire(usize, Wire),
    EngineRestarted,
    EngineKilled,
    EngineFrozen,
    ContainerKilled(usize),
    ContainerPaused(usize),
    ContainerRenamed(usize),
    ContainerRecreated(usize),
    ContainerRestarted(usize),
    KeyDeleted(usize),
    KeyOverwritten(usize, &'static str),
    Compacted,
    Defragmented(usize),
    NoSpace,
    AgentKilled,
    AgentFrozen,
    HaproxyKilled,
    HaproxyFrozen,
}

/// A fault with its time.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// After the round's beginning.
    pub at: Ms,
    pub fault: Fault,
    /// Until it is undone.
    pub lasts: Ms,
}

/// Some faults at the same time, and whether everything may come to rest afterwards.
#[derive(Clone, Debug)]
pub struct Round {
    pub steps: Vec<Step>,
    pub rest: bool,
}

/// What two faults of one round may not share.
#[derive(PartialEq)]
enum Target {
    Client(usize),
    Members(usize),
    EtcdWires(usize),
    DockerWire(usize),
    Containers,
    Container(usize),
    Store,
    Haproxy,
}

/// Texts that a person's hand might leave at a key.
const BY_HAND: [&str; 3] = [
    "\u{1}not json",
    r#"{"host":"old","port":6379}"#,
    r#"{"host":"old","port":6379,"container":"badc0ffee000","since":"2001-01-01T00:00:00Z"}"#,
];

/// The next round.
pub fn round(random: &mut Rng) -> Round {
    let mut steps: Vec<Step> = Vec::new();
    for _ in 0..random.usize(1..=4) {
        let fault = fault(random);
        let clash = steps.iter().any(|step| clash(step.fault, fault));
        if !clash {
            steps.push(Step {
                at: random.i64(0..3000),
                fault,
                lasts: lasts(fault, random),
            });
        }
    }
    Round {
        steps,
        rest: random.u8(0..3) > 0,
    }
}

fn fault(random: &mut Rng) -> Fault {
    let sidekick = random.usize(..SIDEKICKS);
    let client = random.usize(..=SIDEKICKS);
    let member = random.usize(..MEMBERS);
    let container = random.usize(..CONTAINERS);
    let key = random.usize(..KEYS);
    match random.u8(..40) {
        0..3 => Fault::SidekickKilled(sidekick),
        3..5 => Fault::SidekickFrozen(sidekick),
        5 => Fault::SidekickStopped(sidekick),
        6..8 => Fault::MemberKilled(member),
        8..10 => Fault::MemberFrozen(member),
        10 => Fault::LeaderKilled,
        11 => Fault::LeaderFrozen,
        12..15 => Fault::Wire(client, member, wire(random)),
        15..17 => Fault::Wires(client, wire(random)),
        17..20 => Fault::DockerWire(sidekick, docker_wire(random)),
        20 => Fault::EngineRestarted,
        21 => Fault::EngineFrozen,
        22 => Fault::EngineKilled,
        23..25 => Fault::ContainerKilled(container),
        25 => Fault::ContainerPaused(container),
        26 => Fault::ContainerRenamed(container),
        27 => Fault::ContainerRecreated(container),
        28 => Fault::ContainerRestarted(container),
        29..31 => Fault::KeyDeleted(key),
        31..33 => Fault::KeyOverwritten(key, BY_HAND[random.usize(..BY_HAND.len())]),
        33 => Fault::Compacted,
        34 => Fault::Defragmented(member),
        35 => Fault::NoSpace,
        36 => Fault::AgentKilled,
        37 => Fault::AgentFrozen,
        38 => Fault::HaproxyKilled,
        _ => Fault::HaproxyFrozen,
    }
}

fn wire(random: &mut Rng) -> Wire {
    match random.u8(..8) {
        0 => Wire::Refuse,
        1 => Wire::Reset,
        2 | 3 => Wire::BlackHole,
        4 => Wire::DeafServer,
        5 => Wire::MuteServer,
        6 => Wire::Delay(Duration::from_millis(random.u64(20..800))),
        _ if random.bool() => Wire::Trickle,
        _ => Wire::DropAfter(random.usize(..4000)),
    }
}

fn docker_wire(random: &mut Rng) -> Wire {
    match random.u8(..8) {
        0 | 1 => Wire::Status500,
        2 => Wire::CutEvent,
        3 => Wire::StrangeEvent,
        4 => Wire::StrangeState,
        5 => Wire::SlowRequests(Duration::from_secs(20)),
        _ => wire(random),
    }
}

/// Short mostly; now and then longer than a TTL.
fn lasts(fault: Fault, random: &mut Rng) -> Ms {
    match fault {
        Fault::HaproxyKilled
        | Fault::KeyDeleted(_)
        | Fault::KeyOverwritten(..)
        | Fault::Compacted
        | Fault::Defragmented(_)
        | Fault::ContainerRestarted(_)
        | Fault::ContainerRecreated(_) => 0,
        Fault::HaproxyFrozen => random.i64(200..1500),
        _ if random.u8(..4) == 0 => random.i64(7000..11_000),
        _ => random.i64(100..5000),
    }
}

fn clash(a: Fault, b: Fault) -> bool {
    let (a, b) = (target(a), target(b));
    let contain = |t: &Target| matches!(t, Target::Containers | Target::Container(_));
    a == b || contain(&a) && contain(&b) && (a == Target::Containers || b == Target::Containers)
}

fn target(fault: Fault) -> Target {
    use Fault::*;
    match fault {
        SidekickKilled(s) | SidekickFrozen(s) | SidekickStopped(s) => Target::Client(s),
        AgentKilled | AgentFrozen => Target::Client(AGENT),
        MemberKilled(m) | MemberFrozen(m) => Target::Members(m),
        // Beside one that is known there may be another: then etcd has no majority for a while.
        LeaderKilled | LeaderFrozen => Target::Members(MEMBERS),
        Wire(client, ..) | Wires(client, _) => Target::EtcdWires(client),
        DockerWire(client, _) => Target::DockerWire(client),
        EngineRestarted | EngineKilled | EngineFrozen => Target::Containers,
        ContainerKilled(c)
        | ContainerPaused(c)
        | ContainerRenamed(c)
        | ContainerRecreated(c)
        | ContainerRestarted(c) => Target::Container(c),
        KeyDeleted(_) | KeyOverwritten(..) | Compacted | Defragmented(_) | NoSpace => Target::Store,
        HaproxyKilled | HaproxyFrozen => Target::Haproxy,
    }
}
