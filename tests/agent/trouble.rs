//! Ports that are taken, files that are wrong, names that come and go.

use sidekick_harness::agent::*;

#[tokio::test]
async fn a_port_that_is_taken_costs_no_other_service_anything() {
    let (scene, a) = AgentScene::serving(Supervised, &[]).await;
    let taken = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    scene.put("web", "w", &elsewhere(port)).await;
    scene.serves_redis(&[&a]).await;
    scene.says("another process listens there").await;
    let reloads = scene.reloads().await;
    let (mut kept, _) = Connection::dial(scene.port).await.unwrap();
    drop(taken);
    let served = [("redis/redis::1", a.port), ("web/w", port)];
    scene.serves(&served).await;
    assert_eq!(scene.reloads().await, reloads + 1);
    assert!(kept.lives().await);
}

/// The machine doesn't have the address. Supervised, the agent sees that at once; attached, it finds out by a
/// reload that fails.
#[tokio::test]
async fn a_reload_that_fails_is_taken_back() {
    for (mode, words) in [
        (Supervised, "the machine has no such address"),
        // HAProxy 2.6 doesn't name the address that failed, 3.0 does.
        (Attached, "refused: 203.0.113.77"),
    ] {
        let port = free_port();
        let nowhere = format!("--bind=a=203.0.113.77:{}", free_port());
        let scene = AgentScene::start(mode, &[&nowhere, &format!("--bind=b=:{port}")]).await;
        let b = Backend::start("b").await;
        scene.put("a", "i", &b.value()).await;
        scene.put("b", "i", &b.value()).await;
        scene.serves(&[("b/i", b.port)]).await;
        scene.says(words).await;
        assert_eq!(Connection::dial(port).await.unwrap().1, "b");
        scene.file_boots().await;
    }
}

/// `aaa` on redis' port: redis' clients got aaa, and a service that was renamed never got its port back.
#[tokio::test]
async fn a_newcomer_does_not_evict_who_has_instances_and_an_empty_service_yields() {
    let scene = AgentScene::start(Supervised, &[]).await;
    let port = free_port();
    let value = elsewhere(port);
    scene.put("bb", "i", &value).await;
    scene.serves(&[("bb/i", port)]).await;
    let reloads = scene.reloads().await;
    scene.put("aa", "i", &value).await;
    scene.says(&format!(":{port} is taken by bb")).await;
    scene.serves(&[("bb/i", port)]).await;
    assert_eq!(scene.reloads().await, reloads);
    // Renamed: the old name keeps nothing.
    scene.delete("bb", "i").await;
    scene.serves(&[("aa/i", port)]).await;
    scene.put("bb", "i", &value).await;
    scene.says(&format!(":{port} is taken by aa")).await;
    scene.serves(&[("aa/i", port)]).await;
    assert_eq!(scene.reloads().await, reloads + 1);
}

#[tokio::test]
async fn a_service_is_forgotten_after_forget() {
    let scene = AgentScene::start(Supervised, &["--forget=5s"]).await;
    let port = free_port();
    scene.put("web", "w", &elsewhere(port)).await;
    scene.serves(&[("web/w", port)]).await;
    let reloads = scene.reloads().await;
    scene.delete("web", "w").await;
    scene.serves_nothing().await;
    assert!(scene.config().contains("listen web"));
    let forgotten = async || !scene.config().contains("listen web");
    eventually(PATIENCE, "the service is forgotten", forgotten).await;
    let free = async || std::net::TcpListener::bind(("0.0.0.0", port)).is_ok();
    eventually(PATIENCE, "the port is free", free).await;
    assert_eq!(scene.reloads().await, reloads + 1);
    // A service of --bind is never forgotten.
    assert!(scene.config().contains("listen redis"));
}

#[tokio::test]
async fn a_file_that_another_program_wrote_is_kept() {
    let scene = AgentScene::start(Attached, &[]).await;
    scene.serves_nothing().await;
    let written = async || scene.config().contains("listen redis");
    eventually(PATIENCE, "the agent's file is there", written).await;
    let copy = scene.dir.path().join("haproxy.cfg.before-sidekick");
    assert!(
        std::fs::read_to_string(copy)
            .unwrap()
            .contains("listen other")
    );
}

#[tokio::test]
async fn what_an_operator_changes_by_hand_is_put_right() {
    let (scene, a) = AgentScene::serving(Supervised, &[]).await;
    scene
        .master("@1 set server redis/redis::1 state maint")
        .await;
    scene.put("redis", "redis@2", &a.value()).await;
    // The agent sees it at the next audit, half a minute later at most; here sooner, for a reload by hand makes
    // another worker, whose servers are all compared.
    scene.master("reload").await;
    scene.serves_redis(&[&a, &a]).await;
}

#[tokio::test]
async fn a_name_that_does_not_resolve_waits_and_harms_no_other() {
    let scene = AgentScene::start(Supervised, &[]).await;
    let a = Backend::start("a").await;
    scene.put("redis", "redis@1", &a.value()).await;
    scene
        .put("redis", "redis@2", &value_of("absent.invalid", 1))
        .await;
    scene.serves_redis(&[&a]).await;
    scene.says("cannot resolve absent.invalid").await;
    scene.delete("redis", "redis@2").await;
    scene.serves_redis(&[&a]).await;
}

