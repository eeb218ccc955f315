//! `sidekick export`: the file follows etcd, and its readers follow the file.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value as Json, json};
use sidekick_harness::{A_WHILE, Etcd, Prometheus, Sidekick, becomes, eventually, never_for, secs};
use tempfile::TempDir;

const REDIS: &str = "/services/redis/redis@1";
const WEB: &str = "/services/web/web@1";

/// Prometheus takes up changed targets every 5 s in its discovery, and every 5 s again in its scraping (`updatert` in
/// discovery/manager.go, `DiscoveryReloadInterval` in scrape/manager.go), however early it reads them. The file itself has 2 s.
const PROMETHEUS: Duration = secs(12);

/// A file in a directory of its own, and the export that writes it.
struct Exported {
    etcd: Etcd,
    directory: TempDir,
    sidekick: Option<Sidekick>,
}

impl Exported {
    async fn start(format: &str, options: &[(&str, &str)]) -> Exported {
        let mut exported = Exported {
            etcd: Etcd::start().await,
            directory: tempfile::tempdir().expect("no temporary directory can be made"),
            sidekick: None,
        };
        exported.run(format, options);
        exported
    }

    fn run(&mut self, format: &str, options: &[(&str, &str)]) {
        let export = Sidekick::export(format)
            .etcd(&self.etcd)
            .file("--file", &self.path());
        let export = options
            .iter()
            .fold(export, |export, (name, value)| export.option(name, value));
        self.sidekick = Some(export.spawn());
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("targets.json")
    }

