//! Which faults, when, and for how long: all from one seed. Pure.

use crate::spans::Ms;
use fastrand::Rng;
use sidekick_harness::Wire;
use std::collections::BTreeSet;
use std::time::Duration;

/// After the last fault of a round: the longest recovery, and a calm.
pub const REST: Ms = 9000;

/// How many of each there are.
pub const SIDEKICKS: usize = 7;
/// The sidekick that announces by labels.
pub const EVERY: usize = 6;
/// The agent's number among the clients of etcd.
pub const AGENT: usize = SIDEKICKS;
pub const MEMBERS: usize = 3;
pub const CONTAINERS: usize = 4;
pub const KEYS: usize = 6;

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    SidekickKilled(usize),
    SidekickFrozen(usize),
    /// It is asked to stop, and drains.
    SidekickStopped(usize),
    /// It is restarted, and leaves its keys to the next process.
    SidekickHandsOver(usize),
    /// Its log's pipe is full, and nothing reads it.
    LogUnread(usize),
    /// No name of a member resolves.
    DnsHangs(usize),
    MemberKilled(usize),
    MemberFrozen(usize),
    LeaderKilled,
    LeaderFrozen,
    /// Clients still reach it, the other members don't.
    MemberCutOff(usize, Wire),
    LeaderCutOff(Wire),
    Wire(usize, usize, Wire),
    Wires(usize, Wire),
    DockerWire(usize, Wire),
    EngineRestarted,
    EngineKilled,
    EngineFrozen,
    ContainerKilled(usize),
    /// Its first process is, while the engine is frozen.
    ContainerKilledUnseen(usize),
    /// Several lives of one id, one right after the other.
    ContainerFlickers(usize),
    ContainerPaused(usize),
    ContainerRenamed(usize),
    ContainerRecreated(usize),
    ContainerRestarted(usize),
    /// By its stop signal.
    ContainerStopped(usize),
    KeyDeleted(usize),
    KeyOverwritten(usize, &'static str),
    /// An operator wishes that the key's instance drains, and takes it back.
    DrainWished(usize),
    Compacted,
    Defragmented(usize),
    NoSpace,
    TokensRevoked,
    PasswordChanged,
    /// In etcd, and then in the file.
    PasswordRotated,
    /// Etcd's and the sidekicks', with their authority.
    CertificatesRotated,
    RightsRevoked,
    /// By so many seconds, until it is stepped back.
    ClockStepped(usize, i64),
    /// The engine's, likewise, as far as the sidekick that goes by labels can see: its keys have no rival, whose
    /// right would be another by a wrong clock.
    EngineClockStepped(i64),
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
    Clock(usize),
    EngineClock,
    Certificates,
    Haproxy,
}

/// Texts that a person's hand might leave at a key.
pub const BY_HAND: [&str; 3] = [
    "\u{1}not json",
    r#"{"host":"old","port":6379}"#,
    r#"{"host":"old","port":6379,"container":"badc0ffee000","since":"2001-01-01T00:00:00Z"}"#,
];

/// So many of each card are in the deck. One deck after the other is shuffled and dealt, so that no
/// fault is forgotten.
type Card = (usize, fn(&mut Rng) -> Fault);

