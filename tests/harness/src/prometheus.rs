//! A Prometheus of a test's own, which discovers its targets from a file or by HTTP.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::ports;
use super::wait::{eventually, secs};
use super::warden::{Charge, Warden};

/// A running Prometheus; it and its data end with the test.
pub struct Prometheus {
    warden: Warden,
    port: u16,
}

impl Prometheus {
    /// Reads its targets from `file` with `file_sd_configs`, and scrapes them as the job `services`; a target's labels
    /// `service` and `name` come from sidekick's.
    pub async fn start(file: &Path) -> Prometheus {
        let from = format!("file_sd_configs: [{{files: ['{}']}}]", file.display());
        Prometheus::that_discovers(&from).await
    }

    /// The same with `http_sd_configs`: it asks that URL each second.
    pub async fn that_asks(url: &str) -> Prometheus {
        let from = format!("http_sd_configs: [{{url: '{url}', refresh_interval: 1s}}]");
        Prometheus::that_discovers(&from).await
    }

    async fn that_discovers(from: &str) -> Prometheus {
        let directory = Warden::directory_for("prometheus", &["prometheus", "setpriv"]);
        let config = directory.join("prometheus.yml");
        let text = format!(
            "scrape_configs:\n\
             - job_name: services\n\
             \x20 {from}\n\
             \x20 relabel_configs:\n\
             \x20 - {{source_labels: [__meta_sidekick_service], target_label: service}}\n\
             \x20 - {{source_labels: [__meta_sidekick_instance], target_label: name}}\n"
        );
        fs::write(&config, text).expect("Prometheus' configuration cannot be written");
        let port = ports::free();
        let server = [
            "prometheus".to_owned(),
            format!("--config.file={}", config.display()),
            format!("--storage.tsdb.path={}", directory.join("data").display()),
            format!("--web.listen-address=127.0.0.1:{port}"),
        ];
        let charge = Charge {
            directory,
            surroundings: Vec::new(),
            server: server.to_vec(),
        };
        let prometheus = Prometheus {
            warden: Warden::of(charge),
            port,
        };
        prometheus.warden.start();
        eventually(secs(20), "Prometheus answers", async || {
            assert!(
                prometheus.warden.is_up(),
                "{}",
                prometheus.warden.log_tail()
            );
            prometheus.targets().await.is_some()
        })
        .await;
        prometheus
    }

    /// `service name url` of each active target, in order; `None` while it doesn't answer.
    pub async fn targets(&self) -> Option<Vec<String>> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.ok()?;
        let request = "GET /api/v1/targets?state=active HTTP/1.0\r\n\r\n";
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        let body: Value = serde_json::from_str(body).ok()?;
        let text = |it: &Value| it.as_str().unwrap_or_default().to_owned();
        let target = |it: &Value| {
            let labels = &it["labels"];
            let [service, name] = [text(&labels["service"]), text(&labels["name"])];
            format!("{service} {name} {}", text(&it["scrapeUrl"]))
        };
        let mut targets: Vec<_> = body["data"]["activeTargets"]
            .as_array()?
            .iter()
            .map(target)
            .collect();
        targets.sort();
        Some(targets)
    }
}
