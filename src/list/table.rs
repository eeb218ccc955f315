//! The rows of `sidekick list` as a table for a terminal.

use super::Row;
use crate::agent::haproxy::health::ServerHealth;
use crate::endpoint::Protocol;

/// Everything in here is ASCII, so that a column is as wide as its longest text.
pub(super) fn columns(rows: &[Row]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let head = [
        "SERVICE",
        "INSTANCE",
        "ADDRESS",
        "CONTAINER",
        "UP SINCE",
        "STATUS",
        "TTL",
        "HAPROXY",
    ]
    .map(str::to_owned);
    // Where no HAProxy was asked, that column isn't there.
    let shown = if rows.iter().any(|row| row.haproxy.is_some()) {
        8
    } else {
        7
    };
    let lines: Vec<_> = std::iter::once(head)
        .chain(rows.iter().map(cells))
        .collect();
    let width = |column: usize| {
        lines
            .iter()
            .map(|line| line[column].len())
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<_> = (0..shown).map(width).collect();
    let line = |cells: &[String; 8]| {
        let cells: Vec<_> = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        cells.join("  ").trim_end().to_owned() + "\n"
    };
    lines.iter().map(line).collect()
}

fn cells(row: &Row) -> [String; 8] {
    let dash = || "-".to_owned();
    let address = if row.host.contains(':') {
        format!("[{}]:{}", row.host, row.port)
    } else {
        format!("{}:{}", row.host, row.port)
    };
    let address = match row.protocol {
        Protocol::Tcp => address,
        other => format!("{address}/{other}"),
    };
    // Whole seconds are enough for a person.
    let since = row
        .since
        .as_deref()
        .map(|since| match since.split_once('.') {
            Some((seconds, _)) => format!("{seconds}Z"),
            None => since.to_owned(),
        });
    [
        row.service.clone(),
        row.instance.clone(),
        address,
        row.container.clone().unwrap_or_else(dash),
        since.unwrap_or_else(dash),
        row.status.to_owned(),
        row.ttl.map_or_else(dash, |ttl| format!("{ttl}s")),
        row.haproxy
            .as_ref()
            .map_or_else(dash, ServerHealth::to_string),
    ]
}
