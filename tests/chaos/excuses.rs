//! For how long which trouble excuses what. Pure.
//!
//! The times are the promises' own, plus what two busy cores need: nothing is excused for longer
//! than the pages in docs/ say that it takes.

use crate::record::{Record, What};
use crate::schedule::EVERY;
use crate::spans::{Ms, Span, Spans};

/// `--ttl` and `--interval` of the run's sidekicks. Two seconds of deadline on one member that is
/// silent, asked an interval after the last renewal, fit into the TTL with two to spare.
pub const TTL: Ms = 6000;
pub const INTERVAL: Ms = 2000;

/// An event to its write, where nothing is wrong: milliseconds in the bench, but a key that others
/// keep changing is put right only once a second (HEAL_PAUSE).
pub const REACTION: Ms = 1500;

/// From the end of a trouble to the truth: 2 s by the second promise, and half a second because the
/// run itself keeps both cores busy.
pub const RECOVERY: Ms = 2500;

/// The agent's: the seventh promise.
pub const AGENT_RECOVERY: Ms = 5000;

/// One member is silent: 2 s until a call gives it up, an election of 2 s where it led, a try.
pub const FAILOVER: Ms = 5000;

/// What etcd needs beyond the TTL to expire a lease: it looks twice a second, and proposes it.
pub const EXPIRY: Ms = 2000;

/// When something may be late or missing, by client or at all.
pub struct Excuses<'r> {
    record: &'r Record,
}

