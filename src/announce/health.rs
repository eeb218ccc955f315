//! Runs the checks that services ask for: connections, GETs, and PINGs.

use super::policy::check::{
    CheckAddress, CheckProgress, CheckResults, CheckSubject, CheckTarget, WantedChecks,
};
use super::policy::check_settings::CheckKind;
use super::policy::redis_reply::{MAX_REPLY, PING, redis_takes_commands};
use http_body_util::Empty;
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{HOST, USER_AGENT};
use hyper_util::rt::TokioIo;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout_at};

/// The two ends of the checks that the loop holds.
#[derive(Debug)]
pub(super) struct Checks {
    wanted: watch::Sender<WantedChecks>,
    /// What they have come to.
    pub(super) results: watch::Receiver<CheckResults>,
}

impl Checks {
    /// Begins to run checks in `tasks`, none at first.
    pub(super) fn run_in(tasks: &mut JoinSet<()>) -> Self {
        let (wanted, targets) = watch::channel(WantedChecks::new());
        let (results_tx, results) = watch::channel(CheckResults::new());
        tasks.spawn(run(targets, results_tx));
        Self { wanted, results }
    }

    /// Which checks run from now on.
    pub(super) fn want<'a>(&self, targets: impl Iterator<Item = &'a CheckTarget>) {
        let targets = targets.map(|it| (it.subject.clone(), it.addresses.clone()));
        let targets = targets.collect();
        self.wanted.send_if_modified(|wanted| {
            let changed = *wanted != targets;
            *wanted = targets;
            changed
        });
    }
}

/// One task for each check; ends where one of them panics.
async fn run(mut targets: watch::Receiver<WantedChecks>, results: watch::Sender<CheckResults>) {
    let mut running: BTreeMap<CheckSubject, (Vec<CheckAddress>, AbortHandle)> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    loop {
        let wanted = targets.borrow_and_update().clone();
        running.retain(|subject, (addresses, task)| {
            let stays = wanted.get(subject) == Some(addresses);
            if !stays {
                task.abort();
            }
            stays
        });
        // The loop that reads them has asked for the others alone.
        results.send_if_modified(|results| {
            results.retain(|subject, _| wanted.contains_key(subject));
            false
        });
        for (subject, addresses) in wanted {
            let target = CheckTarget {
                subject: subject.clone(),
                addresses: addresses.clone(),
            };
            let begin = || (addresses, tasks.spawn(check(target, results.clone())));
            running.entry(subject).or_insert_with(begin);
        }
        // Cancel-safe: a watch channel keeps its mark, a set its tasks.
        tokio::select! {
            changed = targets.changed() => if changed.is_err() { return },
            Some(ended) = tasks.join_next() => if ended.is_err_and(|error| error.is_panic()) { return },
        }
    }
}

async fn check(target: CheckTarget, results: watch::Sender<CheckResults>) {
    let known = results.borrow().get(&target.subject).cloned();
    let (mut progress, mut reached) = (CheckProgress::after(&target.subject.settings, known), None);
    loop {
        let answer = ask(&target, &mut reached).await;
        if let Some(result) = progress.answered(answer) {
            results.send_modify(|results| {
                results.insert(target.subject.clone(), result);
            });
        }
        sleep(progress.pause()).await;
    }
}

/// Asks once, at the address that was reached before, else at the first that can be reached.
///
/// # Errors
/// What is wrong with the answer.
pub(crate) async fn ask(
    target: &CheckTarget,
    reached: &mut Option<SocketAddr>,
) -> Result<(), String> {
    let addresses = match reached {
        Some(address) => vec![(*address, false)],
        None => reachable(&target.addresses),
    };
    let mut problem = "there is no address to ask".to_owned();
    for (address, is_own) in addresses {
        let deadline = Instant::now() + target.subject.settings.timeout;
        let late = || {
            let time = humantime::format_duration(target.subject.settings.timeout);
            format!("{address} did not answer within {time}")
        };
        let stream = match timeout_at(deadline, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                problem = format!("{address}: {error}");
                // The port's own machine or container has said no.
                let no = [ErrorKind::ConnectionRefused, ErrorKind::ConnectionReset];
                if no.contains(&error.kind()) {
                    *reached = Some(address);
                    return Err(problem);
                }
                continue;
            }
            // A server that hangs, with as many connections waiting as it may have. Docker's proxy would accept ours.
            Err(_) if is_own => return Err(late()),
            Err(_) => {
                problem = late();
                continue;
            }
        };
        *reached = Some(address);
        let answer = match &target.subject.settings.kind {
            CheckKind::Tcp => return Ok(()),
            CheckKind::Http(path) => timeout_at(deadline, get(stream, address, path)).await,
            CheckKind::Redis => timeout_at(deadline, ping(stream, address)).await,
        };
        return answer.unwrap_or_else(|_| Err(late()));
    }
    Err(problem)
}

/// The addresses that a connection may lead to, and whether each is a container's own: that counts where its network's
/// gateway is an address of this machine, which binds a socket.
fn reachable(addresses: &[CheckAddress]) -> Vec<(SocketAddr, bool)> {
    let is_here = |gateway| UdpSocket::bind(SocketAddr::new(gateway, 0)).is_ok();
    let reachable = addresses.iter().filter(|it| it.gateway.is_none_or(is_here));
    reachable
        .map(|it| (it.address, it.gateway.is_some()))
        .collect()
}

/// Redirections are not followed; the answer's body isn't read.
async fn get(stream: TcpStream, address: SocketAddr, path: &str) -> Result<(), String> {
    let wrong = |error: hyper::Error| format!("{address}: {error}");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(wrong)?;
    let request = Request::get(path)
        .header(HOST, address.to_string())
        .header(USER_AGENT, "sidekick")
        .body(Empty::<Bytes>::new());
    let request = request.map_err(|error| error.to_string())?;
    let mut answer = std::pin::pin!(sender.send_request(request));
    // Cancel-safe: what is given up is the connection. It may end with the answer's head, which is there then.
    let response = tokio::select! {
        biased;
        response = &mut answer => response,
        _ = connection => answer.await,
    };
    let response = response.map_err(wrong)?;
    let status = response.status();
    match status.is_success() || status.is_redirection() {
        true => Ok(()),
        false => Err(format!("{address} answers {status}")),
    }
}

/// Without a login: that Redis asks for one is an answer.
async fn ping(mut stream: TcpStream, address: SocketAddr) -> Result<(), String> {
    let mut reply = Vec::new();
    let asked = async {
        stream.write_all(PING).await?;
        let mut line = BufReader::new(stream.take(MAX_REPLY as u64));
        line.read_until(b'\n', &mut reply).await
    };
    asked.await.map_err(|error| format!("{address}: {error}"))?;
    redis_takes_commands(&reply).map_err(|why| format!("{address} {why}"))
}

#[cfg(test)]
mod tests;
