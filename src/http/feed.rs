//! The page's content as it changes: rendered once for all who follow it, some times a second at most.

use super::page::{LatestPage, PageView, content};
use super::page_changes::remember;
use hyper::body::{Bytes, Frame};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

/// At most this often the page is rendered: a person can't read faster.
const PACE: Duration = Duration::from_millis(200);

/// A comment at this interval keeps proxies from closing a stream on which nothing happens.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A browser that lost the stream opens it again after so many milliseconds.
const RECONNECT: &str = "retry: 500\n\n";

/// The page's content; its clones share the text.
#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    /// HTML, in one line.
    pub(super) html: Bytes,
}

/// Renders each state of `pages`, for ever.
pub(super) async fn render(
    mut pages: watch::Receiver<LatestPage>,
    contents: watch::Sender<Content>,
) {
    let (mut before, mut changes): (Option<PageView>, _) = (None, VecDeque::new());
    loop {
        let page = pages.borrow_and_update().clone();
        let view = page.view();
        drop(page);
        let at = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        if before.as_ref() != Some(&view) {
            // What the page begins with is no change.
            if let Some(before) = &before {
                remember(&mut changes, before, &view, &at);
            }
            let html = Bytes::from(content(&view, &changes));
            contents.send_replace(Content { html });
            before = Some(view);
        }
        sleep(PACE).await;
        if pages.changed().await.is_err() {
            // The job ends, and the process with it.
            return std::future::pending().await;
        }
    }
}

/// Who follows the page.
struct Follower {
    contents: watch::Receiver<Content>,
    /// Nothing was sent yet.
    is_new: bool,
    ends: Instant,
}

/// The contents as server-sent events (<https://html.spec.whatwg.org/multipage/server-sent-events.html>), the latest one at
/// once, until `ends`. A reader that is slow misses contents, and nothing piles up for it.
pub(super) fn events(
    contents: watch::Receiver<Content>,
    ends: Instant,
) -> impl futures_util::Stream<Item = Result<Frame<Bytes>, Infallible>> {
    let follower = Follower {
        contents,
        is_new: true,
        ends,
    };
    futures_util::stream::unfold(follower, |mut it| async move {
        let text = it.next().await?;
        Some((Ok(Frame::data(text)), it))
    })
}

impl Follower {
    async fn next(&mut self) -> Option<Bytes> {
        let begins = std::mem::take(&mut self.is_new);
        if !begins {
            // Cancel-safe: a watch channel keeps its mark, a sleep has no effect.
            tokio::select! {
                changed = self.contents.changed() => changed.ok()?,
                () = sleep(KEEP_ALIVE) => return Some(Bytes::from_static(b": \n\n")),
                () = sleep_until(self.ends) => return None,
            }
        }
        let html = self.contents.borrow_and_update().html.clone();
        let lead = if begins { RECONNECT } else { "" };
        let mut event = Vec::with_capacity(html.len() + 64);
        event.extend_from_slice(lead.as_bytes());
        event.extend_from_slice(b"event: content\ndata: ");
        event.extend_from_slice(&html);
        event.extend_from_slice(b"\n\n");
        Some(Bytes::from(event))
    }
}
