//! Backends, the clients that dial them through HAProxy, and commands that run to their end.

use std::io::ErrorKind;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};
use tokio::process::Command;
use tokio::time::timeout;

/// This machine as an announcer would name it: loopback isn't announced.
pub fn host() -> String {
    hostname::get().unwrap().into_string().unwrap()
}

/// The value of an instance at that address.
pub fn value_of(host: &str, port: u16) -> String {
    format!(r#"{{"host":"{host}","port":{port}}}"#)
}

/// The value of an instance on another machine, where no server listens.
pub fn elsewhere(port: u16) -> String {
    value_of("10.255.255.1", port)
}

/// Runs a command to its end: its stdout, its stderr and its exit status.
pub async fn output_of(command: &mut Command) -> (String, String, Option<i32>) {
    let output = command.output().await.unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|it| String::from_utf8(it).unwrap());
    (out, err, output.status.code())
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
        value_of(&host(), self.port)
    }

    /// It takes no new connection any more, as after a crash; its old ones carry on all the same.
    pub fn stops_listening(&self) {
        self.task.abort();
    }

    /// The same, with `"status":"draining"`.
    pub fn draining(&self) -> String {
        self.value().replace('}', r#","status":"draining"}"#)
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
    /// The connection, and the name of the backend that answered; `None` if it was refused.
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
            .expect("the listener neither serves nor refuses")
    }

    /// A connection to the backend `name`, dialled as often as it takes.
    pub async fn to_backend(port: u16, name: &str) -> Connection {
        super::eventually(super::PATIENCE, format!("{name} answers"), async || {
            let (connection, who) = Connection::dial(port).await?;
            (who == name).then_some(connection)
        })
        .await
    }

    /// Dials ten times; `name` answers each time.
    pub async fn only_to(port: u16, name: &str) {
        for _ in 0..10 {
            assert_eq!(Connection::dial(port).await.unwrap().1, name);
        }
    }

    /// Whether the backend still answers on it.
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

    /// Waits until it ends; fails the test after `patience`.
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