    fn json(&self) -> Json {
        let text = std::fs::read_to_string(self.path()).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// The instances that Prometheus' file names.
    fn names(&self) -> Vec<String> {
        let groups = self.json();
        let groups = groups.as_array().map(Vec::as_slice).unwrap_or_default();
        let name = |group: &Json| group["labels"]["__meta_sidekick_instance"].clone();
        let names = groups.iter().map(name);
        names
            .filter_map(|it| it.as_str().map(str::to_owned))
            .collect()
    }

    #[track_caller]
    fn names_become(&self, names: &[&str]) -> impl Future<Output = ()> {
        let names = names.iter().map(|&it| it.to_owned()).collect();
        becomes(secs(2), "the names in the file", names, async || {
            self.names()
        })
    }
}

fn value(host: &str, port: u16) -> String {
    json!({"host": host, "port": port}).to_string()
}

#[tokio::test]
async fn a_real_prometheus_finds_and_loses_a_target() {
    let exported = Exported::start("prometheus", &[]).await;
    exported.names_become(&[]).await;
    let prometheus = Prometheus::start(&exported.path()).await;
    let targets = |expected: &[&str]| {
        let expected: Vec<_> = expected.iter().map(|&it| it.to_owned()).collect();
        becomes(
            PROMETHEUS,
            "Prometheus' targets",
            Some(expected),
            async || prometheus.targets().await,
        )
    };
    targets(&[]).await;
    let began = std::time::Instant::now();
    exported.etcd.put(REDIS, &value("10.0.0.7", 6379)).await;
    exported.names_become(&["redis@1"]).await;
    println!("the file has a target: {:?}", began.elapsed());
    targets(&["redis redis@1 http://10.0.0.7:6379/metrics"]).await;
    println!("Prometheus finds a target: {:?}", began.elapsed());
    exported.etcd.put(WEB, &value("fd00::7", 80)).await;
    let web = "web web@1 http://[fd00::7]:80/metrics";
    targets(&["redis redis@1 http://10.0.0.7:6379/metrics", web]).await;
    let began = std::time::Instant::now();
    exported.etcd.delete(REDIS).await;
    exported.names_become(&["web@1"]).await;
    println!("the file has lost a target: {:?}", began.elapsed());
    targets(&[web]).await;
    println!("Prometheus loses a target: {:?}", began.elapsed());
}

#[tokio::test]
async fn envoys_file_has_addresses_and_says_what_drains() {
    let exported = Exported::start("envoy", &[]).await;
    let draining = json!({"host": "10.0.0.8", "port": 6379, "status": "draining"}).to_string();
    exported.etcd.put(REDIS, &value("10.0.0.7", 6379)).await;
    exported
        .etcd
        .put("/services/redis/redis@2", &draining)
        .await;
    exported
        .etcd
        .put(WEB, &value("no-such-host.invalid", 80))
        .await;
    let socket =
        |address: &str| json!({"socket_address": {"address": address, "port_value": 6379}});
    let name = |it: &str| json!({"filter_metadata": {"sidekick": {"instance": it}}});
    let assignment = |service: &str, endpoints: Json| {
        json!({
            "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            "cluster_name": service,
            "endpoints": endpoints,
        })
    };
    let both = json!([{"lb_endpoints": [
        {"endpoint": {"address": socket("10.0.0.7")}, "metadata": name("redis@1")},
        {"endpoint": {"address": socket("10.0.0.8")}, "health_status": "DRAINING", "metadata": name("redis@2")},
    ]}]);
    let expected = json!([assignment("redis", both), assignment("web", json!([]))]);
    becomes(secs(5), "the resources", expected, async || {
        exported.json()["resources"].clone()
    })
    .await;
    let version = exported.json()["version_info"].clone();
    exported.etcd.delete(REDIS).await;
    exported.etcd.delete("/services/redis/redis@2").await;
    // Envoy keeps the last endpoints of a cluster that is left out.
    becomes(secs(2), "the resources of redis", json!([]), async || {
        exported.json()["resources"][0]["endpoints"].clone()
    })
    .await;
    assert_ne!(exported.json()["version_info"], version);
}

#[tokio::test]
async fn an_etcd_that_is_away_leaves_the_file_as_it_is() {
    let mut exported = Exported::start("prometheus", &[]).await;
    exported.etcd.put(REDIS, &value("10.0.0.7", 6379)).await;
    exported.names_become(&["redis@1"]).await;
    exported.etcd.kill9().await;
    never_for(A_WHILE, "the file loses an instance", async || {
        exported.names() != ["redis@1"]
    })
    .await;
    // Neither does a start without etcd.
    exported.run("prometheus", &[]);
    never_for(A_WHILE, "the file loses an instance", async || {
        exported.names() != ["redis@1"]
    })
    .await;
    exported.etcd.restart().await;
    exported.etcd.put(WEB, &value("10.0.0.8", 80)).await;
    let both = ["redis@1".to_owned(), "web@1".to_owned()];
    eventually(secs(5), "the file follows etcd again", async || {
        exported.names() == both
    })
    .await;
}

#[tokio::test]
async fn an_emptied_etcd_empties_no_reader_before_the_hold_is_over() {
    let mut exported = Exported::start("prometheus", &[("--hold", "3s")]).await;
    exported.etcd.put(REDIS, &value("10.0.0.7", 6379)).await;
    exported.etcd.put(WEB, &value("10.0.0.8", 80)).await;
    exported.names_become(&["redis@1", "web@1"]).await;
    let both = ["redis@1", "web@1"];
    exported.etcd.delete_all("/services/").await;
    never_for(secs(2), "the file is emptied", async || {
        exported.names() != both
    })
    .await;
    let sidekick = exported.sidekick.as_ref().expect("it runs");
    sidekick.logs("disappeared from etcd at once").await;
    exported.names_become(&[]).await;
    // Also while no export runs: the file on disk is what was served last.
    exported.etcd.put(REDIS, &value("10.0.0.7", 6379)).await;
    exported.etcd.put(WEB, &value("10.0.0.8", 80)).await;
    exported.names_become(&both).await;
    exported.sidekick = None;
    exported.etcd.delete_all("/services/").await;
    exported.run("prometheus", &[("--hold", "30s")]);
    let sidekick = exported.sidekick.as_ref().expect("it runs");
    sidekick.logs("disappeared from etcd at once").await;
    assert_eq!(exported.names(), both);
}

#[tokio::test]
async fn a_file_of_other_hands_is_left_alone() {
    let mut exported = Exported::start("prometheus", &[]).await;
    exported.names_become(&[]).await;
    exported.sidekick = None;
    let other = "scrape_configs: []\n";
    std::fs::write(exported.path(), other).expect("it is ours");
    let done = Sidekick::export("prometheus")
        .etcd(&exported.etcd)
        .file("--file", &exported.path())
        .run()
        .await;
    assert_eq!(done.code, Some(1));
    assert!(
        done.log.contains("was not written by this export"),
        "{}",
        done.log
    );
    let still = std::fs::read_to_string(exported.path());
    assert_eq!(still.expect("it is there"), other);
}

#[tokio::test]
async fn without_a_file_it_prints_once() {
    let etcd = Etcd::start().await;
    etcd.put(REDIS, &value("10.0.0.7", 6379)).await;
    let udp = r#"{"host":"10.0.0.9","port":53,"protocol":"udp"}"#;
    etcd.put("/services/dns/dns@1", udp).await;
    let printed = Sidekick::export("prometheus").etcd(&etcd).run().await;
    assert_eq!(printed.code, Some(0));
    let targets: Json = serde_json::from_str(&printed.text).expect("it is JSON");
    assert_eq!(targets[0]["targets"], json!(["10.0.0.7:6379"]));
    assert_eq!(targets.as_array().map(Vec::len), Some(1));
    assert!(
        printed.log.contains("/services/dns/dns@1: left out"),
        "{}",
        printed.log
    );
    let listed = Sidekick::list()
        .etcd(&etcd)
        .option("-o", "prometheus")
        .run()
        .await;
    assert_eq!(listed.text, printed.text);
    let envoy = Sidekick::export("envoy").etcd(&etcd).run().await;
    let response: Json = serde_json::from_str(&envoy.text).expect("it is JSON");
    assert_eq!(response["resources"][0]["cluster_name"], "redis");
    let nothing = Etcd::not_yet().await;
    let failed = Sidekick::export("prometheus").etcd(&nothing).run().await;
    assert_eq!((failed.code, failed.text.as_str()), (Some(1), ""));
}
