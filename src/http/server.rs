//! The listener: who is answered, what, and for how long. In a thread of its own, so that no client and no page
//! delays a job's loop.

use super::content_policy::content_security_policy;
use super::exposition::{
    OPEN_METRICS, PROMETHEUS_TEXT, as_prometheus_text, prefers_prometheus_text,
};
use super::feed::{Content, events, render};
use super::metrics;
use super::page::{LatestPage, whole};
use crate::systemd::LastTurn;
use anyhow::Context as _;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant as StdInstant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

/// How many connections there are at a time; more wait in the kernel's queue. A scrape takes milliseconds, so that
/// only streams and clients that stall take a place for long.
const CONNECTIONS: usize = 64;

/// How many of them are streams of events: pages that are left open leave room for scrapes.
const STREAMS: usize = 32;

/// From a connection's first byte, or none, to the last of its answer. Prometheus waits for 10 s by default; a request
/// here has no body, and its answer no need to wait for anything.
const REQUEST_DEADLINE: Duration = Duration::from_secs(5);

/// Then a stream of events ends, and a browser opens another: a client that is gone, or reads nothing, has its place for
/// so long at most.
const STREAM_LIFE: Duration = Duration::from_secs(300);

/// The most bytes that a request's head may have; hyper takes no less.
const HEAD: usize = 8 * 1024;

/// After the kernel refused a connection: it has no file descriptor left, for example.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A loop that has not come round for so long is stuck; the watchdog's own limit. Each await in it has a deadline far
/// below.
const STUCK: Duration = Duration::from_secs(30);

/// Whether a job does what it is there for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// `/readyz` answers 200, and not 503.
    pub ready: bool,
    /// Why, in one line.
    pub line: String,
}

/// Before the loop has come round.
impl Default for Readiness {
    fn default() -> Self {
        Self {
            ready: false,
            line: "starting".to_owned(),
        }
    }
}

/// What a job hands to its listener.
pub struct Site {
    /// What `/metrics` tells.
    pub registry: Registry,
    /// When the job's loop came round last.
    pub turns: watch::Receiver<Option<LastTurn>>,
    /// What `/readyz` tells.
    pub readiness: watch::Receiver<Readiness>,
    /// What `/` and `/sd` show; `None`: there is neither.
    pub page: Option<watch::Receiver<LatestPage>>,
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A [`Site`] as the connections share it.
struct Served {
    site: Site,
    contents: watch::Receiver<Content>,
    policy: HeaderValue,
    streams: Arc<Semaphore>,
}

/// Binds the address of `--listen`.
///
/// # Errors
/// The kernel refuses it.
pub fn bind(address: SocketAddr) -> anyhow::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(address)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
    listener.with_context(|| format!("--listen: cannot listen on {address}"))
}

/// Serves the site until the process ends.
///
/// # Errors
/// The kernel gives no thread, or no file descriptor.
pub fn serve(listener: std::net::TcpListener, site: Site) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    info!(address = %listener.local_addr()?, "serving metrics and health");
    let (contents_tx, contents) = watch::channel(Content::default());
    let page = site.page.clone();
    let served = Arc::new(Served {
        site,
        contents,
        policy: HeaderValue::from_str(&content_security_policy())?,
        streams: Arc::new(Semaphore::new(STREAMS)),
    });
    let run = move || {
        runtime.block_on(async {
            if let Some(page) = page {
                tokio::spawn(render(page, contents_tx));
            }
            match TcpListener::from_std(listener) {
                Ok(listener) => accept(listener, served).await,
                Err(error) => warn!("--listen: {error}"),
            }
        });
    };
    thread::Builder::new().name("http".to_owned()).spawn(run)?;
    Ok(())
}

async fn accept(listener: TcpListener, served: Arc<Served>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    // The semaphore is never closed.
    while let Ok(place) = places.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(connection(stream, served.clone(), place))),
            Err(error) => {
                debug!("--listen: cannot accept a connection: {error}");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One request. A client that wants another one connects again, so that no idle connection keeps a place.
async fn connection(stream: TcpStream, served: Arc<Served>, _place: OwnedSemaphorePermit) {
    let streams = AtomicBool::new(false);
    let answer = service_fn(|request: Request<Incoming>| {
        let response = served.answer(&request, &streams);
        async move { Ok::<_, Infallible>(response) }
    });
    let http = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_DEADLINE)
        .max_buf_size(HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), answer);
    let mut http = std::pin::pin!(http);
    // Whatever comes of it: the client is gone, or is told no more.
    let in_time = timeout(REQUEST_DEADLINE, &mut http).await;
    if in_time.is_err() && streams.load(Ordering::Relaxed) {
        let _ = timeout(STREAM_LIFE, http).await;
    }
}

