//! No reload can succeed, and the running worker still follows etcd.

use sidekick_harness::agent::*;

/// A new connection goes to no deleted instance after so long.
const AT_ONCE: std::time::Duration = secs(1);

/// Two instances of redis, with a service to come that takes a reload.
struct Stuck {
    scene: AgentScene,
    a: Backend,
    b: Backend,
    web: String,
    port: u16,
}

impl Stuck {
    async fn on(mut scene: AgentScene) -> Stuck {
        scene.begin().await;
        let (a, b) = (Backend::start("a").await, Backend::start("b").await);
        let port = free_port();
        scene.put("redis", "a", &a.value()).await;
        scene.put("redis", "b", &b.value()).await;
        scene
            .serves(&[("redis/a", a.port), ("redis/b", b.port)])
            .await;
        let web = elsewhere(port);
        Stuck {
            scene,
            a,
            b,
            web,
            port,
        }
    }

    /// While `words` are said of a reload that web would take, instances go and come at once.
    async fn follows(&self, words: &str) {
        let scene = &self.scene;
        scene.put("web", "w", &self.web).await;
        scene.says(words).await;
        let servers = async || scene.servers().await;
        let (a, b) = (("a", &self.a), ("b", &self.b));
        for ((gone, deleted), (left, other)) in [(a, b), (b, a)] {
            scene.delete("redis", gone).await;
            let only = Servers::from([(format!("redis/{left}"), other.port.to_string())]);
            becomes(AT_ONCE, "the servers", only, servers).await;
            Connection::only_to(scene.port, left).await;
            scene.put("redis", gone, &deleted.value()).await;
            scene.has_servers(AT_ONCE, 2).await;
        }
        // A service without any instance has no server either.
        for instance in ["a", "b"] {
            scene.delete("redis", instance).await;
        }
        becomes(AT_ONCE, "the servers", Servers::new(), servers).await;
        assert!(!self.has_web(), "web can't be there yet");
        scene.put("redis", "b", &self.b.value()).await;
    }

    fn has_web(&self) -> bool {
        self.scene.config().contains("listen web")
    }

    /// The reload succeeds, and the file says what runs.
    async fn recovers(&self) {
        let all = [("redis/b", self.b.port), ("web/w", self.port)];
        self.scene.serves(&all).await;
    }
}

#[tokio::test]
async fn on_a_full_disk_instances_come_and_go_at_once() {
    let scene = AgentScene::new(Supervised, &["--hold=0"]).await;
    let disk = Disk::over(scene.dir.path());
    let stuck = Stuck::on(scene).await;
    disk.fill();
    stuck.follows("No space left on device").await;
    disk.free();
    stuck.recovers().await;
}

/// As a certificate that is renewed badly: the base file names a file that breaks after the start.
#[tokio::test]
async fn with_a_base_file_that_broke_instances_come_and_go_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (base, page) = (dir.path().join("base.cfg"), dir.path().join("503.http"));
    let good = "HTTP/1.0 503 Service Unavailable\r\n\r\n";
    std::fs::write(&page, good).unwrap();
    let text = format!(
        "defaults\n    mode tcp\n    timeout connect 5s\n    timeout client 50s\n    timeout server 50s\n    errorfile 503 {}\n",
        page.display()
    );
    std::fs::write(&base, text).unwrap();
    let option = format!("--haproxy-base={}", base.display());
    let scene = AgentScene::new(Supervised, &["--hold=0", &option]).await;
    let stuck = Stuck::on(scene).await;
    std::fs::remove_file(&page).unwrap();
    stuck.follows("haproxy -c refuses the configuration").await;
    std::fs::write(&page, good).unwrap();
    stuck.recovers().await;
}

/// The file from the last run is there, and the agent can't write a new one.
#[tokio::test]
async fn on_a_full_disk_the_agent_serves_from_the_file_that_is_there() {
    let scene = AgentScene::new(Supervised, &["--hold=0"]).await;
    let disk = Disk::over(scene.dir.path());
    let mut stuck = Stuck::on(scene).await;
    assert_eq!(stuck.scene.stop_agent().await, Some(0));
    disk.fill();
    // The file still has a.
    stuck.scene.delete("redis", "a").await;
    stuck.scene.put("web", "w", &stuck.web).await;
    stuck.scene.start_agent();
    let only = Servers::from([("redis/b".to_owned(), stuck.b.port.to_string())]);
    let servers = async || stuck.scene.servers().await;
    becomes(PATIENCE, "the servers", only, servers).await;
    assert_eq!(Connection::dial(stuck.scene.port).await.unwrap().1, "b");
    stuck.scene.says("No space left on device").await;
    disk.free();
    stuck.recovers().await;
}
