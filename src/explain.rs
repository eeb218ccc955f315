//! `sidekick explain`: the same decision as announcing, told to a person. Writes nothing to etcd.

use crate::announce::claims::{Claim, Judge, Judged, Target, settle};
use crate::announce::container::{Sighting, View};
use crate::announce::docker;
use crate::announce::exchange::Wishes;
use crate::announce::ownership::{Holder, Verdict as Contest, contest};
use crate::announce::rules::{Decision, Reason, Verdict, health_words, judge};
use crate::clock::now;
use crate::config::ExplainConfig;
use crate::etcd::members::Members;
use etcd_client::{GetOptions, KeyValue};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What to print, and whether the container is announceable.
#[derive(Debug)]
pub struct Explanation {
    /// Lines for a person.
    pub text: String,
    /// Whether `announce` would put a key.
    pub announceable: bool,
}

/// Looks at one container and at what stands in etcd, or at all containers.
///
/// # Errors
/// Docker can't be asked. (An etcd that can't be asked is a line of the explanation.)
pub async fn run(config: &ExplainConfig) -> anyhow::Result<Explanation> {
    match &config.container {
        Some(name) => one(config, name).await,
        None => all(config).await,
    }
}

/// Every container with labels of ours: how it is announced, or why not.
async fn all(config: &ExplainConfig) -> anyhow::Result<Explanation> {
    let everything = docker::look_at_all(&config.docker).await?;
    let target = Target::All {
        prefix: config.prefix.clone(),
    };
    let judge = Judge {
        target: &target,
        rules: &config.rules,
        grace: None,
    };
    let (mut text, mut refused) = (String::new(), 0);
    let mut judged = BTreeMap::new();
    for (id, view) in everything.labelled {
        match view {
            // It went while we looked.
            Ok(view) if view.sighting == Sighting::Absent => {}
            Ok(view) => drop(judged.insert(id.clone(), judge.judge(&id, &view, None, now()))),
            Err(error) => {
                refused += 1;
                writeln!(text, "{id}\n  no: {error:#}")?;
            }
        }
    }
    let settlement = settle(&judged, &Wishes::new());
    let mut by_name: Vec<_> = judged.iter().collect();
    by_name.sort_by_key(|(_, judged)| &judged.name);
    let count = by_name.len() + refused;
    for (id, judged) in by_name {
        writeln!(text, "{}", judged.name)?;
        let winner = |claim: &Claim| {
            let at = (id.clone(), claim.key.clone());
            settlement.outranked.get(&at).cloned()
        };
        refused += usize::from(!describe_claims(&mut text, judged, winner)?);
    }
    let unlabelled = everything.unlabelled;
    writeln!(
        text,
        "{count} containers with labels of sidekick's, {} announceable; {unlabelled} without",
        count - refused
    )?;
    Ok(Explanation {
        announceable: refused == 0,
        text,
    })
}

/// Returns whether all that it claims would be announced.
fn describe_claims(
    text: &mut String,
    judged: &Judged,
    winner: impl Fn(&Claim) -> Option<String>,
) -> Result<bool, std::fmt::Error> {
    if let Some(reason) = &judged.refused {
        writeln!(text, "  no: {reason}")?;
        return Ok(false);
    }
    let mut all = true;
    for claim in &judged.claims {
        let key = &claim.key;
        let reason = match (&claim.verdict, winner(claim)) {
            (Verdict::Withdraw(reason), _) => reason.clone(),
            (_, Some(winner)) => Reason::Outranked {
                key: key.clone(),
                winner,
            },
            (Verdict::Announce(decision), None) => {
                let endpoint = &decision.endpoint;
                let (port, rule) = (decision.container_port, decision.host_rule);
                writeln!(text, "  {key}: yes: {endpoint} ({port}; host by {rule})")?;
                continue;
            }
            // Only where Docker can't be asked, and then there is no view.
            (Verdict::Keep(_), None) => continue,
        };
        all = false;
        writeln!(text, "  {key}: no: {reason}")?;
    }
    Ok(all)
}

