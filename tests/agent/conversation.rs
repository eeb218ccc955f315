//! What an agent says to HAProxy's master for one change, and on how many connections.

use sidekick_harness::agent::*;
use std::path::Path;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

/// What the client said on each connection to `from`, which leads to `to`.
type Said = Arc<Mutex<Vec<String>>>;

fn overhear(from: &Path, to: &Path) -> Said {
    let (listener, to) = (UnixListener::bind(from).unwrap(), to.to_owned());
    let said = Said::default();
    let all = said.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = UnixStream::connect(&to).await.unwrap();
            let mut conversations = all.lock().unwrap();
            conversations.push(String::new());
            let which = conversations.len() - 1;
            drop(conversations);
            let (mut questions, mut to_client) = client.into_split();
            let (mut answers, mut to_server) = server.into_split();
            let all = all.clone();
            tokio::spawn(async move {
                let mut piece = [0; 4096];
                while let Ok(n @ 1..) = questions.read(&mut piece).await {
                    let text = String::from_utf8_lossy(&piece[..n]).into_owned();
                    all.lock().unwrap()[which].push_str(&text);
                    let _ = to_server.write_all(&piece[..n]).await;
                }
                let _ = to_server.shutdown().await;
            });
            tokio::spawn(async move {
                let _ = tokio::io::copy(&mut answers, &mut to_client).await;
                let _ = to_client.shutdown().await;
            });
        }
    });
    said
}

/// Three connections in turn took 0.2 ms more than one.
#[tokio::test]
async fn a_change_is_asked_told_and_read_back_on_one_connection() {
    let (scene, a) = AgentScene::serving(Attached, &[]).await;
    let master = scene.dir.path().join("master.sock");
    std::fs::rename(scene.socket(), &master).unwrap();
    let said = overhear(&scene.socket(), &master);
    // A conversation that was under way is not overheard; it is over when the next one begins.
    eventually(PATIENCE, "the agent asks HAProxy who is up", async || {
        said.lock()
            .unwrap()
            .iter()
            .any(|it| it.starts_with("prompt"))
    })
    .await;

    scene.put("redis", "redis@2", &a.value()).await;
    scene.serves_redis(&[&a, &a]).await;
    let said = said.lock().unwrap().clone();
    let of_the_change = said.iter().filter(|said| said.contains("add server"));
    let [told] = of_the_change.collect::<Vec<_>>()[..] else {
        panic!("not on one connection: {said:#?}");
    };
    let words = ["show proc", "add server", "show servers state redis"];
    let [asked, added, read] = words.map(|words| told.find(words));
    let in_order = asked.is_some() && asked < added && added < read;
    assert!(in_order, "not in one conversation: {said:#?}");
}
