//! A watch that is open for ever: reopened on the next member whenever it breaks.

use super::Fault;
use super::members::Members;
use crate::backoff::{Backoff, ETCD};
use etcd_client::{Error, EventType, KeyValue, WatchOptions, WatchStream};
use std::sync::Arc;
use tokio::sync::mpsc;
use tracing::{debug, warn};

/// What to watch.
#[derive(Debug, Clone)]
pub enum Target {
    /// One key.
    Key(String),
    /// Every key that begins so.
    Prefix(String),
}

/// What a watch tells.
#[derive(Debug)]
pub enum News {
    /// It runs (again): what happened before has to be read.
    Opened,
    /// A key was put.
    Put(KeyValue),
    /// A key was deleted, at that store revision.
    Deleted(Vec<u8>, i64),
}

/// Watches `target` from now on and tells `news`; ends only when nobody listens any more.
///
/// Between an interruption and [`News::Opened`] events are lost: the listener reads after it.
pub async fn follow(members: Arc<Members>, target: Target, news: mpsc::Sender<News>) {
    let mut changes = members.changes();
    let mut backoff = Backoff::new(ETCD);
    let mut refused = false;
    loop {
        let generation = *changes.borrow_and_update();
        let fault = match open(&members, &target).await {
            Ok(mut stream) => {
                backoff.reset();
                refused = false;
                if news.send(News::Opened).await.is_err() {
                    return;
                }
                loop {
                    // Both are cancel-safe: a stream keeps a half-read message, a watch channel
                    // its mark. (A message that is ready loses nothing by being read after a change.)
                    tokio::select! {
                        _ = changes.changed() => break None,
                        message = stream.message() => match deliver(message, &news).await {
                            Ok(true) => {}
                            Ok(false) => return,
                            Err(fault) => break Some(fault),
                        },
                    }
                }
            }
            Err(fault) => Some(fault),
        };
        let Some(fault) = fault else { continue };
        if fault.is_the_members() {
            debug!("watch: {fault}");
            members.failed(generation, &fault);
        } else if !refused {
            // Once, not at every try: the calls beside it tell how long it goes on.
            refused = true;
            warn!("etcd watch: {fault}; retrying");
        }
        tokio::time::sleep(backoff.next_pause(fastrand::f64())).await;
    }
}

/// Opens the watch and waits until etcd says that it runs.
async fn open(members: &Members, target: &Target) -> Result<WatchStream, Fault> {
    members
        .call(|mut client| async move {
            let (key, options) = match target {
                Target::Key(key) => (key, WatchOptions::new()),
                Target::Prefix(prefix) => (prefix, WatchOptions::new().with_prefix()),
            };
            let mut stream = client.watch(key.as_str(), Some(options)).await?;
            let closed = || Error::WatchError("the stream closed at once".to_owned());
            let first = stream.message().await?.ok_or_else(closed)?;
            // A refusal has both flags set.
            if first.canceled() {
                return Err(Error::WatchError(first.cancel_reason().to_owned()));
            }
            Ok(stream)
        })
        .await
}

/// Passes one message on; `false` when nobody listens any more.
async fn deliver(
    message: Result<Option<etcd_client::WatchResponse>, Error>,
    news: &mpsc::Sender<News>,
) -> Result<bool, Fault> {
    let Some(message) = message? else {
        return Err(Fault::Unreachable("the watch's stream ended".to_owned()));
    };
    if message.canceled() {
        let reason = message.cancel_reason().to_owned();
        return Err(Error::WatchError(reason).into());
    }
    for event in message.events() {
        let Some(kv) = event.kv() else { continue };
        let item = match event.event_type() {
            EventType::Put => News::Put(kv.clone()),
            EventType::Delete => News::Deleted(kv.key().to_vec(), kv.mod_revision()),
        };
        if news.send(item).await.is_err() {
            return Ok(false);
        }
    }
    Ok(true)
}
