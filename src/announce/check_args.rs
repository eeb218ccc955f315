//! What `announce` and `explain` take of checks.

use super::policy::check_settings::{CheckCount, CheckOptions, CheckTime};
use super::policy::container::{ContainerPort, Protocol};
use super::policy::reason::Reason;
use crate::config::{Checked, duration, wrong};
use clap::Args;

/// What has to answer before a container is announced.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Announce only while the port answers: tcp (it accepts a connection), http:/PATH (it answers a GET with a status from
    /// 200 to 399), redis (it answers a PING, without a password too), or none; repeatable, or several with blanks between
    /// them, all of which have to pass. With --all: where no label sidekick.check says otherwise [default: none]
    #[arg(
        long,
        env = "SIDEKICK_CHECK",
        value_name = "CHECK",
        value_delimiter = ' '
    )]
    pub check: Vec<String>,

    /// From the answer to one check to the next question; a start is asked sooner: after 10 ms, then twice as late each
    /// time [default: 2s]
    #[arg(long, env = "SIDEKICK_CHECK_INTERVAL", value_name = "DURATION")]
    pub check_interval: Option<String>,

    /// How long the answer to a check may take [default: 1s]
    #[arg(long, env = "SIDEKICK_CHECK_TIMEOUT", value_name = "DURATION")]
    pub check_timeout: Option<String>,

    /// So many right answers in a row make a check pass [default: 1]
    #[arg(long, env = "SIDEKICK_RISE", value_name = "N")]
    pub rise: Option<String>,

    /// So many wrong answers in a row make a check fail, and the key go [default: 3]
    #[arg(long, env = "SIDEKICK_FALL", value_name = "N")]
    pub fall: Option<String>,
}

impl CheckArgs {
    /// Checks everything; `port` is the one that the options name.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn options(&self, port: Option<ContainerPort>) -> Checked<CheckOptions> {
        let kinds = match self.check.is_empty() {
            true => None,
            false => Some(self.check.join(" ").parse()),
        };
        let options = CheckOptions {
            kinds: kinds.transpose().map_err(|why| wrong("--check", why))?,
            interval: time("--check-interval", self.check_interval.as_deref())?,
            timeout: time("--check-timeout", self.check_timeout.as_deref())?,
            rise: count("--rise", self.rise.as_deref())?,
            fall: count("--fall", self.fall.as_deref())?,
        };
        let asks = !options.settings().is_empty();
        match port.filter(|port| asks && port.protocol != Protocol::Tcp) {
            Some(port) => Err(wrong("--check", Reason::Uncheckable(port))),
            None => Ok(options),
        }
    }
}

fn time(option: &'static str, text: Option<&str>) -> Checked<Option<CheckTime>> {
    let read = |text| {
        let time = CheckTime::try_from(duration(option, text)?);
        time.map_err(|why| wrong(option, format!("{text:?} {why}")))
    };
    text.map(read).transpose()
}

fn count(option: &'static str, text: Option<&str>) -> Checked<Option<CheckCount>> {
    let read = |text: &str| {
        let count = text.parse();
        count.map_err(|why: String| wrong(option, format!("{text:?} {why}")))
    };
    text.map(read).transpose()
}