/// --bind comes before a service's own port, and among two of --bind the first by name.
#[tokio::test]
async fn two_binds_on_one_port_the_first_by_name_has_it() {
    let port = free_port();
    let (bb, cc) = (
        format!("--bind=bb=:{port}"),
        format!("--bind=cc=127.0.0.1:{port}"),
    );
    let scene = AgentScene::start(Supervised, &[&bb, &cc]).await;
    let b = Backend::start("b").await;
    for service in ["bb", "cc"] {
        scene.put(service, "i", &b.value()).await;
    }
    scene.put("aa", "i", &elsewhere(port)).await;
    scene.serves(&[("bb/i", b.port)]).await;
    for words in [
        format!("refused: 127.0.0.1:{port} is taken by bb service=\"cc\""),
        format!("refused: :{port} is taken by bb service=\"aa\""),
    ] {
        scene.says(&words).await;
    }
    assert_eq!(Connection::dial(port).await.unwrap().1, "b");
}

#[tokio::test]
async fn a_bind_is_there_before_its_service_and_the_service_costs_no_reload() {
    let later = free_port();
    let scene = AgentScene::start(Supervised, &[&format!("--bind=later=:{later}")]).await;
    let listening = async || listens("127.0.0.1", later).await;
    eventually(PATIENCE, "its listener is there", listening).await;
    assert!(Connection::dial(later).await.is_none());
    let reloads = scene.reloads().await;
    let a = Backend::start("a").await;
    scene.put("later", "i", &a.value()).await;
    scene.serves(&[("later/i", a.port)]).await;
    assert_eq!(Connection::dial(later).await.unwrap().1, "a");
    assert_eq!(scene.reloads().await, reloads);
}

#[tokio::test]
async fn the_statistics_page_is_where_it_is_told_to_be() {
    let port = free_port();
    let scene = AgentScene::start(Supervised, &[&format!("--stats=127.0.0.1:{port}")]).await;
    let shown = async || page(port).await.contains("redis");
    eventually(PATIENCE, "the page shows redis", shown).await;
    drop(scene);
}

/// The statistics page, as a browser gets it; empty where no listener answers.
async fn page(port: u16) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut page = String::new();
    if let Ok(mut stream) = tokio::net::TcpStream::connect(("127.0.0.1", port)).await {
        let _ = stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await;
        let _ = stream.read_to_string(&mut page).await;
    }
    page
}

/// This HAProxy dies at once, as often as it is started.
#[tokio::test]
async fn a_haproxy_that_dies_is_started_again_and_again_but_ever_more_slowly() {
    let dir = tempfile::tempdir().unwrap();
    let (program, well) = (dir.path().join("haproxy"), dir.path().join("well"));
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = -c ] || [ -e {well} ] || {{ echo x >>{starts}; exit 1; }}\nexec {haproxy} \"$@\"\n",
        haproxy = haproxy(),
        well = well.display(),
        starts = dir.path().join("starts").display(),
    );
    let text = dir.path().join("script");
    std::fs::write(&text, script).unwrap();
    sidekick_harness::install_program(&text, &program);
    let option = format!("--haproxy={}", program.display());
    let scene = AgentScene::start(Supervised, &[&option]).await;
    let a = Backend::start("a").await;
    scene.put("redis", "redis@1", &a.value()).await;
    let starts = || {
        let starts = std::fs::read_to_string(dir.path().join("starts"));
        starts.map_or(0, |starts| starts.lines().count())
    };
    eventually(PATIENCE, "it was tried again", async || starts() >= 3).await;
    // 20 would be one every 35 ms.
    let before = starts();
    let few = async || starts() < before + 20;
    throughout(A_WHILE, "there are few starts", few).await;
    std::fs::write(well, "").unwrap();
    scene.serves_redis(&[&a]).await;
    assert_eq!(Connection::dial(scene.port).await.unwrap().1, "a");
}

/// Else HAProxy would start empty and be told of its servers one by one: 6 s for ten thousand.
#[tokio::test]
async fn the_first_start_waits_for_names() {
    let mut scene = AgentScene::new(Supervised, &[]).await;
    let a = Backend::start("a").await;
    scene.put("redis", "redis@1", &a.value()).await;
    scene.start_agent();
    scene.serves_redis(&[&a]).await;
    let log = scene.log();
    let first = log.lines().find(|line| line.contains(" services, "));
    let complete = first.is_some_and(|line| line.contains(" 1 instances (0 changes"));
    assert!(complete, "{log}");
}

/// Each alert was a line in the agent's log.
#[tokio::test]
async fn an_alert_that_haproxy_repeats_is_told_at_growing_intervals() {
    let (base, port) = (tempfile::NamedTempFile::new().unwrap(), free_port());
    let times =
        "    mode tcp\n    timeout connect 1s\n    timeout client 1s\n    timeout server 1s\n";
    let checked = format!("    server only 127.0.0.1:{port} check inter 50ms rise 1 fall 1\n");
    let text = format!("defaults\n{times}backend flapping\n{checked}");
    std::fs::write(&base, text).unwrap();
    let option = format!("--haproxy-base={}", base.path().display());
    let scene = AgentScene::start(Supervised, &[&option, "--log-level=debug"]).await;
    let alert = "backend 'flapping' has no server available!";
    let alerts = |level: &str| {
        let log = scene.log();
        log.lines()
            .filter(|line| line.contains(level) && line.contains(alert))
            .count()
    };
    for times in 1..=12 {
        eventually(PATIENCE, "it goes down", async || alerts("DEBUG") == times).await;
        let _up = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
        let up = async || scene.log().matches("Server flapping/only is UP").count();
        becomes(PATIENCE, "how often it came up", times, up).await;
    }
    // At once, after 10 s, after 30 s.
    assert!((1..=3).contains(&alerts("WARN")), "{}", scene.log());
}
