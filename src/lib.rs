//! sidekick keeps a Docker container's etcd key true while the container is up, and not a moment longer.
//!
//! # The floors
//!
//! Each file says in its first line what it is. An import goes down this list, never up and never in a circle
//! (`tests/house/imports.rs` holds the whole order); what is marked P takes values and returns values, without a runtime,
//! a client, a log, a file or a clock (`tests/house/purity.rs`).
//!
//! ```text
//! main.rs, cli.rs       the subcommands, telemetry, signals, exit codes
//! explain.rs, list.rs   what the operator asks (a table, or a screen: P); drain.rs (a wish), wait.rs and healthcheck.rs
//! doctor/               what is wrong with this machine: judgement (P), and thin probes
//! export/               the instances in other readers' formats (P), and the file that follows etcd
//! announce/             the job `sidekick announce`
//!   drain/              operators' wishes, and a shutdown that waits for the agents
//!   docker/             the Docker Engine: events, inspects, the watcher
//!   health.rs           the checks of services
//!   lease/              etcd: what to ask of it next (P), and the executor, the only writer to etcd
//!   policy/           P when a container is announced, as what, and which container has a key
//! agent/                the job `sidekick agent`
//!   control_loop.rs     one pass after another
//!   reconcile.rs        one pass: servers, listeners and file to the desired state
//!   resolver.rs         host names
//!   control_writer.rs   the agent's control keys in etcd; identity.rs: under which id
//!   drain/            P what is drained, and which sessions are idle
//!   haproxy/            HAProxy: its file and its answers (P), its master socket and its processes
//!   model/            P what HAProxy is to be: backends, listeners
//! http/                 --listen: metrics, health, the page (P)
//! etcd/                 members and failover, watches, what an error means
//! membership.rs       P which instances count as present: the hold of a mass loss
//! catalog.rs          P what stands in etcd: services, instances, the quarantine
//! systemd.rs, watchdog.rs (P), shutdown.rs, telemetry.rs, log_writer.rs
//! config.rs (P), retry.rs (P), log_throttle.rs (P), clock.rs, file_replacement.rs
//! endpoint/           P the contract: Key, Host, Since, Endpoint, their codec and limits
//! testing/              fakes and simulations, for tests alone
//! ```
//!
//! # The tasks of `announce`
//!
//! All run on one thread (tokio's `current_thread`), so that no two policies race. Beside it run the
//! thread that writes the log, for both jobs (256 KiB of lines wait; further lines are lost, and counted),
//! and threads that resolve names, which no exit waits for. docs/architecture.md has the same as a diagram.
//!
//! | task | reads | writes | ends |
//! |---|---|---|---|
//! | the container watcher | Docker's API; which containers to inspect again; a pidfd on each one's first process, and a task that waits for its end | a `watch` channel: the latest state of each container | aborted at shutdown |
//! | the event reader | Docker's /events | `mpsc`, 1024 deep: "inspect again", deaths, networks; when it is full, all containers are inspected again | with its connection |
//! | the checks, a task each | the ports of containers that ask for a check | a `watch` channel: their results | aborted at shutdown |
//! | the wish reader (with `--drain`) | the operators' wishes for the claimed keys | a `watch` channel: the wishes | aborted at shutdown |
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
//! | the control writer | a `watch` channel: the agent's control keys | **the only writer to etcd**, on a lease of its own | last: after the lease is revoked, or after 1 s |
//! | `agent::run` | etcd's changes, the addresses | **the only one to speak to HAProxy**; systemd | on a signal, or when a task ended that never should |
//!
//! With `--listen`, in both jobs:
//!
//! | thread | reads | writes | ends |
//! |---|---|---|---|
//! | `http`, with a runtime of its own | `watch` channels of the loops' latest state; counters | answers to at most 64 connections, 5 s each (a stream of events: 5 min) | with the process |
//!
//! # Invariants
//!
//! - The executor builds puts in one place, and hangs each on a lease. Beside it only `sidekick drain` puts: a wish,
//!   which no reader of the keys sees.
//! - A further key is put beside its primary, or on the condition that the primary's known write is still the latest; it
//!   goes in the transaction that makes the primary drain.
//! - What is read below the control prefix, or can't be read, changes when a key goes; never that it goes.
//! - Every write to etcd carries the condition under which it is right; what the registrar believes of etcd
//!   may be wrong, its writes can't be.
//! - One request to etcd is under way at a time; after a failure the key's state is unknown, not assumed.
//! - Every await on Docker or etcd has a deadline; every queue holds the latest value, or is bounded.
//! - A pidfd's death belongs to one start of one container, and outranks every answer about that life.
//! - Docker's silence is never "the container is gone", etcd's silence never "the key is gone".
//! - Nothing that etcd says reaches HAProxy's file or socket except a checked name, number or address.
//! - A pass of the agent asks, commands and reads back on one connection to HAProxy's master, which ends with
//!   the pass, so that it never has to outlast a reload by hand.
//! - A pass is over when `show servers state` agrees, not when a command was sent.
//! - What HAProxy was started from is read from HAProxy itself (`show env`), never remembered.
//! - A session is ended where the server has spoken last, or neither side has: what can't be told is in flight.
//! - The word that an instance is drained is given by a look at HAProxy, never by a command that was sent.
//! - Commands go to a worker by its process id: a worker that is gone is an error, never another worker.
//! - A pass costs what has changed: the agent's stages hand on persistent maps, of which two versions share what
//!   is the same, and each stage keeps the version that it saw last.
//! - What is remembered belongs to what exists, or is bounded. A key's state goes 10 s after its last write,
//!   with an audit; a death with the inspect that was under way, one by the kernel and a stop with their life, a
//!   pidfd with its process; a bind's backoff one pause after its retry time;
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
pub mod doctor;
pub mod drain;
pub mod endpoint;
pub mod etcd;
pub mod explain;
pub mod export;
mod file_replacement;
pub mod healthcheck;
pub mod http;
pub mod list;
pub mod log_throttle;
pub mod log_writer;
pub mod membership;
pub mod retry;
pub mod shutdown;
pub mod systemd;
pub mod telemetry;
#[cfg(test)]
mod testing;
pub mod wait;
pub mod watchdog;