impl Served {
    fn answer(&self, request: &Request<Incoming>, streams: &AtomicBool) -> Response<Body> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD only");
            let allowed = HeaderValue::from_static("GET, HEAD");
            response.headers_mut().insert(ALLOW, allowed);
            return response;
        }
        match (request.uri().path(), &self.site.page) {
            ("/metrics", _) => {
                let accept = request.headers().get(ACCEPT);
                self.metrics(accept.and_then(|it| it.to_str().ok()).unwrap_or_default())
            }
            ("/healthz", _) => {
                let (well, line) = health(*self.site.turns.borrow(), StdInstant::now());
                text(if_well(well), &line)
            }
            ("/readyz", _) => {
                let Readiness { ready, line } = self.site.readiness.borrow().clone();
                text(if_well(ready), &line)
            }
            ("/", Some(_)) => self.page(),
            ("/sd", Some(page)) => targets(page),
            // hyper sends no body to a HEAD, but would wait for the stream's end.
            ("/events", Some(_)) if *request.method() == Method::GET => self.follow(streams),
            ("/events", Some(_)) => answer(StatusCode::OK, "text/event-stream", Bytes::new()),
            _ => text(StatusCode::NOT_FOUND, "there is no such page"),
        }
    }

    fn metrics(&self, accept: &str) -> Response<Body> {
        let Ok(open_metrics) = metrics::render(&self.site.registry) else {
            return text(StatusCode::INTERNAL_SERVER_ERROR, "cannot render");
        };
        if prefers_prometheus_text(accept) {
            let old = as_prometheus_text(&open_metrics);
            answer(StatusCode::OK, PROMETHEUS_TEXT, old.into())
        } else {
            answer(StatusCode::OK, OPEN_METRICS, open_metrics.into())
        }
    }

    fn page(&self) -> Response<Body> {
        let content = self.contents.borrow().html.clone();
        let html = whole(&String::from_utf8_lossy(&content));
        let mut response = answer(StatusCode::OK, "text/html; charset=utf-8", html.into());
        let headers = response.headers_mut();
        headers.insert(CONTENT_SECURITY_POLICY, self.policy.clone());
        headers.insert("referrer-policy", HeaderValue::from_static("no-referrer"));
        response
    }

    fn follow(&self, streams: &AtomicBool) -> Response<Body> {
        let Ok(place) = self.streams.clone().try_acquire_owned() else {
            let most = format!("{STREAMS} browsers follow the page already");
            return text(StatusCode::SERVICE_UNAVAILABLE, &most);
        };
        streams.store(true, Ordering::Relaxed);
        let events = events(self.contents.clone(), Instant::now() + STREAM_LIFE);
        let body = StreamBody::new(events).map_frame(move |frame| {
            // The place is taken as long as the body is there.
            let _ = &place;
            frame
        });
        respond(StatusCode::OK, "text/event-stream", body.boxed_unsync())
    }
}

/// Whether the loops come round, and a line about it.
fn health(turn: Option<LastTurn>, now: StdInstant) -> (bool, String) {
    match turn {
        None => (false, "the loop has not begun".to_owned()),
        Some(LastTurn {
            stuck: Some(name), ..
        }) => (false, format!("the {name} loop is stuck")),
        Some(LastTurn { at, .. }) => {
            let ago = now.saturating_duration_since(at);
            let seconds = ago.as_secs();
            (ago < STUCK, format!("the loop came round {seconds} s ago"))
        }
    }
}

const fn if_well(well: bool) -> StatusCode {
    if well {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}

/// For Prometheus' `http_sd_configs`, which keeps the targets that it has where the status is another than 200.
fn targets(page: &watch::Receiver<LatestPage>) -> Response<Body> {
    let latest = page.borrow().clone();
    match latest.targets() {
        Some(targets) => answer(StatusCode::OK, "application/json", targets.into()),
        None => text(
            StatusCode::SERVICE_UNAVAILABLE,
            "etcd has not told yet what is registered",
        ),
    }
}

/// One line.
fn text(status: StatusCode, line: &str) -> Response<Body> {
    let line = format!("{}\n", line.replace(char::is_control, " "));
    answer(status, "text/plain; charset=utf-8", line.into())
}

fn answer(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Body> {
    respond(status, kind, Full::new(body).boxed_unsync())
}

fn respond(status: StatusCode, kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        "x-content-type-options",
        HeaderValue::from_static("nosniff"),
    );
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_does_not_come_round_is_red_after_the_watchdogs_time_and_another_that_is_stuck_at_once()
     {
        let at = StdInstant::now();
        let turn = |stuck| Some(LastTurn { at, stuck });
        let short = STUCK - Duration::from_millis(1);
        let well = (true, "the loop came round 29 s ago".to_owned());
        assert_eq!(health(turn(None), at + short), well);
        let late = (false, "the loop came round 30 s ago".to_owned());
        assert_eq!(health(turn(None), at + STUCK), late);
        let other = (false, "the etcd loop is stuck".to_owned());
        assert_eq!(health(turn(Some("etcd")), at), other);
        assert!(!health(None, at).0);
    }
}
