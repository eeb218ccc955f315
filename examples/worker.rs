//! The article's worker: dials one fixed name, sets `foo` to `bar`, and prints what it gets back.
//!
//! `worker [ADDRESS [MILLISECONDS]]`, by default `haproxy:80` and every 3000. It knows nothing of etcd,
//! of Docker, or of how many Redis there are and where. The standard library is all it needs:
//! `rustc --edition 2024 -O examples/worker.rs` builds it.

// What it says is its result.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

const ADDRESS: &str = "haproxy:80";

const PAUSE: Duration = Duration::from_secs(3);

/// HAProxy refuses at once when there is no Redis; this is for when there is no HAProxy.
const DEADLINE: Duration = Duration::from_secs(5);

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| ADDRESS.to_owned());
    let pause = match arguments.next() {
        Some(milliseconds) => Duration::from_millis(milliseconds.parse()?),
        None => PAUSE,
    };
    loop {
        match set_and_get(&address) {
            Ok(value) => println!("{value}"),
            Err(error) => println!("{address}: {error}"),
        }
        std::thread::sleep(pause);
    }
}

/// `SET foo bar`, `GET foo`, on a connection of its own.
fn set_and_get(address: &str) -> Result<String, Box<dyn Error>> {
    let socket = address.to_socket_addrs()?.next().ok_or("no such address")?;
    let stream = TcpStream::connect_timeout(&socket, DEADLINE)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    let mut redis = BufReader::new(stream);
    ask(&mut redis, "SET foo bar")?;
    ask(&mut redis, "GET foo")
}

/// One command and its answer, in Redis's protocol
/// (<https://redis.io/docs/latest/develop/reference/protocol-spec/>).
fn ask(redis: &mut BufReader<TcpStream>, command: &str) -> Result<String, Box<dyn Error>> {
    redis
        .get_mut()
        .write_all(format!("{command}\r\n").as_bytes())?;
    let mut line = String::new();
    if redis.read_line(&mut line)? == 0 {
        return Err("connection closed: is there any Redis?".into());
    }
    let line = line.trim_end();
    match line.split_at_checked(1) {
        Some(("+", text)) => Ok(text.to_owned()),
        Some(("-", error)) => Err(error.into()),
        Some(("$", _)) => {
            let mut text = String::new();
            redis.read_line(&mut text)?;
            Ok(text.trim_end().to_owned())
        }
        _ => Err(format!("an answer that is none of Redis's: {line:?}").into()),
    }
}
