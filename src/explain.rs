//! `sidekick explain`: prints the decision that `announce` would act on. Writes nothing to etcd.

mod config;
mod wishes;

pub use config::{ExplainArgs, ExplainConfig};

use crate::announce::docker::client;
use crate::announce::docker::events::WatchScope;
use crate::announce::docker::process::PidfdProbe;
use crate::announce::health::ask;
use crate::announce::lease::ownership::{Holder, Precedence, precedence_of};
use crate::announce::policy::check::{CheckResult, CheckResults};
use crate::announce::policy::claims::{Claim, Evaluation, Evaluator, Outranked, assign_keys};
use crate::announce::policy::container::{ContainerSnapshot, ContainerView};
use crate::announce::policy::eligibility::{Decision, Verdict};
use crate::announce::policy::reason::{Reason, health_words};
use crate::announce::policy::target::Target;
use crate::clock::now;
use crate::endpoint::Key;
use crate::etcd::members::Members;
use crate::etcd::reader;
use etcd_client::{Client, KeyValue};
use futures_util::StreamExt as _;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use wishes::ReadWishes;

/// Checks under way at a time.
const CHECKS_AT_A_TIME: usize = 64;

/// The text to print, and whether the container is announceable.
#[derive(Debug)]
pub struct Explanation {
    /// Lines for a person.
    pub text: String,
    /// Whether `announce` would put a key.
    pub announceable: bool,
}

/// Explains one container, or all with sidekick labels, and what stands at their keys in etcd.
///
/// # Errors
/// Docker doesn't answer. (An etcd that doesn't answer is a line of the explanation.)
pub async fn run(config: &ExplainConfig) -> anyhow::Result<Explanation> {
    let inspected = client::look(&config.docker, &WatchScope::from(&config.target)).await?;
    let mut evaluator = Evaluator {
        target: &config.target,
        rules: &config.rules,
        grace: None,
        checks: &CheckResults::new(),
        check_options: &config.checks,
    };
    let checks = ask_checks(&evaluator, &inspected.views).await;
    evaluator.checks = &checks;
    let count = inspected.views.len();
    let (mut text, mut refused) = (String::new(), 0);
    let mut processes = PidfdProbe::new(&config.docker).await;
    let mut death_sources = BTreeMap::new();
    let mut judged = BTreeMap::new();
    for (id, view) in inspected.views {
        match view {
            Ok(view) => {
                death_sources.extend(processes.source(&view).map(|it| (id.clone(), it)));
                judged.insert(id.clone(), evaluator.judge(&id, &view, None, now()));
            }
            Err(error) => {
                refused += 1;
                writeln!(text, "{id}\n  no: {error:#}")?;
            }
        }
    }
    let kvs = read(config).await;
    let in_etcd = kvs.as_ref().ok().map(|kvs| {
        let by_key = kvs.iter().map(|kv| (kv.key(), kv));
        by_key.collect()
    });
    let explainer = Explainer {
        config,
        wishes: ReadWishes::read(config, &kvs).await,
        outranked: assign_keys(&judged).outranked,
        in_etcd,
    };
    let mut by_name: Vec<_> = judged.iter().collect();
    by_name.sort_by_key(|(_, judged)| &judged.name);
    for (id, judged) in by_name {
        refused += usize::from(!explainer.describe(&mut text, id, judged)?);
        if let Some(source) = death_sources.get(id) {
            writeln!(text, "  its death is known {source}")?;
        }
    }
    if let Err(error) = &kvs {
        writeln!(text, "{error:#}")?;
    }
    if let Some(unlabelled) = inspected.unlabelled {
        let announceable = count - refused;
        let labels = labels_that_count(&config.target);
        writeln!(
            text,
            "{count} containers with {labels}, {announceable} announceable; {unlabelled} without"
        )?;
        for name in inspected.ignored {
            writeln!(text, "{name} asks to be ignored (SERVICE_IGNORE)")?;
        }
    }
    Ok(Explanation {
        announceable: refused == 0,
        text,
    })
}

const fn labels_that_count(target: &Target) -> &'static str {
    match target {
        Target::All {
            registrator: true, ..
        } => "labels of sidekick or registrator",
        _ => "sidekick labels",
    }
}

/// Asks each check once.
async fn ask_checks(
    evaluator: &Evaluator<'_>,
    views: &[(String, anyhow::Result<ContainerView>)],
) -> CheckResults {
    let views = views
        .iter()
        .filter_map(|(id, view)| Some((id, view.as_ref().ok()?)));
    let judged = views.map(|(id, view)| evaluator.judge(id, view, None, now()));
    let targets: Vec<_> = judged
        .flat_map(|it| it.checks().cloned().collect::<Vec<_>>())
        .collect();
    let asked = targets.into_iter().map(|target| async move {
        let result = match ask(&target, &mut None).await {
            Ok(()) => CheckResult::Passing,
            Err(why) => CheckResult::Failing(why),
        };
        (target.subject, result)
    });
    futures_util::stream::iter(asked)
        .buffered(CHECKS_AT_A_TIME)
        .collect()
        .await
}

