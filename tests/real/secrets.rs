//! Passwords and keys stay where they are: no log has them, at the level that tells most, and no `ps`. (That HAProxy
//! doesn't get them: `agent::secrets`.)

use std::fs;
use std::path::Path;

use tempfile::NamedTempFile;

use crate::privilege::{agent_of, balancer};
use sidekick_harness::*;

#[tokio::test]
async fn the_password_is_in_no_log_and_no_command_line() {
    let etcd = Etcd::start_with_login(1).await;
    // Of its own, for all of its containers are announced.
    let engine = Engine::start().await;
    let redis = engine.redis().run().await;
    let labelled = engine.redis().label("sidekick.service=labelled");
    let labelled = labelled.run().await;
    let file = holding(Login::PASSWORD);
    let talkative = |announce| with_login(announce, &etcd, file.path()).host(HOST);
    let announce = Sidekick::announce(redis.name(), KEY).docker(&engine);
    let announcer = talkative(announce).times(6, 1).spawn();
    let all = talkative(Sidekick::announce_all().docker(&engine));
    let all = all.times(6, 1).spawn();
    let balancer = balancer();
    let agent = agent_of(&balancer, &etcd);
    let agent = agent.option("--bind", &format!("labelled=127.0.0.1:{}", free_port()));
    let agent = with_login(agent, &etcd, file.path()).spawn();
    let labelled = format!("/services/labelled/{}@{HOST}", labelled.name());
    let keys = [KEY.to_owned(), labelled];
    let all_stand = async || {
        let both = async || {
            etcd.keys()
                .await
                .into_iter()
                .filter(|it| keys.contains(it))
                .count()
                == 2
        };
        eventually(secs(15), "both keys stand in etcd", both).await;
    };
    all_stand().await;
    agent.logs("services").await;
    let one_shot = [
        Sidekick::explain(redis.name()).docker(&engine).host(HOST),
        Sidekick::explain_all().docker(&engine).host(HOST),
        Sidekick::list(),
    ];
    let mut told = Vec::new();
    for command in one_shot {
        let done = with_login(command, &etcd, file.path()).run().await;
        told.extend([done.text, done.log]);
    }

    // Logins again, after the tokens are too old; and an etcd that forgets them all.
    etcd.kill9().await;
    etcd.restart().await;
    for key in &keys {
        etcd.delete(key).await;
    }
    all_stand().await;

    for mut sidekick in [announcer, all, agent] {
        for file in ["cmdline", "environ", "status"] {
            let text = sidekick.proc(file);
            let shown = holds(&text, Login::PASSWORD);
            assert!(!shown, "the password is in /proc/PID/{file}");
        }
        sidekick.leaves().await;
        told.extend(sidekick.log());
    }
    nowhere(Login::PASSWORD, &told);
    // The token that stands for it, an hour long.
    nowhere("authorization", &told);
}

#[tokio::test]
async fn a_wrong_password_is_in_no_log() {
    const WRONG: &str = "wrong:staple";
    let (engine, etcd) = tokio::join!(Engine::shared(), Etcd::start_with_login(300));
    let redis = engine.redis().run().await;
    let file = holding(WRONG);
    let announce = Sidekick::announce(redis.name(), KEY).docker(engine);
    let sidekick = with_login(announce, &etcd, file.path()).host(HOST).spawn();
    sidekick.logs("authentication failed").await;
    let listed = with_login(Sidekick::list(), &etcd, file.path()).run().await;
    assert_ne!(listed.code, Some(0));
    nowhere(WRONG, &sidekick.log());
    nowhere(WRONG, &[listed.text, listed.log]);
}

#[tokio::test]
async fn the_key_of_a_certificate_is_in_no_log() {
    let authority = Authority::generate();
    let (engine, etcd) = tokio::join!(Engine::shared(), Etcd::start_with_tls(&authority));
    let redis = engine.redis().run().await;
    let announce = redis.announce(&etcd);
    let announce = announce.file("--etcd-cacert", &authority.certificate());
    let announce = announce.file("--etcd-cert", &authority.client_certificate());
    let announce = announce.file("--etcd-key", &authority.client_key());
    let announce = announce.option("--log-level", "trace");
    let mut sidekick = announce.spawn();
    etcd.shows(KEY, &redis.value().await).await;
    sidekick.leaves().await;
    let (_, key) = authority.client_pem();
    let lines: Vec<_> = key.lines().filter(|line| !line.contains("-----")).collect();
    assert!(!lines.is_empty(), "a key is some lines of base64");
    for line in lines {
        nowhere(line, &sidekick.log());
    }
}

fn holding(password: &str) -> NamedTempFile {
    let file = NamedTempFile::new().expect("no temporary file can be made");
    fs::write(&file, password).expect("the password file cannot be written");
    file
}

/// At the level that tells most.
fn with_login(announce: Announce, etcd: &Etcd, file: &Path) -> Announce {
    announce
        .etcd(etcd)
        .option("--etcd-user", Login::NAME)
        .file("--etcd-password-file", file)
        .option("--log-level", "trace")
}

fn nowhere(secret: &str, told: &[String]) {
    assert!(!told.is_empty(), "nothing was told at all");
    let secret = secret.to_lowercase();
    for line in told {
        assert!(!line.to_lowercase().contains(&secret), "{line}");
    }
}

fn holds(text: &[u8], secret: &str) -> bool {
    let mut parts = text.windows(secret.len());
    parts.any(|part| part == secret.as_bytes())
}
