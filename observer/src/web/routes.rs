//! What the server answers: its routes, and the limit on answers under way.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Instant,
};

use axum::{
    Extension, Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderName, StatusCode, Uri, header},
    middleware::{Next, from_fn_with_state},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use http_body_util::BodyExt as _;
use hyper::body::{Bytes, Frame, SizeHint};
use observer_core::{
    export::{Exporter, Health},
    table::Snapshot,
};
use prometheus::{Registry, TextEncoder};
use tokio::{
    runtime::Handle,
    sync::{Mutex, OwnedSemaphorePermit, Semaphore, watch},
};
use tower_http::{
    CompressionLevel,
    compression::{CompressionLayer, predicate::SizeAbove},
};
use tracing::warn;

use super::{api, config::WebConfig, page};

/// Retry-After for clients above [`App::max_requests`], in seconds: most scrapes take less than one.
const RETRY_AFTER: &str = "1";
/// Minimum size of a response that is compressed, in bytes. A smaller one fits into one packet.
const COMPRESSED_FROM: u64 = 1024;

const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";
const JSON: &str = "application/json";
const NO_CACHE: [(HeaderName, &str); 2] = [
    (header::CACHE_CONTROL, "no-store"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
];

/// The data that the server exports.
pub struct App {
    /// The daemon's own metrics.
    pub exporter: Exporter,
    /// Further metrics, served after the exporter's. Must not contain the exporter.
    pub registry: Registry,
    /// For `/healthz` and `/readyz`.
    pub health: Arc<Health>,
    /// The table's processes and names, as of the last tick.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// Maximum number of responses under way that take locks or hold an exposition.
    pub max_requests: u32,
    /// TLS and passwords, for TCP.
    pub web: watch::Receiver<Arc<WebConfig>>,
    /// Runtime that reads the table and maps: the server's threads may not (before 5.19, reading a map needs CAP_BPF).
    pub reader: Handle,
}

impl App {
    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.borrow())
    }
}

/// Of one connection.
#[derive(Clone)]
pub struct Connection {
    /// Whether a response of the table is under way.
    pub scraping: Arc<AtomicBool>,
    /// Whether it is over the Unix socket.
    pub is_local: bool,
}

struct Shared {
    app: App,
    /// [`App::max_requests`] of them, for clients over TCP.
    permits: Arc<Semaphore>,
    /// As many for those over the Unix socket: whoever may not use that must not keep `observer doctor` from an answer.
    local_permits: Arc<Semaphore>,
    /// Locked while the table is read, because a second reader would block a thread.
    latest: Arc<Mutex<Latest>>,
}

/// The last rendered exposition, while it is being sent.
#[derive(Default)]
struct Latest {
    begun: Option<Instant>,
    exposition: Weak<Vec<Bytes>>,
}

pub fn router(app: App) -> Router {
    let shared = Arc::new(Shared {
        permits: Arc::new(Semaphore::new(app.max_requests as usize)),
        local_permits: Arc::new(Semaphore::new(app.max_requests as usize)),
        app,
        latest: Arc::default(),
    });
    // Higher levels take much longer and save little.
    let compression = CompressionLayer::new()
        .quality(CompressionLevel::Fastest)
        .compress_when(SizeAbove::new(COMPRESSED_FROM));
    Router::new()
        .route("/", get(index))
        .route("/metrics", get(metrics))
        .route("/api/v1/anomalies", get(anomalies))
        .route("/api/v1/doctor", get(doctor))
        .route("/api/v1/processes", get(processes))
        .route_layer(from_fn_with_state(Arc::clone(&shared), limit))
        // Those above this line are limited, those below are not.
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(compression)
        .with_state(shared)
}