async fn one(config: &ExplainConfig, name: &str) -> anyhow::Result<Explanation> {
    let view = docker::look(&config.docker, name).await?;
    let verdict = judge(name, &view, &config.rules, None, now());
    let mut text = String::new();
    describe_container(&mut text, name, &view)?;
    let decision = match &verdict {
        Verdict::Announce(decision) => {
            describe_decision(&mut text, decision)?;
            Some(&**decision)
        }
        Verdict::Withdraw(reason) => {
            writeln!(text, "{:<12}no: {reason}", "announced")?;
            None
        }
        // Only where Docker can't be asked, and then there is no view.
        Verdict::Keep(_) => None,
    };
    describe_etcd(&mut text, config, &view, decision).await?;
    Ok(Explanation {
        announceable: decision.is_some(),
        text,
    })
}

fn describe_container(text: &mut String, name: &str, view: &View) -> std::fmt::Result {
    let Sighting::Present(container) = &view.sighting else {
        return writeln!(text, "{:<12}{name}: there is none", "container");
    };
    let since = container
        .started_at
        .map_or_else(|| "never".to_owned(), |s| s.to_string());
    writeln!(
        text,
        "{:<12}{} ({}), started {since}",
        "container",
        container.name,
        container.short_id()
    )?;
    writeln!(text, "{:<12}{}", "health", health_words(&container.health))
}

fn describe_decision(text: &mut String, decision: &Decision) -> std::fmt::Result {
    let Decision {
        endpoint,
        host_rule,
        container_port,
        binding,
    } = decision;
    writeln!(text, "{:<12}{} (by {host_rule})", "host", endpoint.host)?;
    match binding {
        Some(binding) => writeln!(text, "{:<12}{container_port} → {binding}", "port")?,
        None => writeln!(
            text,
            "{:<12}{container_port}, on the host's own network",
            "port"
        )?,
    }
    writeln!(text, "{:<12}yes: {endpoint}", "announced")
}

async fn describe_etcd(
    text: &mut String,
    config: &ExplainConfig,
    view: &View,
    decision: Option<&Decision>,
) -> anyhow::Result<()> {
    let members = Members::new(&config.etcd)?;
    let (key, options) = match &config.key {
        Some(key) => (key.to_string(), GetOptions::new()),
        None => (
            format!("{}/", config.prefix),
            GetOptions::new().with_prefix(),
        ),
    };
    let ask = async || {
        members
            .call(|mut client| {
                let (key, options) = (key.clone(), options.clone());
                async move { client.get(key, Some(options)).await }
            })
            .await
    };
    let answer = match members.try_each(ask).await {
        Ok(answer) => answer,
        Err(error) => return Ok(writeln!(text, "{:<12}{error:#}", "key")?),
    };
    let id = match &view.sighting {
        Sighting::Present(container) => Some(container.short_id()),
        Sighting::Absent | Sighting::NeverAsked => None,
    };
    let names_it = |kv: &&KeyValue| {
        config.key.is_some()
            || Holder::of(kv.value()).is_ok_and(|h| h.container == id && id.is_some())
    };
    let mut none = true;
    for kv in answer.kvs().iter().filter(names_it) {
        none = false;
        describe_key(text, kv, decision)?;
    }
    match &config.key {
        Some(key) if none => writeln!(text, "{:<12}{key}: nothing stands there", "key")?,
        None if none => writeln!(text, "{:<12}no key below {} names it", "key", config.prefix)?,
        _ => {}
    }
    Ok(())
}

fn describe_key(text: &mut String, kv: &KeyValue, decision: Option<&Decision>) -> std::fmt::Result {
    let key = String::from_utf8_lossy(kv.key());
    match Holder::of(kv.value()) {
        Ok(holder) => writeln!(text, "{:<12}{key}: {holder}, lease {:x}", "key", kv.lease())?,
        Err(why) => writeln!(text, "{:<12}{key}: held by a bad value: {why}", "key")?,
    }
    let Some(decision) = decision else {
        return Ok(());
    };
    let wanted = decision.endpoint.encode();
    let outcome = if kv.lease() == 0 {
        "announce would take it over: it is on no lease".to_owned()
    } else if kv.value() == wanted.as_bytes() {
        "stands as it should".to_owned()
    } else {
        match contest(&Holder::from(&*decision.endpoint), kv.value(), false) {
            Contest::Ours | Contest::TakeOver => "announce would take it over".to_owned(),
            Contest::StandBy(_) => {
                "announce would stand by: the holder has the better right".to_owned()
            }
        }
    };
    writeln!(text, "{:<12}{outcome}", "")
}
