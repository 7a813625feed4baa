//! The HTTP server: HTTP/1.1, over TLS if the web configuration file says so.
//!
//! Clients can neither exhaust memory nor block health checks:
//!
//! * At most [`App::max_requests`] responses from the table are made at the same time, and all
//!   clients that requested an exposition before it was started share it. Further clients get
//!   status 503.
//! * Each connection is a task. When there are [`CONNECTIONS`], a new one replaces the oldest without a running scrape.
//! * Clients over the Unix socket, such as `observer doctor`, have as many responses and connections of their own.
//! * A TLS handshake, and the head of a request, must complete within [`HEAD_TIMEOUT`]. A client that stops reading its
//!   response is disconnected after [`SEND_TIMEOUT`], one that reads slowly after [`LIFETIME`] and
//!   [`SHUTDOWN_TIMEOUT`].

use std::{
    future::Future,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Extension, Router, middleware::from_fn_with_state};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use observer_core::config::MaxRequests;
use socket2::SockRef;
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};
use tracing::{debug, warn};

use super::{
    impatient::Impatient,
    routes::{App, Connection, guard, router},
};

/// Timeout for a handshake, for the head of a request, and for idle connections.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may go without reading while data waits for it.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// Size of the send buffer of a connection in bytes. By default, on loopback, the buffer of a
/// client that does not read takes 2.5 MB of kernel memory.
const SEND_BUFFER: usize = 128 * 1024;
/// After this time, a connection is shut down gracefully.
const LIFETIME: Duration = Duration::from_secs(60);
/// Time for a graceful shutdown of a connection, and of all when the daemon stops.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);
/// Maximum number of connections over TCP, and over the Unix socket.
const CONNECTIONS: usize = 128;
// So a new connection can always replace one.
const _: () = assert!((MaxRequests::MAX as usize) < CONNECTIONS);
/// Maximum size of the head of a request in bytes.
const HEAD_SIZE: usize = 16 * 1024;

/// The server could not be started.
#[derive(Debug, Error)]
#[error("cannot listen on {address}{}", hint(source))]
pub struct BindError {
    /// The address.
    pub address: SocketAddr,
    /// The error.
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

/// A connection, for the decision which one a new connection replaces.
struct Open {
    task: AbortHandle,
    scraping: Arc<AtomicBool>,
}

/// The listening server.
pub struct Server {
    listener: TcpListener,
    socket: Option<UnixListener>,
    app: App,
}

impl Server {
    /// Listens on `address`. Separate from serving, so that an address in use is an error before
    /// anything is attached, and before there is a tokio runtime.
    ///
    /// # Errors
    ///
    /// When the address is in use or not local.
    pub fn listen(address: SocketAddr) -> Result<std::net::TcpListener, BindError> {
        std::net::TcpListener::bind(address).map_err(|source| BindError { address, source })
    }

    /// Serves on `listener`, within a tokio runtime.
    ///
    /// # Errors
    ///
    /// When tokio cannot register it.
    pub fn new(listener: std::net::TcpListener, app: App) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        // Connections inherit both. The timeout ends those with a closed window, too
        // (`tcp_probe_timer`).
        let options = SockRef::from(&listener);
        options.set_tcp_user_timeout(Some(SEND_TIMEOUT))?;
        options.set_send_buffer_size(SEND_BUFFER)?;
        Ok(Self {
            listener: TcpListener::from_std(listener)?,
            socket: None,
            app,
        })
    }

    /// Serves on a Unix socket, too.
    ///
    /// # Errors
    ///
    /// When tokio cannot register it.
    pub fn with_socket(self, socket: std::os::unix::net::UnixListener) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket: Some(UnixListener::from_std(socket)?),
            ..self
        })
    }

    /// The address on which it listens, with the actual port if port 0 was given.
    ///
    /// # Errors
    ///
    /// When getsockname() fails.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `shutdown` completes, then gives running requests [`SHUTDOWN_TIMEOUT`] to finish.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let web = self.app.web.clone();
        let router = router(self.app);
        // The Unix socket has permissions of its own.
        let guarded = router.clone().layer(from_fn_with_state(web.clone(), guard));
        let (closing, closed) = watch::channel(false);
        let mut connections = JoinSet::new();
        let (mut open, mut open_locally) = (Vec::new(), Vec::new());
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                () = &mut shutdown => break,
                Some(_) = connections.join_next() => continue,
                accepted = accept(&self.listener, self.socket.as_ref()) => accepted,
            };
            match accepted {
                Ok(stream) => {
                    let scraping = Arc::default();
                    let layer = Extension(Connection {
                        scraping: Arc::clone(&scraping),
                        is_local: matches!(stream, Stream::Unix(_)),
                    });
                    let closed = closed.clone();
                    match stream {
                        Stream::Tcp(stream) => {
                            make_room(&mut open);
                            let router = guarded.clone().layer(layer);
                            let tls = web.borrow().tls.clone();
                            let task = connections.spawn(serve_tcp(stream, tls, router, closed));
                            open.push(Open { task, scraping });
                        }
                        Stream::Unix(stream) => {
                            make_room(&mut open_locally);
                            let router = router.clone().layer(layer);
                            let stream = Impatient::new(stream, SEND_TIMEOUT);
                            let task = connections.spawn(serve(stream, router, closed));
                            open_locally.push(Open { task, scraping });
                        }
                    }
                }
                Err(error) => {
                    // Usually EMFILE. Retrying at once would spin.
                    warn!(%error, "cannot accept an HTTP connection");
                    sleep(Duration::from_millis(200)).await;
                }
            }
        }
        drop((self.listener, self.socket));
        let _ = closing.send(true);
        let finished = async { while connections.join_next().await.is_some() {} };
        if timeout(SHUTDOWN_TIMEOUT, finished).await.is_err() {
            debug!("HTTP connections cut off at shutdown");
        }
    }
}

/// A new connection.
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

async fn accept(listener: &TcpListener, socket: Option<&UnixListener>) -> io::Result<Stream> {
    let Some(socket) = socket else {
        return listener
            .accept()
            .await
            .map(|(stream, _)| Stream::Tcp(stream));
    };
    tokio::select! {
        accepted = listener.accept() => accepted.map(|(stream, _)| Stream::Tcp(stream)),
        accepted = socket.accept() => accepted.map(|(stream, _)| Stream::Unix(stream)),
    }
}

/// Ends the oldest connection on which no scrape is under way, if there are [`CONNECTIONS`].
fn make_room(open: &mut Vec<Open>) {
    open.retain(|connection| !connection.task.is_finished());
    let idle = |connection: &Open| !connection.scraping.load(Ordering::Relaxed);
    if open.len() >= CONNECTIONS
        && let Some(oldest) = open.iter().position(idle)
    {
        open.remove(oldest).task.abort();
    }
}

async fn serve_tcp(
    stream: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    router: Router,
    closed: watch::Receiver<bool>,
) {
    let Some(tls) = tls else {
        return serve(stream, router, closed).await;
    };
    match timeout(HEAD_TIMEOUT, TlsAcceptor::from(tls).accept(stream)).await {
        Ok(Ok(stream)) => serve(stream, router, closed).await,
        Ok(Err(error)) => debug!(%error, "TLS handshake failed"),
        Err(_) => debug!("TLS handshake timed out"),
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    router: Router,
    mut closed: watch::Receiver<bool>,
) {
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
            match timeout(SHUTDOWN_TIMEOUT, connection).await {
                Ok(result) => result,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = result {
        debug!(%error, "HTTP connection ended");
    }
}