const FAULTS: [Card; 44] = [
    (3, |r| Fault::SidekickKilled(sidekick(r))),
    (2, |r| Fault::SidekickFrozen(sidekick(r))),
    (2, |r| Fault::SidekickStopped(sidekick(r))),
    (3, |r| Fault::SidekickHandsOver(sidekick(r))),
    (2, |r| Fault::LogUnread(sidekick(r))),
    (2, |r| Fault::DnsHangs(sidekick(r))),
    (2, |r| Fault::MemberKilled(member(r))),
    (2, |r| Fault::MemberFrozen(member(r))),
    (1, |_| Fault::LeaderKilled),
    (1, |_| Fault::LeaderFrozen),
    (1, |r| Fault::MemberCutOff(member(r), Wire::BlackHole)),
    (1, |r| Fault::MemberCutOff(member(r), Wire::Refuse)),
    (1, |_| Fault::LeaderCutOff(Wire::BlackHole)),
    (1, |_| Fault::LeaderCutOff(Wire::Refuse)),
    (1, |_| Fault::EngineRestarted),
    (1, |_| Fault::EngineFrozen),
    (1, |_| Fault::EngineKilled),
    (2, |r| Fault::ContainerKilled(r.usize(..CONTAINERS))),
    (3, |r| Fault::ContainerKilledUnseen(r.usize(..CONTAINERS))),
    (2, |r| Fault::ContainerFlickers(r.usize(..CONTAINERS))),
    (1, |r| Fault::ContainerPaused(r.usize(..CONTAINERS))),
    // Labels know no names: those who announce by them are left alone.
    (1, |r| Fault::ContainerRenamed(r.usize(1..3))),
    (1, |r| Fault::ContainerRecreated(r.usize(..CONTAINERS))),
    (1, |r| Fault::ContainerRestarted(r.usize(..CONTAINERS))),
    (2, |r| Fault::ContainerStopped(r.usize(..CONTAINERS))),
    (3, |r| Fault::DrainWished(r.usize(..KEYS))),
    (2, |r| Fault::KeyDeleted(r.usize(..KEYS))),
    (2, |r| {
        Fault::KeyOverwritten(r.usize(..KEYS), BY_HAND[r.usize(..BY_HAND.len())])
    }),
    (1, |_| Fault::Compacted),
    (1, |r| Fault::Defragmented(member(r))),
    (1, |_| Fault::NoSpace),
    (1, |_| Fault::TokensRevoked),
    (1, |_| Fault::PasswordChanged),
    (1, |_| Fault::PasswordRotated),
    (2, |_| Fault::CertificatesRotated),
    (1, |_| Fault::RightsRevoked),
    (1, |r| Fault::ClockStepped(client(r), step(r))),
    (1, |r| Fault::ClockStepped(client(r), -step(r))),
    (1, |r| Fault::EngineClockStepped(r.i64(1..7200))),
    (2, |r| Fault::EngineClockStepped(-r.i64(1..7200))),
    (1, |_| Fault::AgentKilled),
    (1, |_| Fault::AgentFrozen),
    (1, |_| Fault::HaproxyKilled),
    (1, |_| Fault::HaproxyFrozen),
];

/// What every wire can suffer.
const WIRES: [fn(&mut Rng) -> Wire; 9] = [
    |_| Wire::Refuse,
    |_| Wire::Reset,
    |_| Wire::BlackHole,
    |_| Wire::DeafServer,
    |_| Wire::MuteServer,
    |r| Wire::Delay(Duration::from_millis(r.u64(20..800))),
    |_| Wire::Trickle,
    |r| Wire::Reorder(Duration::from_millis(r.u64(20..300))),
    |r| Wire::DropAfter(r.usize(..4000)),
];

/// And what Docker's can besides.
const DOCKER_WIRES: [Wire; 5] = [
    Wire::Status500,
    Wire::CutEvent,
    Wire::StrangeEvent,
    Wire::StrangeState,
    Wire::SlowRequests(Duration::from_secs(20)),
];

fn sidekick(random: &mut Rng) -> usize {
    random.usize(..SIDEKICKS)
}

fn client(random: &mut Rng) -> usize {
    random.usize(..=SIDEKICKS)
}

fn member(random: &mut Rng) -> usize {
    random.usize(..MEMBERS)
}

/// Hours or days.
fn step(random: &mut Rng) -> i64 {
    3600 * random.i64(1..100)
}

/// All faults of a seed, without end.
pub struct Schedule {
    random: Rng,
    deck: Vec<Fault>,
}

impl Schedule {
    /// Of this seed.
    pub fn of(seed: u64) -> Schedule {
        Schedule {
            random: Rng::with_seed(seed),
            deck: Vec::new(),
        }
    }

    /// The next round.
    pub fn round(&mut self) -> Round {
        let mut steps: Vec<Step> = Vec::new();
        for _ in 0..self.random.usize(1..=5) {
            let fault = self.draw();
            if steps.iter().any(|step| clash(step.fault, fault)) {
                // Its turn comes later.
                self.deck.insert(0, fault);
                continue;
            }
            let at = self.random.i64(0..3000);
            let lasts = lasts(fault, &mut self.random);
            steps.push(Step { at, fault, lasts });
        }
        Round {
            steps,
            rest: self.random.u8(0..3) > 0,
        }
    }

    fn draw(&mut self) -> Fault {
        if self.deck.is_empty() {
            let random = &mut self.random;
            self.deck = deck(random);
            random.shuffle(&mut self.deck);
        }
        self.deck.pop().unwrap_or(Fault::LeaderKilled)
    }
}

