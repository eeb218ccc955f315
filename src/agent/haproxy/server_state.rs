//! `show servers state`: what HAProxy says of its servers. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// A server as `show servers state` has it (HAProxy's management guide, version 1 of the format).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerState {
    /// `None` if HAProxy has none, as for a name that was never resolved.
    pub address: Option<SocketAddr>,
    /// `srv_admin_state`, a mask.
    pub admin: u32,
    /// `srv_uweight`; 0 takes no new connections.
    pub weight: u32,
    /// `srv_check_state`, a mask.
    pub check: u32,
    /// HAProxy's health check has it down: `srv_op_state` is "stopped", and not for maintenance.
    pub down: bool,
    /// For how many seconds it has been up or down: `srv_time_since_last_change`, which grows each second.
    pub since: u64,
}

/// `srv_op_state` of a server that takes no connections.
const STOPPED: u32 = 0;

/// Forced or inherited maintenance, by whatever cause: FMAINT, IMAINT, CMAINT, RMAINT.
pub(crate) const MAINTENANCE: u32 = 0x01 | 0x02 | 0x04 | 0x20;
/// Forced drain.
pub(crate) const DRAIN: u32 = 0x08;
/// The health check is on.
pub(crate) const CHECKED: u32 = 0x04;

/// All servers, by backend and name as HAProxy has them.
pub type RunningServers = BTreeMap<String, BTreeMap<String, ServerState>>;

/// `show servers state` cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("HAProxy's list of servers can't be read: {0}")]
pub struct UnreadableState(String);

/// Reads `show servers state`. Columns are found by their names: versions add some.
///
/// # Errors
/// It isn't version 1, or it is cut off.
pub fn parse_state(text: &str) -> Result<RunningServers, UnreadableState> {
    // Every reply ends with an empty line; half a list would look like servers that are missing.
    if !text.ends_with("\n\n") {
        return Err(UnreadableState("it is cut off".to_owned()));
    }
    let mut lines = text.lines().filter(|line| !line.is_empty());
    match lines.next() {
        Some("1") => {}
        other => {
            return Err(UnreadableState(format!(
                "it begins with {:?}",
                other.unwrap_or_default()
            )));
        }
    }
    let header = lines.next().and_then(|line| line.strip_prefix("# "));
    let header: Vec<_> = header.unwrap_or_default().split(' ').collect();
    let column = |name: &str| {
        let found = header.iter().position(|column| *column == name);
        found.ok_or_else(|| UnreadableState(format!("it has no column {name}")))
    };
    let (backend, name) = (column("be_name")?, column("srv_name")?);
    let (address, port) = (column("srv_addr")?, column("srv_port")?);
    let (admin, weight, check) = (
        column("srv_admin_state")?,
        column("srv_uweight")?,
        column("srv_check_state")?,
    );
    let (operational, since) = (
        column("srv_op_state")?,
        column("srv_time_since_last_change")?,
    );
    let (mut running, mut columns) = (RunningServers::new(), Vec::new());
    for line in lines.filter(|line| !line.starts_with('#')) {
        columns.clear();
        columns.extend(line.split(' '));
        let text = |index: usize| {
            let cut = || UnreadableState(format!("it is cut off at {line:?}"));
            columns.get(index).copied().ok_or_else(cut)
        };
        let number = |index| {
            let text = text(index)?;
            let unreadable = |_| UnreadableState(format!("{text:?} is no number in {line:?}"));
            text.parse::<u32>().map_err(unreadable)
        };
        let admin = number(admin)?;
        let ip = text(address)?.parse::<IpAddr>().ok();
        let live = ServerState {
            address: ip.zip(text(port)?.parse().ok()).map(SocketAddr::from),
            admin,
            weight: number(weight)?,
            check: number(check)?,
            down: number(operational)? == STOPPED && admin & MAINTENANCE == 0,
            since: number(since)?.into(),
        };
        let (backend, name) = (text(backend)?, text(name)?.to_owned());
        match running.get_mut(backend) {
            Some(servers) => drop(servers.insert(name, live)),
            None => drop(running.insert(backend.to_owned(), BTreeMap::from([(name, live)]))),
        }
    }
    Ok(running)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::fake_haproxy::HEADER;
    use proptest::prelude::*;

    #[test]
    fn a_real_reply_is_read() {
        let text = format!(
            "{HEADER}3 good 2 x 127.0.0.1 2 8 0 1 0 1 0 3 6 0 0 0 - 7001 - 0 0 - - 0\n3 good 3 n - 0 32 1 1 0 1 0 3 6 0 0 0 db1 0 - 0 0 - - 0\n3 good 4 out 127.0.0.1 0 0 1 1 7 8 2 0 6 0 0 0 - 7002 - 0 0 - - 0\n\n"
        );
        let running = parse_state(&text).unwrap();
        let expected = ServerState {
            address: "127.0.0.1:7001".parse().ok(),
            admin: 8,
            weight: 0,
            check: 6,
            down: false,
            since: 0,
        };
        assert_eq!(running["good"]["x"], expected);
        assert_eq!(running["good"]["n"].address, None);
        assert!(!running["good"]["n"].down, "maintenance is no failed check");
        assert!(running["good"]["out"].down);
        assert_eq!(running["good"]["out"].since, 7);
        for cut in [
            &text[..text.len() - 60],
            "",
            "2\n\n",
            "Unknown command\n\n",
            "1\n# be_id be_name\n\n",
        ] {
            assert!(parse_state(cut).is_err(), "{cut}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_replies_never_panic(text in "\\PC*") {
            let _ = parse_state(&text);
            let _ = parse_state(&format!("{HEADER}{text}"));
        }
    }
}
