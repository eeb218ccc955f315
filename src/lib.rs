//! sidekick keeps a Docker container's etcd key true while the container is up, and not a moment longer.
//!
//! # The map
//!
//! ```text
//! main.rs          parse, telemetry, signals, dispatch, exit code
//! cli.rs           clap structs, raw input only
//!   hidden.rs      a word that no `Debug` shows
//!   reading.rs     reads them: what is empty, and what may not be said on the command line
//! config/          raw input → validated configs; everything that exits with 2 is found here
//!   ignored.rs   P variables of etcdctl and docker that sidekick doesn't use, in words
//! endpoint/     P  the contract: Key, Host, Since, Endpoint, their codec and limits
//! retry.rs      P  retry policies, and when one thing is tried again
//! log_throttle.rs P which failures that repeat are worth a line
//! clock.rs         the one clock that policies are fed from (CLOCK_BOOTTIME)
//! shutdown.rs      SIGINT | SIGTERM | SIGHUP → a value to wait for; the second SIGINT or SIGTERM ends the process
//! telemetry.rs     logging: what a line looks like
//! log_writer.rs    the bounded queue of all that goes to stderr, and the thread that writes it
//! systemd.rs       READY, STATUS, WATCHDOG, STOPPING: never waits for systemd
//! watchdog.rs   P  when the watchdog is fed, and whether a loop is stuck, from the loops' pulses
//! etcd/            what both jobs need of etcd
//!   mod.rs         its configuration
//!   fault.rs       what an error means: whose answer it is
//!   credentials.rs TLS material and password, read again for each connection
//!   members.rs     one client for one member; deadlines, failover, login
//!   watch.rs       watches on single keys, on one stream that reopens for ever
//!   reader.rs      everything below a prefix: a snapshot, then changes; a snapshot again after any gap
//! announce/        the job `sidekick announce`
//!   mod.rs         wires the tasks
//!   container.rs P our own snapshot of a container
//!   rules.rs     P snapshot + rules → Endpoint, or the Reason why not
//!   caveat.rs    P why clients may not reach what is announced, in words
//!   reason.rs    P the reasons, in words
//!   labels.rs    P a container's labels → the services that it asks to be announced as
//!   claims.rs    P which container claims which key, and who has it where several do
//!   agenda.rs    P which container is to be looked at, and when
//!   grant.rs     P the ids that leases are asked for by
//!   exchange.rs  P the words between registrar and registry
//!   ownership.rs P who has the better right to a key
//!   slot.rs      P one key: wished for, seen, and what lies between
//!   registrar.rs P the lease, the audit, the batches: what to ask of etcd next
//!   status.rs    P how it stands, in one line
//!   verdict_log.rs P when the log tells a verdict
//!   docker.rs      what is asked of the Docker Engine, each with a deadline
//!   events.rs      its events: what to look at again, and who died
//!   watcher.rs     subscribe, list, inspect, publish
//!   inspection.rs  an inspect's answer → snapshot
//!   registry.rs    executes the registrar's requests; decides nothing
//! agent/           the job `sidekick agent`
//!   mod.rs         wires the tasks, goes through one pass after another, and looks at HAProxy's servers between
//!   table.rs     P  what stands in etcd → services and instances; the quarantine
//!   limits.rs    P  how much there may be, and who is left out
//!   presence.rs  P  who counts as there: the hold, those that leave, the fronts that outlast their instances
//!   presence/service.rs P  one service with its recent past
//!   addresses.rs P  instances and the addresses of names → servers
//!   allow.rs     P  which addresses an instance may have: --allow, loopback, the agent's own listeners
//!   layout.rs    P  who listens where → the model of what HAProxy is to be
//!   bars.rs      P  who can't listen where, and when it is tried again
//!   render.rs    P  model → haproxy.cfg
//!   base.rs      P  what the operator has in a base file of his own
//!   text.rs      P  a long text in pieces that texts share
//!   beside.rs    P  two maps side by side
//!   parse.rs     P  haproxy.cfg, if it is ours → what was served
//!   bound.rs     P  what the running worker listens on, with the servers wanted for it
//!   diff.rs      P  fronts × what runs → commands for the socket
//!   health.rs    P  which servers HAProxy's checks have down, since when, and what is worth a line of it
//!   local.rs       what the HAProxy on this machine says of its servers, for `list`
//!   server_defaults.rs P the base file's `default-server` → the words of each `add server`
//!   sessions.rs  P  `show sess` → which connections have to end
//!   processes.rs P  what HAProxy's master says of its processes
//!   status.rs    P  how it stands, in one line
//!   telling.rs     what the log says, once
//!   dry_run.rs     what would be written now
//!   proxy.rs       what a pass needs of HAProxy: a trait, so that it is simulated
//!   apply.rs       one pass: adjust the worker that runs, restructure, keep the file
//!   apply/restructure.rs what takes a reload, and the pauses between reloads
//!   adjust.rs      the running worker's servers; connections in older workers
//!   looks.rs       what HAProxy's worker is, and what its checks say, each second
//!   names.rs       resolves host names
//!   lookups.rs   P  which name is looked up next, and how many at once
//!   lock.rs        one agent per file and per HAProxy
//!   machine.rs     this machine: its addresses, and what of it stands in HAProxy's file
//!   file.rs        the configuration file: draft, `haproxy -c`, fsync, rename
//!   master.rs      the master's socket
//!   child.rs       the HAProxy that is ours
//!   haproxy.rs     those three together: executes what apply decides
//! explain.rs       the same decisions, told to a person
//! list.rs          what is registered
//! ```
//!
//! P: pure, values in and values out; `tests/pure_rooms.rs` sees to it. Arrows run one way:
//! main → cli → config → job → I/O → P → endpoint.
//!
//! # The tasks of `announce`
//!
//! All on one thread (tokio's `current_thread`), so that no two policies race. Beside it are the log's
//! thread, of both jobs (256 KiB of lines wait; more are lost, and counted), and those that look names up,
//! whom no exit waits for.
//!
//! | task | reads | writes | ends |
//! |---|---|---|---|
//! | `watcher::watch` | Docker's API, `mpsc<Mark>` | `watch<Views>`: the latest word on each container | aborted at shutdown |
//! | its event reader | Docker's /events | `mpsc<Mark>`, 1024 deep: "look again", deaths, networks; full: all is looked at again | with its connection |
//! | `etcd::watch::follow` | etcd's watches, the keys of `watch<Wishes>` | `mpsc<News>`, 64 deep; more waits in etcd | aborted at shutdown |
//! | `Registry::run` | `watch<Wishes>`, `mpsc<News>` | **the only writer to etcd**; `watch<Standings>` | last: after the lease is revoked, or 4.5 s |
//! | `announce::run` | `watch<Views>`, `watch<Standings>` | `watch<Wishes>`; systemd | on a signal, or when a task ended that never should |
//!
//! # The tasks of `agent`
//!
//! | task | reads | writes | ends |
//! |---|---|---|---|
//! | `etcd::reader::read` | etcd | `mpsc<Update>`, 1024 deep; more waits in etcd | with the runtime |
//! | `names::resolve` | `watch` of names; the resolver, in threads of its own, 224 at most; the kernel's list of addresses | `watch<Addresses>` | with the runtime |
//! | `file.write` | a text | **haproxy.cfg**; one at a time, the latest text next | when it is written |
//! | the child's listener | HAProxy's stderr | the log | with HAProxy |
//! | `agent::run` | `mpsc<Update>`, `watch<Addresses>` | **the only one to speak to HAProxy**; systemd | on a signal, or when a task ended that never should |
//!
//! - Nothing that etcd says reaches the file or the socket but as a checked name, number or address.
//! - A pass asks, tells and reads back on one connection to the master, which ends with the pass, so
//!   that it needn't outlast a reload by hand.
//! - A pass is over when `show servers state` agrees, not when a command was sent.
//! - What HAProxy was started from is read from HAProxy itself (`show env`), never remembered.
//! - Commands go to a worker by its process id: one that is gone is an error, never another worker.
//! - A pass costs what has changed: table, presence, addresses and render hand on by pointer what
//!   hasn't, and who compares pointers holds one, so that nothing is changed in place behind them.
//!
//! # Invariants
//!
//! - Only `registry::effect` builds a put, and it always hangs it on a lease.
//! - Every write carries the condition under which it is right (`registry::conditions`); the
//!   registrar's beliefs may be wrong, its writes can't be.
//! - One request to etcd is under way at a time; after a failure the key's state is unknown, not assumed.
//! - Every await on Docker or etcd has a deadline; every queue is a latest value or bounded.
//! - What is remembered is of what is there, or bounded: a slot goes 10 s after its last write, with an
//!   audit; a death with the look that was under way; a bar after its pause; an empty service after `--forget`, or where there
//!   are more than `limits::MAX_SERVICES`; the address of a name that nobody wants where there are more
//!   than 1,024; what was said of alerts and bad keys after ten minutes, 500 of them (`log_throttle::Repeats`).
//! - Docker's silence is never "the container is gone", etcd's silence never "the key is gone".
//!
//! # Where this differs from the design's map, and why
//!
//! - `registrar.rs` is cut in four (exchange, ownership, slot, registrar): one room each.
//! - One container at one key is the case of one of `--all`: the same watcher, judge and registrar.
//! - The announcer watches its keys one by one on one stream, not their prefix: of the changes on all
//!   other machines it hears nothing, and it needs no right to read their keys.
//! - The announcer's watch tells what it sees and asks for an audit whenever it reopened, rather than
//!   tracking revisions: an audit is one read, and it is needed after every interruption anyway.
//! - Renewal opens a short keep-alive stream at each third of the TTL instead of holding one open: a held
//!   stream that broke would be found out a renewal later.
//! - The lease's id is our own: a grant whose answer was lost is asked for again by the same id, and leaves
//!   no second lease. `lease already exists` means that an earlier try was done; without one, that the
//!   id is another's.
//! - A condition names the lease as well as `mod_revision`: after an etcd that was emptied behind our
//!   back a revision alone can be another's write (found by the simulation).
//! - The agent's hold and forget rules are a room of their own (presence), and so is who gets which
//!   address (layout): they are policies, and the table is bookkeeping.
//! - A changed instance is told to HAProxy first and saved beside it: `haproxy -c` takes some 40 ms,
//!   the command one. Structure goes the other way: nothing is reloaded that wasn't checked.
//! - A `die` event is believed, and withdraws the key before the container is inspected: the engine
//!   answers no inspect until it has cleaned up behind a dead container (150 ms in the bench, against
//!   a few for the withdrawal). An inspect follows all the same; whether its answer is about the life
//!   that has ended is told by whether it began after the event was heard, and by no clock.
//! - A pause counts once it has lasted for a second: `docker commit` pauses for some 60 ms.
//! - A value without a lease is taken over whatever it says: no sidekick put it, and it would stay
//!   for ever (found by the simulation, seed 2684).
//! - Of two sidekicks on the same life of a container the overtaken one stands by; by rule 3 alone
//!   ("same container: take over") they would overwrite each other for ever.
//! - Of two lives of one container the later wins, as between two containers: by rule 3 alone a second
//!   sidekick that can't see the restart (Docker's wire to it is dead) would overwrite the new life with
//!   the old. What tells the lives apart is StartedAt. Where the machine's clock was set back between
//!   them the new life looks like the older one: on our own lease it is written all the same; what a
//!   killed sidekick has left stands until its lease ends, a TTL at most; and a sidekick that can't see
//!   the restart keeps the key until it can, or until its `--docker-grace` is over. Nobody can tell those
//!   from a rival that lives, and each of them ends without a fight.
//! - What was cleared away and is put back is left in peace: another sidekick lives, and can't see yet
//!   that the container is down.
//! - `--etcd-user U:P` is refused on the command line: whoever lists processes would read the password.
//!   It comes from a file or from the environment.

pub mod agent;
pub mod announce;
pub mod catalog;
pub mod cli;
pub mod clock;
pub mod config;
pub mod endpoint;
pub mod etcd;
pub mod explain;
pub mod list;
pub mod log_throttle;
pub mod log_writer;
pub mod retry;
pub mod shutdown;
pub mod systemd;
pub mod telemetry;
#[cfg(test)]
mod testing;
pub mod watchdog;