fn deck(random: &mut Rng) -> Vec<Fault> {
    let mut deck = Vec::new();
    for (times, card) in FAULTS {
        deck.extend((0..times).map(|_| card(random)));
    }
    for wire in WIRES {
        deck.push(Fault::Wire(client(random), member(random), wire(random)));
        deck.push(Fault::Wires(client(random), wire(random)));
        deck.push(Fault::DockerWire(sidekick(random), wire(random)));
    }
    for wire in DOCKER_WIRES {
        deck.push(Fault::DockerWire(sidekick(random), wire));
    }
    // A list that takes 20 s is worst where lists are read.
    let slow = Wire::SlowRequests(Duration::from_secs(20));
    deck.push(Fault::DockerWire(EVERY, slow));
    deck
}

impl Round {
    /// How long it takes at least.
    #[allow(dead_code, reason = "the checker's tests ask")]
    pub fn length(&self) -> Ms {
        let ends = self.steps.iter().map(|step| step.at + step.lasts);
        ends.max().unwrap_or(0) + if self.rest { REST } else { 0 }
    }
}

/// A fault without whom it hit.
pub fn title(fault: Fault) -> String {
    match fault {
        Fault::Wire(.., wire) => format!("one wire to etcd: {}", word(&wire)),
        Fault::Wires(_, wire) => format!("all wires to etcd: {}", word(&wire)),
        Fault::DockerWire(_, wire) => format!("the wire to Docker: {}", word(&wire)),
        Fault::MemberCutOff(_, wire) => format!("a member's wires to the others: {}", word(&wire)),
        Fault::LeaderCutOff(wire) => format!("the leader's wires to the others: {}", word(&wire)),
        Fault::ClockStepped(_, seconds) if seconds < 0 => "ClockStepped back".to_owned(),
        Fault::EngineClockStepped(seconds) if seconds < 0 => "EngineClockStepped back".to_owned(),
        Fault::ClockStepped(..) => "ClockStepped on".to_owned(),
        fault => word(&fault),
    }
}

/// Every title there is.
#[allow(dead_code, reason = "the checker's tests ask")]
pub fn titles() -> BTreeSet<String> {
    deck(&mut Rng::with_seed(0))
        .into_iter()
        .map(title)
        .collect()
}

fn word(thing: &impl std::fmt::Debug) -> String {
    let text = format!("{thing:?}");
    text.split('(').next().unwrap_or_default().to_owned()
}

/// Short mostly; now and then longer than a TTL.
fn lasts(fault: Fault, random: &mut Rng) -> Ms {
    match fault {
        Fault::HaproxyKilled
        | Fault::KeyDeleted(_)
        | Fault::KeyOverwritten(..)
        | Fault::Compacted
        | Fault::Defragmented(_)
        | Fault::TokensRevoked
        | Fault::PasswordRotated
        | Fault::CertificatesRotated
        | Fault::ContainerFlickers(_)
        | Fault::ContainerRestarted(_)
        | Fault::ContainerRecreated(_) => 0,
        // Of the lease on which the keys are left there is enough for the next process then.
        Fault::SidekickHandsOver(_) => random.i64(0..2000),
        Fault::DockerWire(_, Wire::SlowRequests(_)) if random.bool() => 20_500,
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
        // A process that ends takes its log along.
        SidekickKilled(s) | SidekickFrozen(s) | SidekickStopped(s) | SidekickHandsOver(s)
        | LogUnread(s) => Target::Client(s),
        // It is as if its wires to etcd were cut.
        DnsHangs(s) => Target::EtcdWires(s),
        AgentKilled | AgentFrozen => Target::Client(AGENT),
        MemberKilled(m) | MemberFrozen(m) | MemberCutOff(m, _) => Target::Members(m),
        // Beside one that is known there may be another: then etcd has no majority for a while.
        LeaderKilled | LeaderFrozen | LeaderCutOff(_) => Target::Members(MEMBERS),
        Wire(client, ..) | Wires(client, _) => Target::EtcdWires(client),
        DockerWire(client, _) => Target::DockerWire(client),
        EngineRestarted | EngineKilled | EngineFrozen | ContainerKilledUnseen(_) => {
            Target::Containers
        }
        ContainerKilled(c)
        | ContainerFlickers(c)
        | ContainerPaused(c)
        | ContainerRenamed(c)
        | ContainerRecreated(c)
        | ContainerRestarted(c)
        | ContainerStopped(c) => Target::Container(c),
        DrainWished(_) | KeyDeleted(_) | KeyOverwritten(..) | Compacted | Defragmented(_)
        | NoSpace | TokensRevoked | PasswordChanged | PasswordRotated | RightsRevoked => {
            Target::Store
        }
        ClockStepped(client, _) => Target::Clock(client),
        EngineClockStepped(_) => Target::EngineClock,
        CertificatesRotated => Target::Certificates,
        HaproxyKilled | HaproxyFrozen => Target::Haproxy,
    }
}