/// What the explanation of each container needs.
struct Explainer<'a> {
    config: &'a ExplainConfig,
    wishes: ReadWishes,
    outranked: Outranked,
    /// What was read from etcd, by key; `None` where it doesn't answer.
    in_etcd: Option<BTreeMap<&'a [u8], &'a KeyValue>>,
}

impl Explainer<'_> {
    /// Returns whether all of the container's claims would be announced.
    fn describe(
        &self,
        text: &mut String,
        id: &str,
        judged: &Evaluation,
    ) -> Result<bool, std::fmt::Error> {
        write!(text, "{}", judged.name)?;
        if let Some(container) = judged.container() {
            let id = container.short_id();
            let id = id.as_deref().unwrap_or("no id");
            match container.started_at {
                Some(since) => write!(text, " ({id}), started {since}")?,
                None => write!(text, " ({id}), never started")?,
            }
            write!(text, ", health: {}", health_words(&container.health))?;
        }
        writeln!(text)?;
        let claims = match &judged.claims {
            Ok(claims) => claims,
            Err(reason) => {
                writeln!(text, "  no: {reason}")?;
                return Ok(false);
            }
        };
        let mut all = true;
        for claim in claims {
            let winner = self.outranked.get(&(id.to_owned(), claim.key.clone()));
            let decision = match (&claim.verdict, winner) {
                (_, Some(winner)) => Err(claim.why_outranked(winner)),
                (Verdict::Announce(decision), None) => Ok(&**decision),
                (Verdict::Withdraw(reason), None) => Err(reason.clone()),
            };
            all &= decision.is_ok();
            self.describe_claim(text, judged, claim, decision)?;
        }
        Ok(all)
    }

    fn describe_claim(
        &self,
        text: &mut String,
        judged: &Evaluation,
        claim: &Claim,
        decision: Result<&Decision, Reason>,
    ) -> std::fmt::Result {
        match self.config.any_key {
            true => write!(text, "  ")?,
            false => write!(text, "  {}: ", claim.key)?,
        }
        match &decision {
            Err(reason) => writeln!(text, "no: {reason}")?,
            Ok(Decision {
                endpoint,
                host_source,
                container_port,
                binding,
                caveat,
                // Known from events alone.
                stop: _,
            }) => {
                write!(text, "yes: {endpoint} ({container_port}")?;
                match binding {
                    Some(binding) => write!(text, " → {binding}")?,
                    None => write!(text, " on the host's own network")?,
                }
                writeln!(text, "; host by {host_source})")?;
                if let Some(caveat) = caveat {
                    writeln!(text, "    warning: {caveat}")?;
                }
            }
        }
        let Some(in_etcd) = &self.in_etcd else {
            return Ok(());
        };
        let decision = decision.ok();
        if !self.config.any_key {
            match in_etcd.get(claim.key.as_str().as_bytes()) {
                Some(kv) => writeln!(text, "    {}", told(kv, decision))?,
                None => writeln!(text, "    the key does not exist")?,
            }
            return self.describe_wish(text, &claim.key);
        }
        let id = judged.container().and_then(ContainerSnapshot::short_id);
        let mut none = true;
        for kv in in_etcd.values() {
            if Holder::of(kv.value()).is_ok_and(|h| h.container == id && id.is_some()) {
                none = false;
                let key = String::from_utf8_lossy(kv.key());
                writeln!(text, "  {key}: {}", told(kv, decision))?;
                if let Ok(key) = key.parse() {
                    self.describe_wish(text, &key)?;
                }
            }
        }
        match none {
            true => writeln!(
                text,
                "  no key below {} names the container",
                self.config.prefix
            ),
            false => Ok(()),
        }
    }

    fn describe_wish(&self, text: &mut String, key: &Key) -> std::fmt::Result {
        match self.wishes.about(key) {
            Some(wish) => writeln!(text, "    {wish}"),
            None => Ok(()),
        }
    }
}

/// The key that is asked about, or all keys below the prefix.
async fn read(config: &ExplainConfig) -> anyhow::Result<Vec<KeyValue>> {
    let members = Members::new(&config.etcd)?;
    let key = match &config.target {
        Target::One { key, .. } if !config.any_key => key,
        Target::One { .. } | Target::All { .. } => {
            return reader::once(&members, &config.prefix).await;
        }
    };
    let ask = async || {
        let get = |mut client: Client| async move { client.get(key.as_str(), None).await };
        members.call(get).await
    };
    Ok(members.try_each(ask).await?.take_kvs())
}

/// The holder of a key; and, where the container is announceable, what `announce` would do.
fn told(kv: &KeyValue, decision: Option<&Decision>) -> String {
    let stands = match Holder::of(kv.value()) {
        Ok(holder) => format!("{holder}, lease {:x}", kv.lease()),
        Err(why) => format!("held by an invalid value: {why}"),
    };
    match decision {
        Some(decision) => format!("{stands}; {}", outcome(kv, decision)),
        None => stands,
    }
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
