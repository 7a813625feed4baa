//! The HTTP server. It speaks HTTP/1.1 without TLS and believes no client: each
//! connection is a task of its own, their number is bounded, a request's head must arrive
//! within [`HEAD_TIMEOUT`], and a client that does not read its answer is cut off after
//! [`LIFETIME`] and [`LAST_WORDS`].

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderName, StatusCode, Uri, header},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use hyper::{
    body::{Bytes, Frame, SizeHint},
    server::conn::http1,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use observer_core::export::{Exporter, Health};
use prometheus::{Registry, TextEncoder};
use thiserror::Error;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Mutex, Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tower_http::{
    CompressionLevel,
    compression::{CompressionLayer, predicate::SizeAbove},
};
use tracing::{debug, warn};

use super::page;

/// For a request's head; also how long an idle connection is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// After this a connection is asked to finish. A scraper connects again once a minute; a
/// client that does not read its answer holds megabytes no longer than that.
const LIFETIME: Duration = Duration::from_secs(60);
/// What it then has left, and what all have left at shutdown.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// More clients than this wait in the listen queue.
const CONNECTIONS: usize = 64;
/// Bytes of a request's head, more than any scraper sends.
const HEAD_SIZE: usize = 16 * 1024;

/// Bytes of an answer that is compressed for clients that offer gzip. A shorter one fits into a
/// packet as it is.
const COMPRESSED_FROM: u64 = 1024;

const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";
const NO_CACHE: [(HeaderName, &str); 2] = [
    (header::CACHE_CONTROL, "no-store"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
];

/// The server could not be started.
#[derive(Debug, Error)]
#[error("cannot listen on {address}{}", hint(source))]
pub struct BindError {
    /// Where it was to listen.
    pub address: SocketAddr,
    /// Why it cannot.
    #[source]
    pub source: io::Error,
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => ": another program has this address, maybe another observer",
        io::ErrorKind::AddrNotAvailable => ": this host does not have that address",
        io::ErrorKind::PermissionDenied => ": ports below 1024 need CAP_NET_BIND_SERVICE",
        _ => "",
    }
}

/// What the server shows.
pub struct App {
    /// The daemon's own metrics.
    pub exporter: Exporter,
    /// Metrics of others, shown after the exporter's. Must not hold the exporter too.
    pub registry: Registry,
    /// For `/healthz` and `/readyz`.
    pub health: Arc<Health>,
}

struct Shared {
    app: App,
    /// One scrape at a time: a second one would only wait for the table, with a thread.
    scraping: Arc<Mutex<()>>,
}

/// The server, listening already.
pub struct Server {
    listener: TcpListener,
    app: App,
}

impl Server {
    /// Listens on `address`. Apart from serving, so that an address in use is found out
    /// before anything is attached, and before there is a tokio runtime.
    ///
    /// # Errors
    ///
    /// When the address is taken or not ours.
    pub fn listen(address: SocketAddr) -> Result<std::net::TcpListener, BindError> {
        let listen = || {
            let listener = std::net::TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        listen().map_err(|source| BindError { address, source })
    }

    /// Serves on `listener`, within a tokio runtime.
    ///
    /// # Errors
    ///
    /// When tokio cannot take it.
    pub fn new(listener: std::net::TcpListener, app: App) -> io::Result<Self> {
        Ok(Self {
            listener: TcpListener::from_std(listener)?,
            app,
        })
    }

    /// Where it listens: tells the port when port 0 was asked for.
    ///
    /// # Errors
    ///
    /// When the kernel does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `shutdown` completes, then lets running requests finish for a moment.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let router = router(self.app);
        let permits = Arc::new(Semaphore::new(CONNECTIONS));
        let (closing, closed) = watch::channel(false);
        let mut connections = JoinSet::new();
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let next = async {
                let permit = Arc::clone(&permits).acquire_owned().await;
                (permit, self.listener.accept().await)
            };
            let (permit, accepted) = tokio::select! {
                () = &mut shutdown => break,
                Some(_) = connections.join_next() => continue,
                next = next => next,
            };
            match accepted {
                Ok((stream, _)) => {
                    let connection = serve(stream, router.clone(), closed.clone());
                    connections.spawn(async move {
                        connection.await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    // Out of descriptors, as a rule: accepting at once would spin.
                    warn!(%error, "cannot accept an HTTP connection");
                    sleep(Duration::from_millis(200)).await;
                }
            }
        }
        drop(self.listener);
        let _ = closing.send(true);
        let finished = async { while connections.join_next().await.is_some() {} };
        if timeout(LAST_WORDS, finished).await.is_err() {
            debug!("HTTP connections cut off at shutdown");
        }
    }
}

async fn serve(stream: TcpStream, router: Router, mut closed: watch::Receiver<bool>) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_SIZE)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = async {
            tokio::select! {
                () = sleep(LIFETIME) => {}
                _ = closed.wait_for(|closed| *closed) => {}
            }
        } => {
            connection.as_mut().graceful_shutdown();
            match timeout(LAST_WORDS, connection).await {
                Ok(result) => result,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = result {
        debug!(%error, "HTTP connection ended");
    }
}

fn router(app: App) -> Router {
    let shared = Arc::new(Shared {
        app,
        scraping: Arc::default(),
    });
    // The text repeats itself: more effort makes it little smaller and takes much longer.
    let compression = CompressionLayer::new()
        .quality(CompressionLevel::Fastest)
        .compress_when(SizeAbove::new(COMPRESSED_FROM));
    Router::new()
        .route("/", get(index))
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(compression)
        .with_state(shared)
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let pieces = blocking(&shared, |app| {
        let ours = app.exporter.scrape().into_iter().map(Bytes::from_owner);
        let mut pieces: VecDeque<Bytes> = ours.collect();
        // What the daemon did is counted after it shows, so it is read after it.
        let mut others = String::new();
        let families = app.registry.gather();
        let encoded = TextEncoder::new().encode_utf8(&families, &mut others);
        encoded.map_err(|error| error.to_string())?;
        pieces.push_back(others.into());
        Ok(Pieces(pieces))
    });
    match pieces.await {
        Ok(pieces) => {
            let body = Body::new(pieces);
            (NO_CACHE, [(header::CONTENT_TYPE, TEXT_FORMAT)], body).into_response()
        }
        Err(error) => failure(&error),
    }
}

/// A body of several pieces, which nobody puts together.
struct Pieces(VecDeque<Bytes>);

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    /// Exact, so that the answer has a Content-Length where it is not compressed.
    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(|piece| piece.len() as u64).sum())
    }
}

