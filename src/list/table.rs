//! The rows of `sidekick list` as a table for a terminal.

use super::Row;
use crate::agent::haproxy::health::ServerHealth;
use crate::endpoint::Protocol;

/// Everything but the last column is ASCII, so that a column is as wide as its longest text.
pub(super) fn columns(rows: &[Row]) -> String {
    let lines = lines(rows);
    lines.into_iter().map(|line| line + "\n").collect()
}

/// The head, and a line for each row; nothing where there are no rows.
pub(super) fn lines(rows: &[Row]) -> Vec<String> {
    if rows.is_empty() {
        return Vec::new();
    }
    // A column that is empty in each row isn't there.
    let optional = Optional {
        haproxy: rows.iter().any(|row| row.haproxy.is_some()),
        wish: rows.iter().any(|row| row.wish.is_some()),
    };
    let mut head = vec![
        "SERVICE",
        "INSTANCE",
        "ADDRESS",
        "CONTAINER",
        "UP SINCE",
        "STATUS",
        "TTL",
    ];
    head.extend(optional.haproxy.then_some("HAPROXY"));
    head.extend(optional.wish.then_some("TO DRAIN"));
    let head: Vec<_> = head.into_iter().map(str::to_owned).collect();
    let cells = rows.iter().map(|row| cells(row, &optional));
    let lines: Vec<_> = std::iter::once(head.clone()).chain(cells).collect();
    let width = |column: usize| {
        lines
            .iter()
            .map(|line| line[column].len())
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<_> = (0..head.len()).map(width).collect();
    let line = |cells: &Vec<String>| {
        let cells: Vec<_> = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        cells.join("  ").trim_end().to_owned()
    };
    lines.iter().map(line).collect()
}

/// Which of the columns are there that not every table has.
struct Optional {
    haproxy: bool,
    wish: bool,
}

fn cells(row: &Row, optional: &Optional) -> Vec<String> {
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
    let haproxy = || {
        row.haproxy
            .as_ref()
            .map_or_else(dash, ServerHealth::to_string)
    };
    let wish = || match &row.wish {
        None => dash(),
        Some(wish) => wish.reason.clone().unwrap_or_else(|| "yes".to_owned()),
    };
    let mut cells = vec![
        row.service.clone(),
        row.instance.clone(),
        address,
        row.container.clone().unwrap_or_else(dash),
        since.unwrap_or_else(dash),
        row.status.to_owned(),
        row.ttl.map_or_else(dash, |ttl| format!("{ttl}s")),
    ];
    cells.extend(optional.haproxy.then(haproxy));
    cells.extend(optional.wish.then(wish));
    cells
}
