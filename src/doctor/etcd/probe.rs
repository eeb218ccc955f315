//! Asks each member of etcd. Writes nothing.

use super::{Access, MemberAnswers, MemberStatus, Right};
use crate::etcd::members::{CALL_DEADLINE, Members};
use crate::etcd::{EtcdConfig, EtcdError};
use anyhow::Context as _;
use etcd_client::{Compare, CompareOp, GetOptions, StatusResponse, Txn, TxnOp};
use futures_util::future::join_all;
use http_body_util::Empty;
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{DATE, HOST};
use hyper_util::rt::TokioIo;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Asks all members side by side.
///
/// # Errors
/// A password that is no UTF-8.
pub(in crate::doctor) async fn ask_each(
    config: &EtcdConfig,
    rights: &[Right],
) -> anyhow::Result<Vec<MemberAnswers>> {
    let members = config.endpoints.iter().map(|endpoint| {
        let alone = EtcdConfig {
            endpoints: vec![endpoint.clone()],
            ..config.clone()
        };
        async move { ask(endpoint, &alone, rights).await }
    });
    join_all(members).await.into_iter().collect()
}

async fn ask(
    endpoint: &str,
    config: &EtcdConfig,
    rights: &[Right],
) -> anyhow::Result<MemberAnswers> {
    let members = Members::new(config)?;
    let (answer, clock_ahead) = tokio::join!(status(&members), clock_ahead(endpoint));
    let user = config.user.as_ref().map(|(name, _)| name.clone());
    let is_refused = matches!(answer, Err(EtcdError::Auth(_) | EtcdError::Refused(_)));
    if let (Some(user), true, Err(fault)) = (&user, is_refused, &answer) {
        // What it is can be told without a login.
        let config = EtcdConfig {
            user: None,
            ..config.clone()
        };
        return Ok(MemberAnswers {
            endpoint: endpoint.to_owned(),
            login: Some((user.clone(), Err(fault.clone()))),
            status: status(&Members::new(&config)?).await,
            rights: Vec::new(),
            clock_ahead,
        });
    }
    let mut asked = Vec::new();
    if answer.as_ref().is_ok_and(|status| !status.is_learner) {
        for right in rights {
            let begun = Instant::now();
            let answer = match &right.access {
                Access::ReadBelow(prefix) => read(&members, prefix).await,
                Access::Write(key) => write(&members, key).await,
            };
            asked.push((right.clone(), answer.map(|()| begun.elapsed())));
        }
    }
    Ok(MemberAnswers {
        endpoint: endpoint.to_owned(),
        status: answer,
        login: user.map(|user| (user, Ok(()))),
        rights: asked,
        clock_ahead,
    })
}

async fn status(members: &Members) -> Result<MemberStatus, EtcdError> {
    let answer = members.call(|mut client| async move { client.status().await });
    Ok(read_status(&answer.await?))
}

fn read_status(answer: &StatusResponse) -> MemberStatus {
    MemberStatus {
        version: answer.version().to_owned(),
        cluster: answer.header().map_or(0, |header| header.cluster_id()),
        has_leader: answer.leader() != 0,
        is_learner: answer.is_learner(),
        errors: answer.errors().to_vec(),
    }
}

async fn read(members: &Members, prefix: &str) -> Result<(), EtcdError> {
    let answer = members.call(|mut client| {
        let options = GetOptions::new()
            .with_prefix()
            .with_limit(1)
            .with_keys_only();
        async move { client.get(prefix, Some(options)).await }
    });
    answer.await.map(drop)
}

/// A transaction that etcd carries out, and that changes nothing: `create_revision < 0` is true of no key, for one that is
/// missing has 0, and so its delete is never done. etcd checks the rights of both branches and of the comparison before it
/// compares anything (`checkTxnAuth` in etcd 3.5's `server/etcdserver/apply_auth.go`), and a delete takes the same right as a
/// put. Unlike a put it is taken while the alarm NOSPACE is raised, so that the right can be told then, too.
async fn write(members: &Members, key: &str) -> Result<(), EtcdError> {
    let answer = members.call(|mut client| {
        let never = Compare::create_revision(key, CompareOp::Less, 0);
        let txn = Txn::new()
            .when([never])
            .and_then([TxnOp::delete(key, None)]);
        async move { client.txn(txn).await }
    });
    match answer.await?.succeeded() {
        false => Ok(()),
        true => Err(EtcdError::Refused(
            "it takes a create_revision below 0 for true, and so is no etcd".to_owned(),
        )),
    }
}

/// By how many seconds the member's clock is ahead of ours, give or take half a second: gRPC carries no time, but the
/// answer to `GET /version` on the same port does, unless it is TLS, or etcd serves HTTP elsewhere
/// (`--listen-client-http-urls`).
async fn clock_ahead(endpoint: &str) -> Option<f64> {
    let authority = endpoint.strip_prefix("http://")?;
    let date = timeout(CALL_DEADLINE, date(authority)).await.ok()?.ok()?;
    let theirs = OffsetDateTime::parse(&date, &Rfc2822)
        .ok()?
        .unix_timestamp();
    let ours = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    // Its fraction is cut off.
    let theirs = i32::try_from(theirs.saturating_sub(i64::try_from(ours.as_secs()).ok()?)).ok()?;
    Some(f64::from(theirs) + 0.5 - f64::from(ours.subsec_millis()) / 1000.0)
}

async fn date(authority: &str) -> anyhow::Result<String> {
    let stream = TcpStream::connect(authority).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get("/version")
        .header(HOST, authority)
        .body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let date = response.headers().get(DATE).context("no date")?;
        anyhow::Ok(date.to_str()?.to_owned())
    };
    // The sender is dropped with the exchange, and the connection ends with it.
    let connection = std::pin::pin!(connection);
    // Cancel-safe: whichever ends first ends the other.
    tokio::select! {
        date = exchange => date,
        ended = connection => anyhow::bail!("the connection ended: {ended:?}"),
    }
}
