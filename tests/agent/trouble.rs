//! Ports that are taken, files that are wrong, names that come and go.

use sidekick_harness::agent::*;

#[tokio::test]
async fn a_port_that_is_taken_costs_nobody_else_anything() {
    let scene = AgentScene::start(Supervised, &[]).await;
    let a = Backend::start("a").await;
    scene.put("redis", "redis@1", &a.value()).await;
    let taken = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    scene.put("web", "w", &elsewhere(port)).await;
    scene.serves_redis(&[&a]).await;
    scene.says("another process listens there").await;
    let reloads = scene.reloads().await;
    let (mut kept, _) = Connection::dial(scene.port).await.unwrap();
    drop(taken);
    scene
        .serves(&[("redis/redis::1", a.port), ("web/w", port)])
        .await;
    assert_eq!(scene.reloads().await, reloads + 1);
    assert!(kept.lives().await);
}

/// An address that the machine doesn't have. Beside a HAProxy of its own the agent sees that at once;
/// beside one that somebody else configured it has to find out by a reload that fails.
#[tokio::test]
async fn a_reload_that_fails_is_taken_back() {
    for (mode, words) in [
        (Supervised, "the machine has no such address"),
        // 2.6 doesn't say whose fault it was, 3.0 does.
        (Attached, "refused: 203.0.113.77"),
    ] {
        let (port, front) = (free_port(), free_port());
        let nowhere = format!("--bind=a=203.0.113.77:{port}");
        let scene = AgentScene::start(mode, &[&nowhere, &format!("--bind=b=:{front}")]).await;
        let b = Backend::start("b").await;
        scene.put("a", "i", &b.value()).await;
        scene.put("b", "i", &b.value()).await;
        scene.serves(&[("b/i", b.port)]).await;
        scene.says(words).await;
        assert_eq!(Connection::dial(front).await.unwrap().1, "b");
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
async fn a_service_is_forgotten_when_its_time_is_up() {
    let scene = AgentScene::start(Supervised, &["--forget=5s"]).await;
    let port = free_port();
    scene.put("web", "w", &elsewhere(port)).await;
    scene.serves(&[("web/w", port)]).await;
    let reloads = scene.reloads().await;
    scene.delete("web", "w").await;
    scene.serves_nothing().await;
    assert!(scene.config().contains("listen web"));
    eventually(PATIENCE, "it is forgotten", async || {
        !scene.config().contains("listen web")
    })
    .await;
    eventually(PATIENCE, "the port is free", async || {
        std::net::TcpListener::bind(("0.0.0.0", port)).is_ok()
    })
    .await;
    assert_eq!(scene.reloads().await, reloads + 1);
    // The operator's own is never forgotten.
    assert!(scene.config().contains("listen redis"));
}

#[tokio::test]
async fn a_file_that_somebody_wrote_is_kept() {
    let scene = AgentScene::start(Attached, &[]).await;
    scene.serves_nothing().await;
    eventually(PATIENCE, "ours is there", async || {
        scene.config().contains("listen redis")
    })
    .await;
    let copy = scene.dir.path().join("haproxy.cfg.before-sidekick");
    assert!(std::fs::read_to_string(copy).unwrap().contains("somebodys"));
}

#[tokio::test]
async fn somebody_elses_meddling_is_put_right() {
    let (scene, a) = AgentScene::serving(Supervised, &[]).await;
    scene
        .master("@1 set server redis/redis::1 state maint")
        .await;
    scene.put("redis", "redis@2", &a.value()).await;
    // Seen at the next audit, half a minute later at most; here sooner, for a reload by hand makes
    // another worker, and that is looked at altogether.
    scene.master("reload").await;
    scene.serves_redis(&[&a, &a]).await;
}

#[tokio::test]
async fn a_name_that_does_not_resolve_waits_and_harms_nobody() {
    let scene = AgentScene::start(Supervised, &[]).await;
    let a = Backend::start("a").await;
    scene.put("redis", "redis@1", &a.value()).await;
    scene
        .put("redis", "redis@2", r#"{"host":"nobody.invalid","port":1}"#)
        .await;
    scene.serves_redis(&[&a]).await;
    scene.says("cannot resolve nobody.invalid").await;
    scene.delete("redis", "redis@2").await;
    scene.serves_redis(&[&a]).await;
}

/// The operator's word comes before a service's own port, and among equals the first by name.
#[tokio::test]
async fn two_binds_on_one_port_the_first_by_name_has_it() {
    let port = free_port();
    let binds = [
        format!("--bind=bb=:{port}"),
        format!("--bind=cc=127.0.0.1:{port}"),
    ];
    let scene = AgentScene::start(Supervised, &[&binds[0], &binds[1]]).await;
    let b = Backend::start("b").await;
    for service in ["bb", "cc"] {
        scene.put(service, "i", &b.value()).await;
    }
    let own = elsewhere(port);
    scene.put("aa", "i", &own).await;
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
    eventually(PATIENCE, "its front is there", async || {
        tokio::net::TcpStream::connect(("127.0.0.1", later))
            .await
            .is_ok()
    })
    .await;
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
    eventually(PATIENCE, "the page shows redis", async || {
        page(port).await.contains("redis")
    })
    .await;
    drop(scene);
}

/// What a browser gets.
async fn page(port: u16) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut page = String::new();
    if let Ok(mut stream) = tokio::net::TcpStream::connect(("127.0.0.1", port)).await {
        let _ = stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await;
        let _ = stream.read_to_string(&mut page).await;
    }
    page
}

/// One that dies at once, as often as it is started.
#[tokio::test]
async fn a_haproxy_that_dies_is_started_again_and_again_but_ever_more_slowly() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let (program, well) = (dir.path().join("haproxy"), dir.path().join("well"));
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = -c ] || [ -e {well} ] || {{ echo x >>{starts}; exit 1; }}\nexec {haproxy} \"$@\"\n",
        haproxy = haproxy(),
        well = well.display(),
        starts = dir.path().join("starts").display(),
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
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
    throughout(A_WHILE, "it isn't hammered", async || {
        starts() < before + 20
    })
    .await;
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
    assert!(
        first.is_some_and(|line| line.contains(" 1 instances (0 changes")),
        "{log}"
    );
}

/// Each was a line in the agent's log.
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
    let (told, happened) = (
        || {
            scene
                .log()
                .lines()
                .filter(|l| l.contains("WARN") && l.contains(alert))
                .count()
        },
        || {
            scene
                .log()
                .lines()
                .filter(|l| l.contains("DEBUG") && l.contains(alert))
                .count()
        },
    );
    for times in 1..=12 {
        eventually(PATIENCE, "it goes down", async || happened() == times).await;
        let _up = tokio::net::TcpListener::bind(("127.0.0.1", port))
            .await
            .unwrap();
        let up = "Server flapping/only is UP";
        eventually(PATIENCE, "it comes up", async || {
            scene.log().matches(up).count() == times
        })
        .await;
    }
    // At once, after 10 s, after 30 s.
    assert!((1..=3).contains(&told()), "{}", scene.log());
}
