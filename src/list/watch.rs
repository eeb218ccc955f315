//! `sidekick list --watch` in a terminal: draws the screen at each change, and each second.

use super::gather::gather;
use super::screen::{Screen, View};
use super::terminal::Terminal;
use super::{ListConfig, take};
use crate::clock::now;
use crate::etcd::members::Members;
use crate::etcd::reader::Update;
use futures_util::stream::{FuturesUnordered, StreamExt};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

/// Between two screens, whatever happens: TTLs run down.
const TICK: Duration = Duration::from_secs(1);

/// The age at which TTLs, HAProxy's states and wishes are read again without a change in etcd.
const REFRESH: Duration = Duration::from_secs(5);

/// Draws until the updates end, or the terminal is gone. When it is dropped the terminal is as it was.
pub(super) async fn run(
    config: &ListConfig,
    members: &Members,
    mut news: mpsc::Receiver<Update>,
    mut terminal: Terminal,
) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut resized = signal(SignalKind::window_change())?;
    let mut stopped = signal(SignalKind::from_raw(Signal::TSTP.as_raw()))?;
    let mut lost = members.unreachable_since();
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut kvs, mut screen) = (BTreeMap::new(), Screen::default());
    // One at a time: what changes meanwhile is read by the next one.
    let mut reads = FuturesUnordered::new();
    let mut is_stale = false;
    loop {
        if is_stale && reads.is_empty() {
            is_stale = false;
            let kvs = kvs.clone();
            reads.push(async move { gather(config, members, &kvs).await });
        }
        // Cancel-safe: channels, signals, an interval and futures in a list lose nothing.
        tokio::select! {
            update = news.recv() => match update {
                Some(update) => {
                    take(&mut kvs, update);
                    is_stale = true;
                    continue;
                }
                None => return Ok(()),
            },
            Some(gathered) = reads.next() => screen.show(gathered, now()),
            _ = tick.tick() => {
                let is_old = screen.is_older_than(REFRESH, now());
                is_stale |= is_old && lost.borrow().is_none();
            }
            Some(()) = resized.recv() => {}
            Ok(()) = lost.changed() => {}
            Some(()) = stopped.recv() => terminal.suspend(),
        }
        let (columns, rows) = Terminal::size();
        let view = View {
            columns,
            rows,
            has_colour: terminal.has_colour,
            title: config.service.as_ref().map_or_else(
                || config.prefix.clone(),
                |service| format!("{}/{service}", config.prefix),
            ),
            etcd_lost: lost.borrow().map(|since| now().saturating_sub(since)),
        };
        if !terminal.draw(&screen.lines(&view, now()))? {
            return Ok(());
        }
    }
}
