//! The two text formats of `/metrics`: OpenMetrics, and Prometheus' older one for those that ask for it. Pure.

/// OpenMetrics (<https://github.com/prometheus/OpenMetrics/blob/v1.0.0/specification/OpenMetrics.md>).
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Prometheus' text format (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
pub const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Whether a client with this `Accept` header is sent Prometheus' text format: where it asks for plain text, and does
/// not take OpenMetrics.
#[must_use]
pub fn prefers_prometheus_text(accept: &str) -> bool {
    let accept = accept.to_ascii_lowercase();
    accept.contains("text/plain") && !accept.contains("application/openmetrics-text")
}

/// OpenMetrics as Prometheus' text format: there a counter's comments bear the name of its samples, with `_total`, an
/// info is a gauge, and neither units nor an end are told.
#[must_use]
pub fn as_prometheus_text(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    // A family's help stands before its type: it waits here.
    let mut help = None;
    for line in open_metrics.lines() {
        let mut words = line.splitn(4, ' ');
        let start = (words.next(), words.next(), words.next());
        match (start, words.next().unwrap_or_default()) {
            ((Some("#"), Some("EOF" | "UNIT"), _), _) => {}
            ((Some("#"), Some("HELP"), Some(_)), rest) => help = Some(rest),
            ((Some("#"), Some("TYPE"), Some(name)), kind) => {
                let (name, kind) = match kind {
                    "counter" => (format!("{name}_total"), kind),
                    "info" => (format!("{name}_info"), "gauge"),
                    _ => (name.to_owned(), kind),
                };
                if let Some(help) = help.take() {
                    text.push_str(&format!("# HELP {name} {help}\n"));
                }
                text.push_str(&format!("# TYPE {name} {kind}\n"));
            }
            _ => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_and_an_info_bear_the_names_of_their_samples() {
        let open_metrics = "\
# HELP sidekick_build sidekick's version.
# TYPE sidekick_build info
sidekick_build_info{version=\"1\"} 1
# HELP sidekick_reloads Reloads of HAProxy.
# TYPE sidekick_reloads counter
sidekick_reloads_total 3
# HELP sidekick_ready Whether.
# TYPE sidekick_ready gauge
# UNIT sidekick_ready seconds
sidekick_ready 1
# EOF
";
        let prometheus = "\
# HELP sidekick_build_info sidekick's version.
# TYPE sidekick_build_info gauge
sidekick_build_info{version=\"1\"} 1
# HELP sidekick_reloads_total Reloads of HAProxy.
# TYPE sidekick_reloads_total counter
sidekick_reloads_total 3
# HELP sidekick_ready Whether.
# TYPE sidekick_ready gauge
sidekick_ready 1
";
        assert_eq!(as_prometheus_text(open_metrics), prometheus);
    }

    #[test]
    fn prometheus_itself_gets_openmetrics_and_so_does_a_client_that_does_not_care() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for (accept, text) in [
            (prometheus, false),
            ("", false),
            ("*/*", false),
            ("text/plain;version=0.0.4", true),
            ("Text/Plain", true),
        ] {
            assert_eq!(prefers_prometheus_text(accept), text, "{accept}");
        }
    }
}
