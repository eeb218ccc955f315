//! Who is dialled, and who dials.

use std::io::ErrorKind;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};
use tokio::time::timeout;

/// This machine as an announcer would name it: loopback isn't announced.
pub fn host() -> String {
    hostname::get().unwrap().into_string().unwrap()
}

/// Says its name to whoever connects, then echoes.
pub struct Backend {
    /// Where it listens.
    pub port: u16,
    task: tokio::task::JoinHandle<()>,
}

impl Backend {
    /// At a free port of every address of this machine.
    pub async fn start(name: &'static str) -> Backend {
        Backend::at("0.0.0.0:0", name).await
    }

    /// At that address of this machine.
    pub async fn at(address: &str, name: &'static str) -> Backend {
        let listener = TcpListener::bind(address).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let _ = stream.write_all(format!("{name}\n").as_bytes()).await;
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        Backend { port, task }
    }

    /// The value of an instance that is this backend.
    pub fn value(&self) -> String {
        format!(r#"{{"host":"{}","port":{}}}"#, host(), self.port)
    }

    /// It takes no new connection any more, as after a crash; its old ones carry on all the same.
    pub fn stops_listening(&self) {
        self.task.abort();
    }

    /// The same, with `"status":"draining"`.
    pub fn draining(&self) -> String {
        format!(
            r#"{{"host":"{}","port":{},"status":"draining"}}"#,
            host(),
            self.port
        )
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A client's connection through HAProxy.
pub struct Connection(BufReader<TcpStream>);

impl Connection {
    /// The connection, and who answered; `None` if it was refused.
    pub async fn dial(port: u16) -> Option<(Connection, String)> {
        Connection::to(("127.0.0.1", port)).await
    }

    /// The same, to any address.
    pub async fn to(address: impl ToSocketAddrs) -> Option<(Connection, String)> {
        let dial = async {
            let stream = TcpStream::connect(address).await.ok()?;
            let mut stream = BufReader::new(stream);
            let mut name = String::new();
            stream.read_line(&mut name).await.ok().filter(|n| *n > 0)?;
            Some((Connection(stream), name.trim().to_owned()))
        };
        timeout(Duration::from_secs(8), dial)
            .await
            .expect("a front that neither serves nor refuses")
    }

    /// One that `name` answers, dialled as often as it takes.
    pub async fn to_backend(port: u16, name: &str) -> Connection {
        let mut found = None;
        super::eventually(super::PATIENCE, &format!("{name} answers"), async || {
            let dialled = Connection::dial(port).await;
            found = dialled.filter(|(_, who)| who == name);
            found.is_some()
        })
        .await;
        found.unwrap().0
    }

    /// Whether it still carries.
    pub async fn lives(&mut self) -> bool {
        let echo = async {
            self.0.get_mut().write_all(b"ping\n").await.ok()?;
            let mut line = String::new();
            self.0.read_line(&mut line).await.ok()?;
            (line == "ping\n").then_some(())
        };
        timeout(Duration::from_secs(5), echo)
            .await
            .is_ok_and(|echo| echo.is_some())
    }

    /// Waits for its end, so long.
    pub async fn ends_within(&mut self, patience: Duration) {
        let mut line = String::new();
        let end = timeout(patience, self.0.read_line(&mut line)).await;
        let end = end.expect("a connection that should have ended");
        assert!(end.map_or(true, |read| read == 0), "{line:?}");
    }
}

/// Whether there is a listener. One of a service without an instance accepts, and resets the client at once.
pub async fn listens(ip: &str, port: u16) -> bool {
    match TcpStream::connect((ip, port)).await {
        Ok(_) => true,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}
