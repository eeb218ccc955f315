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
//! All run on one thread (tokio's `current_thread`), so that no two policies race. Beside it run the
//! thread that writes the log, for both jobs (256 KiB of lines wait; further lines are lost, and counted),
//! and threads that resolve names, which no exit waits for. docs/architecture.md has the same as a diagram.
//!
//! | task | reads | writes | ends |
//! |---|---|---|---|
//! | the container watcher | Docker's API; which containers to inspect again | a `watch` channel: the latest state of each container | aborted at shutdown |
//! | the event reader | Docker's /events | `mpsc`, 1024 deep: "inspect again", deaths, networks; when it is full, all containers are inspected again | with its connection |
//! | the etcd watcher | etcd's watches on the keys that are wished for | `mpsc`, 64 deep; further changes wait in etcd | aborted at shutdown |
//! | the executor | the wishes; the etcd watcher's changes | **the only writer to etcd**; a `watch` channel: the state of each key | last: after the lease is revoked, or after 4.5 s |
//! | `announce::run` | the state of each container and of each key | a `watch` channel: the wishes; systemd | on a signal, or when a task ended that never should |
//!
//! # The tasks of `agent`
//!
//! | task | reads | writes | ends |
//! |---|---|---|---|
//! | the etcd reader | everything below the prefix | `mpsc`, 1024 deep; further changes wait in etcd | with the runtime |
//! | the resolver | a `watch` channel of names; DNS, in threads of its own, 224 at most; the kernel's list of addresses | a `watch` channel: the addresses | with the runtime |
//! | the file's write | a text | **haproxy.cfg**; one write at a time, then the latest text | when it is written |
//! | the reader of HAProxy's stderr | the HAProxy that the agent started | the log | with HAProxy |
//! | `agent::run` | etcd's changes, the addresses | **the only one to speak to HAProxy**; systemd | on a signal, or when a task ended that never should |
//!
//! # Invariants
//!
//! - The executor builds puts in one place, and hangs each on a lease.
//! - Every write to etcd carries the condition under which it is right; what the registrar believes of etcd
//!   may be wrong, its writes can't be.
//! - One request to etcd is under way at a time; after a failure the key's state is unknown, not assumed.
//! - Every await on Docker or etcd has a deadline; every queue holds the latest value, or is bounded.
//! - Docker's silence is never "the container is gone", etcd's silence never "the key is gone".
//! - Nothing that etcd says reaches HAProxy's file or socket except a checked name, number or address.
//! - A pass of the agent asks, commands and reads back on one connection to HAProxy's master, which ends with
//!   the pass, so that it never has to outlast a reload by hand.
//! - A pass is over when `show servers state` agrees, not when a command was sent.
//! - What HAProxy was started from is read from HAProxy itself (`show env`), never remembered.
//! - Commands go to a worker by its process id: a worker that is gone is an error, never another worker.
//! - A pass costs what has changed: the agent's stages hand on by pointer what hasn't, and a stage that compares
//!   pointers holds one, so that nothing is changed in place meanwhile.
//! - What is remembered belongs to what exists, or is bounded. A key's state goes 10 s after its last write,
//!   with an audit; a death with the inspect that was under way; a bind's backoff one pause after its retry time;
//!   an empty service after `--forget`, or where there are more than `limits::MAX_SERVICES`; the address of a name
//!   that no instance uses where there are more than 1,024; what was logged of alerts and quarantined keys after
//!   ten minutes, 500 of them (`log_throttle::Repeats`).
//!
//! Why it is so, where the code can't show it: docs/adr/.

pub mod agent;
pub mod announce;
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
pub mod watchdog;
