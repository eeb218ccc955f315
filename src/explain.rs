//! `sidekick explain`: prints the decision that `announce` would act on. Writes nothing to etcd.

mod config;
mod wishes;

pub use config::{ExplainArgs, ExplainConfig};

use crate::announce::docker::client;
use crate::announce::lease::ownership::{Holder, Precedence, precedence_of};
use crate::announce::lease::protocol::DesiredKeys;
use crate::announce::policy::claims::{Claim, Evaluation, Evaluator, Target, assign_keys};
use crate::announce::policy::container::{ContainerView, Observation};
use crate::announce::policy::eligibility::{Decision, Verdict, judge};
use crate::announce::policy::reason::{Reason, health_words};
use crate::clock::now;
use crate::etcd::members::Members;
use crate::etcd::reader;
use etcd_client::{Client, KeyValue};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use wishes::ReadWishes;

/// The text to print, and whether the container is announceable.
#[derive(Debug)]
pub struct Explanation {
    /// Lines for a person.
    pub text: String,
    /// Whether `announce` would put a key.
    pub announceable: bool,
}

/// Explains one container and its key in etcd, or all containers.
///
/// # Errors
/// Docker doesn't answer. (An etcd that doesn't answer is a line of the explanation.)
pub async fn run(config: &ExplainConfig) -> anyhow::Result<Explanation> {
    match &config.container {
        Some(name) => one(config, name).await,
        None => all(config).await,
    }
}

/// Every container with sidekick labels: how it is announced, or why not.
async fn all(config: &ExplainConfig) -> anyhow::Result<Explanation> {
    let everything = client::look_at_all(&config.docker).await?;
    let target = Target::All {
        prefix: config.prefix.clone(),
    };
    let judge = Evaluator {
        target: &target,
        rules: &config.rules,
        grace: None,
    };
    let (mut text, mut refused) = (String::new(), 0);
    let mut judged = BTreeMap::new();
    for (id, view) in everything.labelled {
        match view {
            // The container was removed after the list.
            Ok(view) if view.observation == Observation::Absent => {}
            Ok(view) => drop(judged.insert(id.clone(), judge.judge(&id, &view, None, now()))),
            Err(error) => {
                refused += 1;
                writeln!(text, "{id}\n  no: {error:#}")?;
            }
        }
    }
    let assignment = assign_keys(&judged, &DesiredKeys::new());
    let kvs = read(config).await;
    let wishes = ReadWishes::read(config, &kvs).await;
    let by_key = kvs.iter().flatten().map(|kv| (kv.key(), kv));
    let by_key: BTreeMap<_, _> = by_key.collect();
    let mut by_name: Vec<_> = judged.iter().collect();
    by_name.sort_by_key(|(_, judged)| &judged.name);
    let count = by_name.len() + refused;
    for (id, judged) in by_name {
        writeln!(text, "{}", judged.name)?;
        let winner = |claim: &Claim| {
            let at = (id.clone(), claim.key.clone());
            assignment.outranked.get(&at).cloned()
        };
        let stands =
            |claim: &Claim, decision: &Decision| match by_key.get(claim.key.as_str().as_bytes()) {
                _ if kvs.is_err() => None,
                Some(kv) => {
                    let words = told(kv, Some(decision)).into_iter();
                    let words: Vec<_> = words.chain(wishes.about(&claim.key)).collect();
                    Some(words.join("; "))
                }
                None => Some("the key does not exist".to_owned()),
            };
        refused += usize::from(!describe_claims(&mut text, judged, winner, stands)?);
    }
    if let Err(error) = &kvs {
        writeln!(text, "{error:#}")?;
    }
    let unlabelled = everything.unlabelled;
    writeln!(
        text,
        "{count} containers with sidekick labels, {} announceable; {unlabelled} without",
        count - refused
    )?;
    Ok(Explanation {
        announceable: refused == 0,
        text,
    })
}

/// Returns whether all of its claims would be announced.
fn describe_claims(
    text: &mut String,
    judged: &Evaluation,
    winner: impl Fn(&Claim) -> Option<String>,
    stands: impl Fn(&Claim, &Decision) -> Option<String>,
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
                let (port, rule) = (decision.container_port, decision.host_source);
                writeln!(text, "  {key}: yes: {endpoint} ({port}; host by {rule})")?;
                if let Some(caveat) = &decision.caveat {
                    writeln!(text, "    warning: {caveat}")?;
                }
                if let Some(words) = stands(claim, decision) {
                    writeln!(text, "    {words}")?;
                }
                continue;
            }
            // Only where Docker doesn't answer, and then there is no view.
            (Verdict::Keep(_), None) => continue,
        };
        all = false;
        writeln!(text, "  {key}: no: {reason}")?;
    }
    Ok(all)
}

