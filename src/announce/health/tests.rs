//! Checks of servers on this machine.

use super::*;
use crate::announce::policy::check::CheckResult;
use crate::announce::policy::check_settings::CheckSettings;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::timeout;

/// A server that answers each request with this text, or not at all; it ends with its task.
async fn server(answer: &'static str) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut held = Vec::new();
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            if !answer.is_empty() {
                let _ = client.read(&mut [0; 1_024]).await;
                let _ = client.write_all(answer.as_bytes()).await;
            }
            held.push(client);
        }
    });
    (address, tasks)
}

fn published(address: &SocketAddr) -> CheckAddress {
    CheckAddress {
        address: *address,
        gateway: None,
    }
}

fn target(addresses: &[SocketAddr], kind: &str) -> CheckTarget {
    let settings = CheckSettings {
        interval: Duration::from_millis(100),
        timeout: Duration::from_millis(500),
        ..CheckSettings::of(kind.parse().unwrap())
    };
    CheckTarget {
        subject: CheckSubject {
            life: None,
            port: "80".parse().unwrap(),
            settings,
            outlived_since: None,
        },
        addresses: addresses.iter().map(published).collect(),
    }
}

async fn asked(addresses: &[SocketAddr], kind: &str) -> Result<(), String> {
    ask(&target(addresses, kind), &mut None).await
}

#[tokio::test]
async fn a_get_passes_by_its_status_alone_and_a_connection_by_being_accepted() {
    for (answer, expected) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n", Ok(())),
        ("HTTP/1.0 204 No Content\r\n\r\n", Ok(())),
        ("HTTP/1.1 302 Found\r\nlocation: /login\r\n\r\n", Ok(())),
        (
            "HTTP/1.1 404 Not Found\r\n\r\n",
            Err("answers 404 Not Found"),
        ),
        (
            "HTTP/1.1 503 Service Unavailable\r\n\r\n",
            Err("answers 503 Service Unavailable"),
        ),
        (
            "-ERR unknown command\r\n",
            Err("invalid HTTP version parsed"),
        ),
        ("", Err("did not answer within 500ms")),
    ] {
        let (address, _server) = server(answer).await;
        let told = asked(&[address], "http:/health").await;
        match (&told, expected) {
            (Err(told), Err(words)) => assert!(
                told.starts_with(&address.to_string()) && told.ends_with(words),
                "{told}"
            ),
            (told, expected) => assert_eq!(told.is_ok(), expected.is_ok(), "{told:?}"),
        }
        assert_eq!(asked(&[address], "tcp").await, Ok(()));
    }
}

#[tokio::test]
async fn a_ping_passes_where_redis_answers_within_the_time_and_fails_with_its_words() {
    for (answer, expected) in [
        ("+PONG\r\n", Ok(())),
        ("-NOAUTH Authentication required.\r\n", Ok(())),
        (
            "-LOADING Redis is loading the dataset in memory\r\n",
            Err("answers -LOADING Redis is loading the dataset in memory"),
        ),
        (
            "HTTP/1.1 400 Bad Request\r\n\r\n",
            Err("answers \"HTTP/1.1 400 Bad Request\", as no Redis does"),
        ),
        ("+PON", Err("did not answer within 500ms")),
        ("", Err("did not answer within 500ms")),
    ] {
        let (address, _server) = server(answer).await;
        let expected = expected.map_err(|words| format!("{address} {words}"));
        assert_eq!(asked(&[address], "redis").await, expected);
    }
    let endless: &str = "x".repeat(MAX_REPLY * 2).leak();
    let (address, _server) = server(endless).await;
    let told = asked(&[address], "redis").await.unwrap_err();
    assert!(told.len() < MAX_REPLY + 100, "{told}");
}

/// Docker's proxy accepts, finds that the container refuses, and closes.
#[tokio::test]
async fn a_ping_fails_where_the_connection_is_accepted_and_closed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (addresses, closes) = ([address], async {
        loop {
            drop(listener.accept().await.unwrap());
        }
    });
    let told = tokio::select! {
        told = asked(&addresses, "redis") => told.unwrap_err(),
        () = closes => unreachable!("it goes on accepting"),
    };
    let address = address.to_string();
    assert!(told.starts_with(&address), "{told}");
}

