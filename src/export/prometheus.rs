//! Prometheus' list of targets, as `file_sd_configs` and `http_sd_configs` read it. Pure.
//!
//! The format: <https://prometheus.io/docs/prometheus/latest/http_sd/>. A label that begins with `__meta_` is there
//! for relabelling and stored nowhere, so that an instance that begins to drain keeps its time series.

use crate::catalog::{Instance, Instances, Services};
use crate::endpoint::{Host, check_part};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::num::NonZeroU16;

/// A group of targets with the same labels: one instance.
#[derive(Debug, Serialize, Deserialize)]
struct TargetGroup {
    targets: Vec<String>,
    labels: TargetLabels,
}

#[derive(Debug, Serialize, Deserialize)]
struct TargetLabels {
    #[serde(rename = "__meta_sidekick_service")]
    service: String,
    #[serde(rename = "__meta_sidekick_instance")]
    instance: String,
    /// `serving` or `draining`.
    #[serde(rename = "__meta_sidekick_status")]
    status: String,
}

/// One group per instance in the order of their names, one group a line. Leaving instances are left out.
#[must_use]
pub fn targets(services: &Services) -> String {
    let all = services.iter().flat_map(|(service, instances)| {
        let present = instances.iter().filter(|(_, it)| !it.leaving);
        present.map(move |(name, it)| target_group(service, name, it))
    });
    // Strings alone: serde_json has no way to fail on these.
    let lines = all.map(|group| serde_json::to_string(&group).unwrap_or_default());
    let lines: Vec<_> = lines.collect();
    match lines.is_empty() {
        true => "[]\n".to_owned(),
        false => format!("[\n{}\n]\n", lines.join(",\n")),
    }
}

fn target_group(service: &str, instance: &str, it: &Instance) -> TargetGroup {
    TargetGroup {
        targets: vec![match &it.host {
            Host::Ip(IpAddr::V6(v6)) => format!("[{v6}]:{}", it.port),
            host => format!("{host}:{}", it.port),
        }],
        labels: TargetLabels {
            service: service.to_owned(),
            instance: instance.to_owned(),
            status: if it.draining { "draining" } else { "serving" }.to_owned(),
        },
    }
}

/// What [`targets`] has written; `None` where the text is something else.
#[must_use]
pub fn parse_targets(text: &str) -> Option<Services> {
    let groups: Vec<TargetGroup> = serde_json::from_str(text).ok()?;
    let mut services = Services::new();
    for group in groups {
        let TargetLabels {
            service,
            instance,
            status,
        } = group.labels;
        check_part(&service).and(check_part(&instance)).ok()?;
        let (host, port) = group.targets.first()?.rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let it = written_instance(host.parse().ok()?, port.parse().ok()?, status == "draining");
        let instances: &mut Instances = services.entry(service).or_default();
        instances.insert(instance, it);
    }
    Some(services)
}

/// An instance as far as a file tells of it.
pub(super) const fn written_instance(host: Host, port: NonZeroU16, draining: bool) -> Instance {
    Instance {
        host,
        port,
        draining,
        leaving: false,
        create_revision: 0,
        since: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn services(rows: &[(&str, &str, &str, bool)]) -> Services {
        let mut services = Services::new();
        for (service, instance, host, draining) in rows {
            let port = NonZeroU16::new(6379).unwrap();
            let it = written_instance(host.parse().unwrap(), port, *draining);
            let instances: &mut Instances = services.entry((*service).to_owned()).or_default();
            instances.insert((*instance).to_owned(), it);
        }
        services
    }

    #[test]
    fn each_instance_is_a_group_with_its_labels() {
        let all = services(&[
            ("redis", "redis@1", "10.0.0.7", false),
            ("redis", "redis@2", "fd00::7", true),
            ("web", "a", "web1.example.com", false),
        ]);
        let expected = r#"[
{"targets":["10.0.0.7:6379"],"labels":{"__meta_sidekick_service":"redis","__meta_sidekick_instance":"redis@1","__meta_sidekick_status":"serving"}},
{"targets":["[fd00::7]:6379"],"labels":{"__meta_sidekick_service":"redis","__meta_sidekick_instance":"redis@2","__meta_sidekick_status":"draining"}},
{"targets":["web1.example.com:6379"],"labels":{"__meta_sidekick_service":"web","__meta_sidekick_instance":"a","__meta_sidekick_status":"serving"}}
]
"#;
        assert_eq!(targets(&all), expected);
        assert_eq!(parse_targets(expected), Some(all));
    }

    #[test]
    fn leaving_instances_are_left_out_and_nothing_is_an_empty_list() {
        let mut all = services(&[("redis", "redis@1", "10.0.0.7", false)]);
        all["redis"]["redis@1"].leaving = true;
        assert_eq!(targets(&all), "[]\n");
        assert_eq!(targets(&Services::new()), "[]\n");
        assert_eq!(parse_targets("[]\n"), Some(Services::new()));
    }

    #[test]
    fn a_list_of_other_hands_is_not_taken_for_one_of_ours() {
        for text in [
            "",
            "{}",
            "scrape_configs:",
            r#"[{"targets":["a:1"]}]"#,
            r#"[{"targets":["a:1"],"labels":{"job":"x"}}]"#,
        ] {
            assert_eq!(parse_targets(text), None, "{text}");
        }
    }
}
