//! A watch's stream: how it is opened, and what a message says.

use super::EtcdError;
use super::members::Members;
use etcd_client::{Error, Event, EventType, KeyValue, WatchOptions, WatchResponse, WatchStream};

/// The largest message that is taken. etcd's own limit for a value is 1.5 MiB, so that a page of
/// such values has to be asked for in smaller pages.
pub(super) const LARGEST_MESSAGE: usize = 16 << 20;

/// One change of one key.
#[derive(Debug)]
pub enum Change {
    /// It was put.
    Put(KeyValue),
    /// It was deleted.
    Deleted(Vec<u8>),
}

impl Change {
    /// What an event says, and at which store revision it happened; `None` for an event without a key.
    pub(super) fn of(event: &Event) -> Option<(Self, i64)> {
        let kv = event.kv()?;
        let change = match event.event_type() {
            EventType::Put => Self::Put(kv.clone()),
            EventType::Delete => Self::Deleted(kv.key().to_vec()),
        };
        Some((change, kv.mod_revision()))
    }
}

/// Opens a stream with its first watch, and waits until etcd says that it runs. Returns the watch's id, too.
pub(super) async fn open(
    members: &Members,
    key: &str,
    options: Option<WatchOptions>,
) -> Result<(WatchStream, i64), EtcdError> {
    members
        .call(|client| {
            let mut client = client
                .watch_client()
                .max_decoding_message_size(LARGEST_MESSAGE);
            let options = options.clone();
            async move {
                let mut stream = client.watch(key, options).await?;
                let closed = || Error::WatchError("the stream closed at once".to_owned());
                let first = stream.message().await?.ok_or_else(closed)?;
                // A refusal has both flags set; one for a compaction may name no reason.
                if first.canceled() {
                    return Err(Error::WatchError(first.cancel_reason().to_owned()));
                }
                Ok((stream, first.watch_id()))
            }
        })
        .await
}

/// A message, unless the stream has ended.
pub(super) fn received(
    message: Result<Option<WatchResponse>, Error>,
) -> Result<WatchResponse, EtcdError> {
    let ended = || EtcdError::Unreachable("the watch's stream ended".to_owned());
    message?.ok_or_else(ended)
}

/// Why etcd cancelled a watch.
pub(super) fn cancelled(message: &WatchResponse) -> EtcdError {
    Error::WatchError(message.cancel_reason().to_owned()).into()
}