/// Checks the password, if there is one, and adds the headers of the file.
pub async fn guard(
    State(config): State<watch::Receiver<Arc<WebConfig>>>,
    request: Request,
    next: Next,
) -> Response {
    let config = Arc::clone(&config.borrow());
    let mut response = if config.users.admit(request.headers()).await {
        next.run(request).await
    } else {
        let challenge = [(header::WWW_AUTHENTICATE, r#"Basic realm="observer""#)];
        (StatusCode::UNAUTHORIZED, challenge, "unauthorized\n").into_response()
    };
    for (name, value) in &config.headers {
        response.headers_mut().insert(name, value.clone());
    }
    response
}

/// Admits [`App::max_requests`] requests of either kind of client, each until its response was sent.
async fn limit(
    State(shared): State<Arc<Shared>>,
    Extension(connection): Extension<Connection>,
    request: Request,
    next: Next,
) -> Response {
    let Connection { scraping, is_local } = connection;
    let permits = match is_local {
        true => &shared.local_permits,
        false => &shared.permits,
    };
    let Ok(permit) = Arc::clone(permits).try_acquire_owned() else {
        let body = "too many scrapes at the same time\n";
        let retry = [(header::RETRY_AFTER, RETRY_AFTER)];
        return (StatusCode::SERVICE_UNAVAILABLE, NO_CACHE, retry, body).into_response();
    };
    scraping.store(true, Ordering::Relaxed);
    let turn = Turn {
        _permit: permit,
        scraping,
    };
    // The closure holds it until the body was sent, or the connection ended.
    let held = move |error| {
        let _ = &turn;
        error
    };
    let response = next.run(request).await;
    response.map(|body| Body::new(body.map_err(held)))
}

/// Held by a response of the table.
struct Turn {
    _permit: OwnedSemaphorePermit,
    scraping: Arc<AtomicBool>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.scraping.store(false, Ordering::Relaxed);
    }
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let asked = Instant::now();
    let exposition = blocking(&shared, move |app, latest| {
        // Requests received before it was started share it.
        if latest.begun.is_some_and(|begun| begun >= asked)
            && let Some(exposition) = latest.exposition.upgrade()
        {
            return Ok(exposition);
        }
        let begun = Instant::now();
        let ours = app.exporter.scrape().into_iter().map(Bytes::from_owner);
        let mut pieces: Vec<Bytes> = ours.collect();
        // Gathered last, so that counters of the daemon's work include what the exporter shows.
        let mut others = String::new();
        let families = app.registry.gather();
        let encoded = TextEncoder::new().encode_utf8(&families, &mut others);
        encoded.map_err(|error| error.to_string())?;
        pieces.push(others.into());
        let exposition = Arc::new(pieces);
        *latest = Latest {
            begun: Some(begun),
            exposition: Arc::downgrade(&exposition),
        };
        Ok(exposition)
    });
    match exposition.await {
        Ok(exposition) => {
            let body = Body::new(Pieces {
                exposition,
                next: 0,
            });
            (NO_CACHE, [(header::CONTENT_TYPE, TEXT_FORMAT)], body).into_response()
        }
        Err(error) => failure(&error),
    }
}

/// A body of several pieces, which are not concatenated.
struct Pieces {
    exposition: Arc<Vec<Bytes>>,
    next: usize,
}

impl Pieces {
    fn rest(&self) -> &[Bytes] {
        self.exposition.get(self.next..).unwrap_or_default()
    }
}

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.rest().first().cloned();
        self.next += 1;
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest().is_empty()
    }

    /// Exact, so that a response that is not compressed has a Content-Length.
    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest().iter().map(|piece| piece.len() as u64).sum())
    }
}

async fn index(State(shared): State<Arc<Shared>>) -> Response {
    let App {
        exporter, health, ..
    } = &shared.app;
    let page = page::page(exporter, health, &shared.app.snapshot());
    (NO_CACHE, Html(page)).into_response()
}

async fn processes(State(shared): State<Arc<Shared>>, uri: Uri) -> Response {
    let App { exporter, .. } = &shared.app;
    json(api::processes(
        exporter,
        &shared.app.snapshot(),
        uri.query(),
    ))
}

async fn anomalies(State(shared): State<Arc<Shared>>, uri: Uri) -> Response {
    json(api::anomalies(&shared.app.exporter, uri.query()))
}

async fn doctor(State(shared): State<Arc<Shared>>) -> Response {
    let report = blocking(&shared, |app, _| api::doctor(&app.exporter)).await;
    match report {
        Ok(report) => json(Ok(report)),
        Err(error) => failure(&error),
    }
}

fn json(answer: Result<String, String>) -> Response {
    match answer {
        Ok(json) => (NO_CACHE, [(header::CONTENT_TYPE, JSON)], json).into_response(),
        Err(error) => (StatusCode::BAD_REQUEST, NO_CACHE, error).into_response(),
    }
}

/// Runs `work`, which takes locks and reads files, on a thread for blocking work, one at a time. `work`
/// holds the lock until it ends, even if this future is dropped because the client disconnected:
/// clients that time out and retry must not cause concurrent work.
async fn blocking<T: Send + 'static>(
    shared: &Arc<Shared>,
    work: impl FnOnce(&App, &mut Latest) -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let mut latest = Arc::clone(&shared.latest).lock_owned().await;
    let worker = Arc::clone(shared);
    let work = move || work(&worker.app, &mut latest);
    // The thread is started by a thread of the reader's runtime, whose privileges it inherits.
    let reader = &shared.app.reader;
    let result = reader.spawn(async { tokio::task::spawn_blocking(work).await });
    match result.await {
        Ok(Ok(result)) => result,
        Ok(Err(error)) | Err(error) => Err(error.to_string()),
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
        "nothing at {}; there are /, /metrics, /api/v1/processes, /api/v1/anomalies, /api/v1/doctor, /healthz and /readyz\n",
        uri.path()
    );
    (StatusCode::NOT_FOUND, NO_CACHE, body).into_response()
}

async fn method_not_allowed() -> Response {
    let body = "only GET and HEAD\n";
    (StatusCode::METHOD_NOT_ALLOWED, NO_CACHE, body).into_response()
}
