//! What `/metrics` is made of: counters and histograms that the jobs hold, and values that are read at the scrape.
//!
//! Names follow <https://prometheus.io/docs/practices/naming/>: base units, `_total` for counters. A moment is told as
//! a Unix timestamp and not as an age (<https://prometheus.io/docs/practices/instrumentation/>, "Timestamps, not time
//! since"). No label has values that grow: no service, no instance, no container.

use crate::etcd::members::Members;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The buckets of all histograms, in seconds: from a command that HAProxy takes in its stride to an outage that a lease
/// does not survive.
const BUCKETS: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];

/// A histogram of durations.
#[must_use]
pub fn durations() -> Histogram {
    Histogram::new(BUCKETS)
}

/// Notes how long something took.
pub fn observe(histogram: &Histogram, took: Duration) {
    histogram.observe(took.as_secs_f64());
}

/// The value of a label, with the label's name.
pub type Label = (&'static str, String);

/// A value that is read at the scrape.
#[derive(Debug, Clone)]
pub struct Reading {
    /// The name without `_total`.
    pub name: &'static str,
    /// In one sentence, without its full stop.
    pub help: &'static str,
    /// The values, each with its label.
    pub values: Values,
}

/// The values of one family.
#[derive(Debug, Clone)]
pub enum Values {
    /// It goes up and down.
    Gauge(f64),
    /// It counts from the process's start.
    Counter(u64),
    /// Gauges that one label tells apart.
    Gauges(Vec<(Label, f64)>),
    /// Counters that one label tells apart.
    Counters(Vec<(Label, u64)>),
}

/// Shorthand for a count.
#[must_use]
pub fn gauge(name: &'static str, help: &'static str, count: usize) -> Reading {
    // No count here comes near 2^53.
    #[allow(clippy::cast_precision_loss)]
    let values = Values::Gauge(count as f64);
    Reading { name, help, values }
}

/// Shorthand for what is true or not: 1 or 0.
#[must_use]
pub fn flag(name: &'static str, help: &'static str, holds: bool) -> Reading {
    gauge(name, help, usize::from(holds))
}

/// Shorthand for a counter.
#[must_use]
pub const fn counter(name: &'static str, help: &'static str, count: u64) -> Reading {
    let values = Values::Counter(count);
    Reading { name, help, values }
}

/// Reads its values at each scrape.
struct Readings<F>(F);

impl<F> fmt::Debug for Readings<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Readings")
    }
}

impl<F: Fn() -> Vec<Reading> + Send + Sync + 'static> Collector for Readings<F> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for Reading { name, help, values } in self.0() {
            let kind = match values {
                Values::Gauge(_) | Values::Gauges(_) => MetricType::Gauge,
                Values::Counter(_) | Values::Counters(_) => MetricType::Counter,
            };
            let help = format!("{help}.");
            let mut family = encoder.encode_descriptor(name, &help, None, kind)?;
            match values {
                Values::Gauge(value) => ConstGauge::new(value).encode(family)?,
                Values::Counter(count) => ConstCounter::new(count).encode(family)?,
                Values::Gauges(values) => {
                    for (label, value) in values {
                        let one = [label];
                        ConstGauge::new(value).encode(family.encode_family(&one)?)?;
                    }
                }
                Values::Counters(values) => {
                    for (label, count) in values {
                        let one = [label];
                        ConstCounter::new(count).encode(family.encode_family(&one)?)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Has `read` called at each scrape, in the listener's thread.
pub fn read_at_scrape(
    registry: &mut Registry,
    read: impl Fn() -> Vec<Reading> + Send + Sync + 'static,
) {
    registry.register_collector(Box::new(Readings(read)));
}

/// A registry with what every job tells: its version, and how etcd answers.
#[must_use]
pub fn registry(members: Arc<Members>) -> Registry {
    let mut registry = Registry::default();
    let version = vec![("version", env!("CARGO_PKG_VERSION"))];
    registry.register("sidekick_build", "sidekick's version", Info::new(version));
    let unreachable = members.unreachable_since();
    read_at_scrape(&mut registry, move || {
        let is_up = unreachable.borrow().is_none();
        vec![
            flag(
                "sidekick_etcd_up",
                "Whether a member of etcd answers",
                is_up,
            ),
            counter(
                "sidekick_etcd_failovers",
                "How often a member of etcd failed, so that the next one is asked",
                members.failovers(),
            ),
            Reading {
                name: "sidekick_etcd_last_answer_timestamp_seconds",
                help: "When this member of etcd last answered a call, as a Unix timestamp; 0: not yet. One member is asked at a time, and only its answers count",
                values: Values::Gauges(
                    members
                        .last_answers()
                        .map(|(endpoint, at)| (("endpoint", endpoint.to_owned()), at))
                        .collect(),
                ),
            },
        ]
    });
    registry
}

/// All of it, as OpenMetrics.
///
/// # Errors
/// None that is known: a `String` takes everything.
pub fn render(registry: &Registry) -> Result<String, fmt::Error> {
    let mut text = String::new();
    encode(&mut text, registry)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_are_families_with_the_names_of_their_kind() {
        let mut registry = Registry::default();
        read_at_scrape(&mut registry, || {
            let of = |word: &str| ("reason", word.to_owned());
            vec![
                gauge("sidekick_a", "How many", 2),
                counter("sidekick_b", "How often", 3),
                Reading {
                    name: "sidekick_c",
                    help: "By reason",
                    values: Values::Gauges(vec![(of("x"), 1.0), (of("a \"y\"\n\\"), 0.0)]),
                },
            ]
        });
        let text = render(&registry).unwrap();
        let expected = "\
# HELP sidekick_a How many.
# TYPE sidekick_a gauge
sidekick_a 2.0
# HELP sidekick_b How often.
# TYPE sidekick_b counter
sidekick_b_total 3
# HELP sidekick_c By reason.
# TYPE sidekick_c gauge
sidekick_c{reason=\"x\"} 1.0
sidekick_c{reason=\"a \\\"y\\\"\\n\\\\\"} 0.0
# EOF
";
        assert_eq!(text, expected);
    }
}
