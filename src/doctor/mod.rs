//! `sidekick doctor`: what is wrong with this machine, and what to do. Writes nothing.
//!
//! Each part has a file of judgement, pure, and where it needs one a thin probe that asks. The engine's calls are made
//! where its client is, in `announce/docker/calls.rs`.

mod config;
mod engine;
mod etcd;
mod haproxy;
mod report;
mod units;
mod version;

pub use config::{DoctorArgs, DoctorConfig, DoctorFormat, DoctorJob};
pub use report::{DoctorReport, Finding, Grade};

use crate::announce::AnnounceConfig;
use crate::announce::docker::calls;
use crate::announce::docker::client::DockerHost;
use crate::announce::docker::events::WatchScope;
use crate::announce::policy::target::Target;
use config::ANY_CONTAINER;
use report::Subject;
use std::os::unix::fs::MetadataExt;
use units::UnitsAsked;

/// Asks everything side by side; each question has a deadline of its own.
///
/// # Errors
/// A password that is no UTF-8.
pub async fn run(config: &DoctorConfig) -> anyhow::Result<DoctorReport> {
    let (engine, etcd, haproxy, units) = tokio::join!(
        ask_engine(config),
        ask_etcd(config),
        ask_haproxy(config),
        units::ask(),
    );
    let environment = Subject::new("environment");
    let ignored = config.ignored_variables.iter();
    let mut findings: Vec<_> = ignored
        .map(|line| {
            environment.warn(
                "variables",
                line,
                "unset it where it is not meant for others",
            )
        })
        .collect();
    findings.extend(engine);
    findings.extend(etcd?);
    findings.extend(haproxy);
    let asked = UnitsAsked {
        announce: config.announce.as_ref().map(|it| (container(it), it.drain)),
        agent: config.agent.is_some(),
    };
    findings.extend(units::judge(&units, asked));
    Ok(DoctorReport(findings))
}

/// The container, where one is announced.
fn container(config: &AnnounceConfig) -> Option<&str> {
    match &config.target {
        Target::One { container, .. } => Some(container),
        Target::All { .. } => None,
    }
}

async fn ask_engine(config: &DoctorConfig) -> Vec<Finding> {
    let Some(announce) = &config.announce else {
        return Vec::new();
    };
    let scope = WatchScope::from(&announce.target);
    let answers = calls::ask_each(&announce.docker, &scope, ANY_CONTAINER).await;
    let group = group_of(&announce.docker);
    engine::judge(&announce.docker.to_string(), group.as_deref(), &answers)
}

/// The group of the engine's socket: its name, else its number.
fn group_of(host: &DockerHost) -> Option<String> {
    let DockerHost::Unix(path) = host else {
        return None;
    };
    let gid = std::fs::metadata(path).ok()?.gid().to_string();
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let named = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == gid).then(|| name.to_owned())
    });
    Some(named.unwrap_or(gid))
}

async fn ask_etcd(config: &DoctorConfig) -> anyhow::Result<Vec<Finding>> {
    let announce = config.announce.as_ref().map(|it| &it.etcd);
    let Some(etcd) = announce.or(config.agent.as_ref().map(|it| &it.etcd)) else {
        return Ok(Vec::new());
    };
    let members = etcd::ask_each(etcd, &etcd::rights(config)).await?;
    Ok(etcd::judge(&members, config.announce.is_some()))
}

async fn ask_haproxy(config: &DoctorConfig) -> Vec<Finding> {
    match &config.agent {
        Some(agent) => haproxy::judge(&haproxy::ask(agent).await),
        None => Vec::new(),
    }
}
