//! A server that answers one request after another, as Redis does: the client speaks first.

use super::{PATIENCE, eventually, host, value_of};
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

/// Answers each line with its name; a line `BLPOP` only once [`Answering::push`] was called.
pub struct Answering {
    /// Where it listens.
    pub port: u16,
    pushed: Arc<watch::Sender<bool>>,
    task: tokio::task::JoinHandle<()>,
}

impl Answering {
    /// At a free port of every address of this machine.
    pub async fn start(name: &'static str) -> Answering {
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let pushed = Arc::new(watch::Sender::new(false));
        let sender = pushed.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, name, sender.subscribe()));
            }
        });
        Answering { port, pushed, task }
    }

    /// Answers each BLPOP.
    pub fn push(&self) {
        self.pushed.send_replace(true);
    }

    /// The value of an instance that is this server.
    pub fn value(&self) -> String {
        value_of(&host(), self.port)
    }

    /// The same, with `"status":"draining"`.
    pub fn draining(&self) -> String {
        self.value().replace('}', r#","status":"draining"}"#)
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(mut stream: TcpStream, name: &str, mut pushed: watch::Receiver<bool>) {
    let (read, mut write) = stream.split();
    let mut lines = BufReader::new(read).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if line == "BLPOP" && pushed.wait_for(|pushed| *pushed).await.is_err() {
            return;
        }
        if write
            .write_all(format!("{name}\n").as_bytes())
            .await
            .is_err()
        {
            return;
        }
    }
}

/// A client's connection to an [`Answering`] server through HAProxy.
pub struct Asking(BufReader<TcpStream>);

impl Asking {
    /// A new connection, and the name of the server behind it; `None` if it is refused.
    pub async fn dial(port: u16) -> Option<(Asking, String)> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        let mut asking = Asking(BufReader::new(stream));
        let name = asking.ask("PING").await?;
        Some((asking, name))
    }

    /// A connection to the server of that name.
    pub async fn to(port: u16, name: &str) -> Asking {
        eventually(PATIENCE, format!("{name} answers"), async || {
            let (asking, who) = Asking::dial(port).await?;
            (who == name).then_some(asking)
        })
        .await
    }

    /// Sends a line.
    pub async fn send(&mut self, line: &str) -> Option<()> {
        let line = format!("{line}\n");
        self.0.get_mut().write_all(line.as_bytes()).await.ok()
    }

    /// The next answer; `None` where the connection ends instead.
    pub async fn answer(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = timeout(PATIENCE, self.0.read_line(&mut line)).await;
        let read = read.expect("neither an answer nor an end");
        read.ok().filter(|bytes| *bytes > 0)?;
        Some(line.trim().to_owned())
    }

    /// Sends a line, and waits for the answer; `None` where the connection ends instead.
    pub async fn ask(&mut self, line: &str) -> Option<String> {
        self.send(line).await?;
        self.answer().await
    }
}