#[tokio::test]
async fn an_address_that_has_answered_or_refused_is_the_one_that_counts() {
    let (other, _server) = server("").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refuses = listener.local_addr().unwrap();
    drop(listener);
    // Multicast: no connection leads there.
    let nowhere: SocketAddr = "224.0.0.1:9".parse().unwrap();

    assert_eq!(asked(&[nowhere, other], "tcp").await, Ok(()));
    let refused = asked(&[refuses, other], "tcp").await.unwrap_err();
    assert!(refused.contains("refused"), "{refused}");

    // An own address whose network is not of this machine is another machine's. (TEST-NET-2, RFC 5737.)
    let mut elsewhere = target(&[refuses, other], "tcp");
    elsewhere.addresses[0].gateway = Some("198.51.100.7".parse().unwrap());
    assert_eq!(ask(&elsewhere, &mut None).await, Ok(()));
    elsewhere.addresses[0].gateway = Some("127.0.0.1".parse().unwrap());
    assert!(ask(&elsewhere, &mut None).await.is_err());

    // A container that was reached at its own address is not looked for at another one.
    let (own, its_server) = server("").await;
    let (target, mut reached) = (target(&[own, other], "tcp"), None);
    assert_eq!(ask(&target, &mut reached).await, Ok(()));
    drop(its_server);
    let refused = async || ask(&target, &mut reached.clone()).await.is_err();
    until(refused).await;
}

/// A server that accepts nothing, and has as many connections waiting as it may have: no further one is made.
async fn hung_server() -> (SocketAddr, TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    let connect = || timeout(Duration::from_millis(300), TcpStream::connect(address));
    while let Ok(connected) = connect().await {
        waiting.push(connected.unwrap());
        assert!(waiting.len() < 100, "it accepts without an end");
    }
    (address, listener, waiting)
}

#[tokio::test]
async fn a_hung_server_is_late_at_its_own_address_and_no_proxy_is_asked_instead() {
    let (hung, _listener, _waiting) = hung_server().await;
    let (proxy, _server) = server("").await;
    let (mut target, mut reached) = (target(&[hung, proxy], "tcp"), None);
    target.addresses[0].gateway = Some("127.0.0.1".parse().unwrap());
    for _ in 0..2 {
        let told = ask(&target, &mut reached).await;
        let late = format!("{hung} did not answer within 500ms");
        assert_eq!(told, Err(late));
    }
    // Of several published addresses each may be the one that leads there.
    target.addresses[0].gateway = None;
    assert_eq!(ask(&target, &mut reached).await, Ok(()));
}

async fn until(mut happens: impl AsyncFnMut() -> bool) {
    let happened = async {
        while !happens().await {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(20), happened).await.unwrap();
}

#[tokio::test]
async fn a_check_runs_while_it_is_wanted_and_its_result_outlives_another_address() {
    let mut tasks = JoinSet::new();
    let mut checks = Checks::run_in(&mut tasks);
    let (address, its_server) = server("").await;
    let first = target(&[address], "tcp");
    checks.want([&first].into_iter());
    checks.results.changed().await.unwrap();
    let result = |checks: &Checks| checks.results.borrow().get(&first.subject).cloned();
    assert_eq!(result(&checks), Some(CheckResult::Passing));

    let (address, its_other_server) = server("").await;
    checks.want([&target(&[address], "tcp")].into_iter());
    drop(its_server);
    let passes = async || {
        while result(&checks) == Some(CheckResult::Passing) {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(1), passes()).await.unwrap_err();

    drop(its_other_server);
    checks.results.changed().await.unwrap();
    let failing = matches!(result(&checks), Some(CheckResult::Failing(_)));
    assert!(failing, "{:?}", result(&checks));

    checks.want([].into_iter());
    until(async || result(&checks).is_none()).await;
}
