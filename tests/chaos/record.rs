//! What a run leaves behind for the checker: plain values. Pure.

use crate::spans::{Ms, Span};
use std::collections::{BTreeMap, BTreeSet};

/// A host name that does not resolve: an instance that was moved there by hand has no address, so no server either.
pub const NOWHERE: &str = "old";

/// The services that the sidekicks announce and the agent serves.
pub const SERVICES: [&str; 3] = ["redis", "alone", "every"];

/// Everything that was seen and everything that was done.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// How many sidekicks there are; the next number is the agent's.
    pub sidekicks: usize,
    /// Those that hold pidfds: the kernel tells them of a death, whatever the engine tells or doesn't.
    pub by_kernel: BTreeSet<usize>,
    /// Who announces what at which key.
    pub claims: Vec<Claim>,
    /// The host port of each container.
    pub ports: Vec<u16>,
    /// Every change of every key, in the order of etcd's revisions.
    pub events: Vec<Event>,
    /// What was wrong, and when.
    pub troubles: Vec<Trouble>,
    /// The containers' ups and downs, in order.
    pub turns: Vec<Turn>,
    /// The keys of which an operator wished that the instance drains, and when.
    pub wishes: Vec<(String, Span)>,
    /// The revisions that the run itself wrote.
    pub by_hand: BTreeSet<i64>,
    /// What HAProxy served.
    pub samples: Vec<Sample>,
    /// Connections that clients made.
    pub dials: Vec<Dial>,
    /// Client connections that broke.
    pub cuts: Vec<Cut>,
    /// Configurations that `haproxy -c` refused, and what it said.
    pub refused: Vec<(Ms, String)>,
    /// What each sidekick and the agent had to say, and how often it was started.
    pub logs: Vec<Log>,
    /// Of the login at etcd.
    pub password: String,
    /// Some lives began while the engine's clock was wrong for one sidekick, and ended when it was right.
    pub engine_clock_stepped: bool,
    /// How many faults were injected.
    pub faults: usize,
    /// When the run was over.
    pub end: Ms,
}

/// What a sidekick announces.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The sidekick, by number.
    pub client: usize,
    /// The container, by number.
    pub container: usize,
    /// Its key.
    pub key: String,
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When it was first seen.
    pub at: Ms,
    /// etcd's revision.
    pub revision: i64,
    /// The key.
    pub key: String,
    /// What was put; nothing where it was deleted.
    pub put: Option<Put>,
}

/// A value as it was put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    /// The value.
    pub value: String,
    /// The lease it hangs on, 0 for none.
    pub lease: i64,
    /// How often the key was put since it was created.
    pub version: i64,
}

/// Something that was wrong for a while. Clients are the sidekicks, by number, and after them the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A client was dead or frozen; `span` ends when it runs again.
    Client(usize),
    /// A sidekick handed over, by SIGUSR1; `span` ends when the next process runs.
    HandOver(usize),
    /// An etcd member was dead or frozen.
    Member(usize),
    /// The member that led was frozen. When it wakes it doesn't know yet that another leads, finds
    /// leases run out that the other has renewed, and revokes them (etcd#15247; 3.4 has no cure).
    FrozenLeader,
    /// The wire between a client and a member was anything but whole.
    Wire(usize, usize),
    /// The wire between a sidekick and the engine was.
    Docker(usize),
    /// The Docker Engine was dead or frozen.
    Engine,
    /// etcd took no puts.
    NoSpace,
    /// etcd refused logins, or allowed nothing, or had just forgotten all tokens.
    Login,
    /// HAProxy was dead or frozen.
    Haproxy,
    /// No member of etcd answered a read that takes a leader, for whatever reason: a busy machine costs etcd its leader
    /// for seconds.
    NoLeader,
    /// This machine didn't run the run itself.
    Stall,
}

/// See [`What`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// From the injection to the moment at which it was over for certain.
    pub span: Span,
    /// What was wrong.
    pub what: What,
}

/// A change of what a container is, as it is to be announced.
#[derive(Clone, Debug)]
pub struct Turn {
    /// Which container.
    pub container: usize,
    /// From the moment before the command to the moment after it.
    pub span: Span,
    /// What it was afterwards; nothing where it was not to be announced.
    pub up: Option<Life>,
    /// Its first process was dead for certain when the command was over, as far as there was one before it.
    pub died: bool,
}

/// One life of a container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Life {
    /// StartedAt, without trailing zeros: sorts as time within a second's fraction and above.
    pub since: String,
    /// Twelve digits.
    pub id: String,
}

impl Life {
    /// RFC 3339 in UTC; Docker and sidekick differ in trailing zeros.
    pub fn new(id: &str, since: &str) -> Life {
        let since = since.trim_end_matches('Z');
        let (second, fraction) = since.split_once('.').unwrap_or((since, ""));
        Life {
            since: format!("{second}.{fraction:0<9}"),
            id: id.chars().take(12).collect(),
        }
    }

    /// The one that a value names.
    pub fn of(value: &str) -> Option<Life> {
        let json: serde_json::Value = serde_json::from_str(value).ok()?;
        Some(Life::new(
            json["container"].as_str()?,
            json["since"].as_str()?,
        ))
    }
}

/// All that one of them has said.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// Who.
    pub name: String,
    /// How many processes of it there were.
    pub starts: usize,
    /// What they said.
    pub lines: Vec<String>,
}

/// What HAProxy served at one moment.
#[derive(Clone, Debug)]
pub struct Sample {
    /// When it was asked.
    pub at: Ms,
    /// `service/server` → port; nothing where it didn't answer.
    pub servers: Option<BTreeMap<String, String>>,
}

/// A client's new connection.
#[derive(Clone, Debug)]
pub struct Dial {
    /// From the first attempt to the answer.
    pub span: Span,
    /// The service that was dialled.
    pub service: String,
    /// The container that answered.
    pub container: usize,
}

/// A client's connection that broke.
#[derive(Clone, Debug)]
pub struct Cut {
    /// When it was made.
    pub opened: Ms,
    /// When that was noticed; it broke at most this many milliseconds earlier.
    pub span: Span,
    /// The service that was dialled.
    pub service: String,
    /// The container that had answered.
    pub container: usize,
}
