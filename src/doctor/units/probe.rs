//! Asks systemd for its units, and reads the files of their environment. Changes nothing.

use super::{PROPERTIES, Unit};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;
use tokio::time::timeout;

/// There while systemd runs (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";

/// systemd shows a thousand units in a fraction of a second.
const DEADLINE: Duration = Duration::from_secs(5);

/// What systemd says.
#[derive(Debug)]
pub(in crate::doctor) enum Units {
    /// It does not run here.
    NoSystemd,
    /// It can't be asked, and why.
    Unreadable(String),
    /// All services that are loaded, and by path the files of the environment of those that run sidekick, as far as they
    /// can be read.
    Shown(Vec<Unit>, BTreeMap<String, String>),
}

/// Asks for all services that are loaded.
pub(in crate::doctor) async fn ask() -> Units {
    if !Path::new(BOOTED).is_dir() {
        return Units::NoSystemd;
    }
    let mut systemctl = Command::new("systemctl");
    systemctl
        .args(["show", "--no-pager", "--property", PROPERTIES])
        .args(["--", "*.service"])
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = match timeout(DEADLINE, systemctl.output()).await {
        Ok(Ok(output)) if output.status.success() => output,
        Ok(Ok(output)) => {
            return Units::Unreadable(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        Ok(Err(error)) => return Units::Unreadable(error.to_string()),
        Err(_) => {
            return Units::Unreadable(format!("no answer within {} s", DEADLINE.as_secs()));
        }
    };
    let units = Unit::all(&String::from_utf8_lossy(&output.stdout));
    let files = units
        .iter()
        .filter(|unit| unit.runs_sidekick())
        .flat_map(Unit::environment_files);
    let texts =
        files.filter_map(|file| Some((file.to_owned(), std::fs::read_to_string(file).ok()?)));
    let texts = texts.collect();
    Units::Shown(units, texts)
}