async fn one(config: &ExplainConfig, name: &str) -> anyhow::Result<Explanation> {
    let view = client::look(&config.docker, name).await?;
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
        // Only where Docker doesn't answer, and then there is no view.
        Verdict::Keep(_) => None,
    };
    describe_etcd(&mut text, config, &view, decision).await?;
    Ok(Explanation {
        announceable: decision.is_some(),
        text,
    })
}

fn describe_container(text: &mut String, name: &str, view: &ContainerView) -> std::fmt::Result {
    let Observation::Present(container) = &view.observation else {
        return writeln!(text, "{:<12}{name}: not found", "container");
    };
    let since = container
        .started_at
        .map_or_else(|| "never".to_owned(), |s| s.to_string());
    writeln!(
        text,
        "{:<12}{} ({}), started {since}",
        "container",
        container.name,
        container.short_id().as_deref().unwrap_or("no id")
    )?;
    writeln!(text, "{:<12}{}", "health", health_words(&container.health))
}

fn describe_decision(text: &mut String, decision: &Decision) -> std::fmt::Result {
    let Decision {
        endpoint,
        host_source,
        container_port,
        binding,
        caveat,
    } = decision;
    writeln!(text, "{:<12}{} (by {host_source})", "host", endpoint.host)?;
    match binding {
        Some(binding) => writeln!(text, "{:<12}{container_port} → {binding}", "port")?,
        None => writeln!(
            text,
            "{:<12}{container_port}, on the host's own network",
            "port"
        )?,
    }
    writeln!(text, "{:<12}yes: {endpoint}", "announced")?;
    match caveat {
        Some(caveat) => writeln!(text, "{:<12}{caveat}", "warning"),
        None => Ok(()),
    }
}

async fn describe_etcd(
    text: &mut String,
    config: &ExplainConfig,
    view: &ContainerView,
    decision: Option<&Decision>,
) -> anyhow::Result<()> {
    let kvs = read(config).await;
    let wishes = ReadWishes::read(config, &kvs).await;
    let kvs = match kvs {
        Ok(kvs) => kvs,
        Err(error) => return Ok(writeln!(text, "{:<12}{error:#}", "key")?),
    };
    let id = match &view.observation {
        Observation::Present(container) => container.short_id(),
        Observation::Absent | Observation::NeverAsked => None,
    };
    let names_it = |kv: &&KeyValue| {
        config.key.is_some()
            || Holder::of(kv.value()).is_ok_and(|h| h.container == id && id.is_some())
    };
    let mut none = true;
    for kv in kvs.iter().filter(names_it) {
        none = false;
        let key = String::from_utf8_lossy(kv.key());
        let mut words = told(kv, decision).into_iter();
        if let Some(stands) = words.next() {
            writeln!(text, "{:<12}{key}: {stands}", "key")?;
        }
        for outcome in words {
            writeln!(text, "{:<12}{outcome}", "")?;
        }
        if let Some(wish) = key.parse().ok().and_then(|key| wishes.about(&key)) {
            writeln!(text, "{:<12}{wish}", "wish")?;
        }
    }
    match &config.key {
        Some(key) if none => {
            writeln!(text, "{:<12}{key}: the key does not exist", "key")?;
            if let Some(wish) = wishes.about(key) {
                writeln!(text, "{:<12}{wish}", "wish")?;
            }
        }
        None if none => writeln!(
            text,
            "{:<12}no key below {} names the container",
            "key", config.prefix
        )?,
        _ => {}
    }
    Ok(())
}

/// The key that is asked about, or all keys below the prefix.
async fn read(config: &ExplainConfig) -> anyhow::Result<Vec<KeyValue>> {
    let members = Members::new(&config.etcd)?;
    let Some(key) = &config.key else {
        return reader::once(&members, &config.prefix).await;
    };
    let ask = async || {
        let get = |mut client: Client| async move { client.get(key.as_str(), None).await };
        members.call(get).await
    };
    Ok(members.try_each(ask).await?.take_kvs())
}

/// The holder of a key; and, where the container is announceable, what `announce` would do.
fn told(kv: &KeyValue, decision: Option<&Decision>) -> Vec<String> {
    let stands = match Holder::of(kv.value()) {
        Ok(holder) => format!("{holder}, lease {:x}", kv.lease()),
        Err(why) => format!("held by an invalid value: {why}"),
    };
    let outcome = decision.map(|decision| outcome(kv, decision).to_owned());
    [stands].into_iter().chain(outcome).collect()
}

fn outcome(kv: &KeyValue, decision: &Decision) -> &'static str {
    if kv.lease() == 0 {
        return "announce would take it over: it is on no lease";
    }
    if kv.value() == decision.endpoint.encode().as_bytes() {
        return "the key is as desired";
    }
    if kv.value() == decision.endpoint.draining().encode().as_bytes() {
        return "the key is as desired, and draining";
    }
    match precedence_of(&Holder::from(&*decision.endpoint), kv.value(), false) {
        Precedence::Ours | Precedence::TakeOver => "announce would take it over",
        Precedence::StandBy(_) => "announce would stand by: the holder has precedence",
    }
}
