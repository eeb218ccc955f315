//! sidekick keeps a Docker container's etcd key true while the container is up, and not a moment longer.
//!
//! # The map
//!
//! ```text
//! main.rs          parse, telemetry, signals, dispatch, exit code
//! cli.rs           the subcommands
//!   parse.rs       reads the command line: empty options, and passwords that may not stand there
//!   ignored.rs   P variables of etcdctl and docker that sidekick doesn't use, in words
//! explain.rs       prints the decision that `announce` would act on
//!   config.rs      its options
//! list.rs          prints what is registered
//!   config.rs      its options
//! announce/        the job `sidekick announce`
//!   mod.rs         wires the tasks; turns views into desired keys
//!   config.rs      its options, checked
//!   status.rs    P the status in one line
//!   verdict_log.rs P which verdicts are logged
//!   docker/
//!     client.rs    requests to the Docker Engine, each with a deadline
//!     events.rs    its events: which container is inspected again, and which one has died
//!     inspect.rs   decodes an inspect's answer into a snapshot
//!     inspect_queue.rs P which containers are inspected next
//!     watcher.rs   subscribe, list, inspect, publish
//!     fuzz.rs      properties of the decoders
//!   policy/      P
//!     container.rs our own snapshot of a container
//!     eligibility.rs snapshot + options → endpoint, or the reason why not
//!     host_source.rs where the announced address comes from, in words
//!     caveat.rs    why clients may not reach an announced address, in words
//!     reason.rs    why a container is not announced, in words
//!     labels.rs    labels → the services that a container is announced as
//!     claims.rs    which keys a container claims, and which container has a key that several claim
//!   lease/
//!     protocol.rs P requests, responses, statuses and events between registrar and executor
//!     ownership.rs P which of two holders of a key has precedence
//!     grant.rs   P the lease's term, and the ids of the leases that are asked for
//!     audit.rs   P which keys are read back next
//!     batch.rs   P how many keys travel in one request
//!     history.rs P where in etcd's history the responses stand
//!     key_state.rs P one key: its desired value, its value in etcd, the operation between them
//!     registrar.rs P the lease, the audit, the batches: the next request
//!     executor.rs  sends the registrar's requests: the only writer to etcd
//!     event_log.rs logs the registrar's events, throttled
//!     shutdown_report.rs P the keys at shutdown, in one line
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
//! etcd/            the etcd client of both jobs
//!   config.rs      its options, checked
//!   error.rs       what an error means: another member, a login, or a new lease
//!   credentials.rs TLS material and password, read again for each connection
//!   members.rs     one client for one member; deadlines, failover, login
//!   stream.rs      how a watch is opened, and what a message says
//!   watch.rs       watches on single keys, on one stream that reopens for ever
//!   reader.rs      everything below a prefix: a snapshot, then changes; a snapshot again after any gap
//! systemd.rs       READY, STATUS, WATCHDOG, STOPPING: never waits for systemd
//! shutdown.rs      SIGINT | SIGTERM | SIGHUP → a value to wait for; the second SIGINT or SIGTERM ends the process
//! watchdog.rs    P when the watchdog is fed, and whether a loop is stuck, from the loops' pulses
//! telemetry.rs     logging: the format of a line
//! config.rs      P what the text of an option means: durations, prefixes, URLs
//! retry.rs       P retry policies, and when one thing is tried again
//! log_throttle.rs P which failures that repeat are worth a line
//! log_writer.rs    the bounded queue of all that goes to stderr, and the thread that writes it
//! clock.rs         the one clock that policies are fed from (CLOCK_BOOTTIME)
//! endpoint/      P the contract: Key, Host, Since, Endpoint, their codec and limits
//! testing/         simulations and fakes (cfg(test))
//! ```
//!
//! P: pure, values in and values out; `tests/pure_rooms.rs` sees to it. Arrows run one way:
//! main → cli → job → etcd → P → endpoint.
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