impl<'r> Excuses<'r> {
    /// From what was injected.
    pub fn of(record: &'r Record) -> Excuses<'r> {
        Excuses { record }
    }

    fn spans(&self, wanted: impl Fn(What) -> bool, more: Ms) -> Spans {
        let troubles = self.record.troubles.iter().filter(|t| wanted(t.what));
        Spans::of(troubles.map(|t| t.span.and(more)))
    }

    /// When a client couldn't use that member.
    fn cut_off(&self, client: usize, member: usize) -> Spans {
        let own = |what| what == What::Member(member) || what == What::Wire(client, member);
        self.spans(own, 0)
    }

    /// When at least two of three members couldn't be used, with each absence so much longer.
    fn no_majority(&self, client: usize, more: Ms) -> Spans {
        let [a, b, c] = [0, 1, 2].map(|member| self.cut_off(client, member));
        let [a, b, c] = [a, b, c].map(|it| Spans::of(it.iter().map(|span| span.and(more))));
        a.and(&b).or(&a.and(&c)).or(&b.and(&c))
    }

    /// When a client's work with etcd may be late, `recovery` after the trouble included.
    pub fn etcd(&self, client: usize, recovery: Ms) -> Spans {
        let mut late: Vec<Span> = Vec::new();
        late.extend(self.no_majority(client, 0).iter().map(|s| s.and(recovery)));
        for member in 0..3 {
            for span in self.cut_off(client, member).iter() {
                // Then the next member is asked; and what changes when the first is back is that
                // a majority may be lost and found.
                late.push(Span::new(span.from, span.to.min(span.from + FAILOVER)).and(recovery));
                late.push(Span::new(span.to, span.to + recovery));
            }
        }
        let everybody = |what| matches!(what, What::Stall | What::NoLeader | What::Login);
        Spans::of(late).or(&self.spans(everybody, recovery))
    }

    /// When a sidekick's key may come late, or be wrong for longer than a [`REACTION`]; `recovery`
    /// after each trouble included.
    pub fn absence(&self, client: usize, recovery: Ms) -> Spans {
        let own = |what| what == What::Client(client) || what == What::NoSpace;
        let late = self
            .blind(client, recovery)
            .or(&self.etcd(client, recovery));
        late.or(&self.spans(own, recovery))
    }

    /// When a key may go although its container is up: the lease may be lost, or Docker's grace over.
    pub fn loss(&self, client: usize) -> Spans {
        let dead = self.spans(|what| what == What::Client(client), RECOVERY);
        // Where etcd takes no puts, the next process can't have a lease before the last one's is over.
        let full = self.spans(|what| what == What::NoSpace, RECOVERY);
        let dead = dead.iter().map(|span| {
            let meanwhile = full
                .iter()
                .filter(|it| it.from < span.to && it.to > span.from);
            Span::new(span.from, meanwhile.fold(span.to, |to, it| to.max(it.to)))
        });
        let dead = Spans::of(dead);
        let stalled = self.record.troubles.iter().filter(|t| {
            matches!(t.what, What::Stall | What::NoLeader | What::Login)
                && t.span.length() > TTL - INTERVAL - 2000
        });
        // What a leader that was frozen thinks of a lease is as old as its last renewal there.
        let woken = self.record.troubles.iter();
        let woken = woken.filter(|t| t.what == What::FrozenLeader);
        let woken = woken.filter(|t| t.span.length() >= TTL - INTERVAL - 1000);
        let woken = Spans::of(woken.map(|t| Span::new(t.span.to - 500, t.span.to + 1000)));
        // Troubles that follow each other closely eat up a TTL together.
        let cut = self.no_majority(client, TTL - INTERVAL);
        self.blind(client, RECOVERY)
            .or(&dead)
            .or(&self.hindered_hand_overs(client))
            .or(&woken)
            .or(&Spans::of(cut.iter().map(|span| span.and(RECOVERY))))
            .or(&Spans::of(stalled.map(|t| t.span.and(RECOVERY))))
    }

    /// When a key that was handed over may go: one of the two processes couldn't do with etcd in time what it had to. One
    /// member that is down is no reason.
    fn hindered_hand_overs(&self, client: usize) -> Spans {
        let hinders = |what| match what {
            What::Stall | What::NoLeader | What::Login | What::NoSpace => true,
            What::Wire(of, _) => of == client,
            _ => false,
        };
        let hindered = self.spans(hinders, RECOVERY);
        let hindered = hindered.or(&self.no_majority(client, RECOVERY));
        let hand_overs = self.spans(|what| what == What::HandOver(client), RECOVERY);
        Spans::of(hand_overs.iter().filter_map(|span| {
            let touches = |it: &Span| it.from < span.to && it.to > span.from;
            let last = hindered.iter().filter(touches).last()?;
            Some(Span::new(span.from, span.to.max(last.to)))
        }))
    }

    /// When no process of a sidekick runs because one has handed over, `recovery` after it included: what becomes of a
    /// container or of a wish meanwhile is known to the next.
    pub fn between(&self, client: usize, recovery: Ms) -> Spans {
        self.spans(|what| what == What::HandOver(client), recovery)
    }

    /// When a sidekick's process was another one, or none, or did not run.
    pub fn downs(&self, client: usize) -> Spans {
        let own = |what| what == What::Client(client) || what == What::HandOver(client);
        self.spans(own, 0)
    }

    /// When an inspect may have come to nothing.
    pub fn unseen(&self, client: usize) -> Spans {
        self.blind(client, RECOVERY).or(&self.stalls())
    }

    /// When a key may outlast a process of whose death the kernel told: its sidekick couldn't tell etcd.
    pub fn untold(&self, client: usize) -> Spans {
        let late = self.etcd(client, RECOVERY).or(&self.orphaned(client));
        late.or(&self.left_behind(client))
    }

    /// When a key may outlast its container: its sidekick couldn't know, or couldn't tell etcd.
    pub fn leftover(&self, client: usize) -> Spans {
        self.blind(client, RECOVERY)
            .or(&self.etcd(client, RECOVERY))
            .or(&self.orphaned(client))
    }

    /// A dead or frozen sidekick's key goes with its lease, or when the next sidekick comes.
    fn orphaned(&self, client: usize) -> Spans {
        self.abandoned(client, What::Client(client))
    }

    /// And so does one that was handed over: its lease is of 10 s, or of a TTL if that is shorter, as it is here.
    pub fn left_behind(&self, client: usize) -> Spans {
        self.abandoned(client, What::HandOver(client))
    }

    fn abandoned(&self, client: usize, how: What) -> Spans {
        let troubles = self.record.troubles.iter();
        let dead = troubles.filter(|t| t.what == how);
        Spans::of(dead.map(|t| {
            let mut expired = t.span.from + TTL + EXPIRY;
            // A new leader grants every lease its full TTL again.
            let members = |what| matches!(what, What::Member(_) | What::NoLeader | What::Stall);
            for trouble in self.spans(members, 0).iter() {
                if trouble.from < expired && trouble.to > t.span.from {
                    expired = expired.max(trouble.to + FAILOVER + TTL + EXPIRY);
                }
            }
            // What a killed sidekick put when the engine's clock was fast names a life that is later than any
            // that begins now: it stands until its lease ends (the third promise).
            let stepped = self.record.engine_clock_stepped && client == EVERY;
            let next = if stepped {
                Ms::MAX
            } else {
                t.span.to + RECOVERY
            };
            Span::new(t.span.from, expired.min(next))
        }))
    }

    /// When a sidekick couldn't see its container.
    fn blind(&self, client: usize, recovery: Ms) -> Spans {
        let own = |what| what == What::Engine || what == What::Docker(client);
        self.spans(own, recovery)
    }

    /// When HAProxy may differ from etcd, `recovery` after each trouble included.
    pub fn agent(&self, agent: usize, recovery: Ms) -> Spans {
        let own = |what| matches!(what, What::Haproxy) || what == What::Client(agent);
        self.spans(own, recovery).or(&self.etcd(agent, recovery))
    }

    /// When HAProxy itself was in trouble.
    pub fn haproxy(&self) -> Spans {
        self.spans(|what| what == What::Haproxy, AGENT_RECOVERY)
    }

    /// When this machine stood still.
    pub fn stalls(&self) -> Spans {
        self.spans(|what| what == What::Stall, REACTION)
    }

    /// When a sidekick may have had a reason to write.
    pub fn motion(&self) -> Spans {
        let clients = self.record.sidekicks;
        let turns = self.record.turns.iter().map(|turn| turn.span.and(REACTION));
        let hands = self.record.events.iter();
        let hands = hands.filter(|event| self.record.by_hand.contains(&event.revision));
        let hands = hands.map(|event| Span::new(event.at - 50, event.at + REACTION));
        let wishes = self.record.wishes.iter();
        let wishes = wishes.flat_map(|(_, wish)| [wish.from, wish.to]);
        let wishes = wishes.map(|at| Span::new(at - 50, at + REACTION));
        let motion =
            Spans::of(turns.chain(hands).chain(wishes)).or(&self.spans(|_| true, RECOVERY));
        (0..clients).fold(motion, |motion, client| {
            let left = self.orphaned(client).or(&self.left_behind(client));
            motion.or(&left)
        })
    }
}