async fn index(State(shared): State<Arc<Shared>>) -> Response {
    match blocking(&shared, |app| Ok(page::page(&app.exporter, &app.health))).await {
        Ok(page) => (NO_CACHE, Html(page)).into_response(),
        Err(error) => failure(&error),
    }
}

/// Runs `work`, which takes locks and reads files, where it stops nobody else. It keeps its turn
/// until it ends, although this future is dropped when the client goes away: those who give up
/// and ask again must not make more work than can be done.
async fn blocking<T: Send + 'static>(
    shared: &Arc<Shared>,
    work: impl FnOnce(&App) -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let turn = Arc::clone(&shared.scraping).lock_owned().await;
    let worker = Arc::clone(shared);
    let work = move || {
        let _turn = turn;
        work(&worker.app)
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(error.to_string()),
    }
}

fn failure(error: &str) -> Response {
    warn!(error, "cannot answer an HTTP request");
    let body = format!("cannot collect: {error}\n");
    (StatusCode::INTERNAL_SERVER_ERROR, NO_CACHE, body).into_response()
}

async fn healthz(State(shared): State<Arc<Shared>>) -> Response {
    match shared.app.health.stuck() {
        None => (StatusCode::OK, NO_CACHE, "ok\n".to_owned()),
        Some((job, silent)) => (
            StatusCode::SERVICE_UNAVAILABLE,
            NO_CACHE,
            format!(
                "stuck: the job {job} has not finished for {} s\n",
                silent.as_secs()
            ),
        ),
    }
    .into_response()
}

async fn readyz(State(shared): State<Arc<Shared>>) -> Response {
    let missing = shared.app.health.missing();
    if missing.is_empty() {
        return (StatusCode::OK, NO_CACHE, "ready\n").into_response();
    }
    let body = format!("not ready, waiting for: {}\n", missing.join(", "));
    (StatusCode::SERVICE_UNAVAILABLE, NO_CACHE, body).into_response()
}

async fn not_found(uri: Uri) -> Response {
    let body = format!(
        "nothing at {}; there are /, /metrics, /healthz and /readyz\n",
        uri.path()
    );
    (StatusCode::NOT_FOUND, NO_CACHE, body).into_response()
}

async fn method_not_allowed() -> Response {
    let body = "only GET and HEAD\n";
    (StatusCode::METHOD_NOT_ALLOWED, NO_CACHE, body).into_response()
}
