//! The server for scrapes: HTTP/1.1 at an address or a Unix socket, one request a connection.
//!
//! Whoever may connect is not trusted: there are [`MAX_CONNECTIONS`] at a time, a connection ends after [`TIMEOUT`], its
//! request has [`MAX_REQUEST_BYTES`] at most, and the text is made once for all who ask at about the same time.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener as BlockingTcp};
use std::os::unix::net::UnixListener as BlockingUnix;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use huddle_host::socket::{NoRoom, listen_private};
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::encode::Format;
use super::settings::Listen;
use super::shared::Metrics;

/// Connections at a time; further ones wait in the kernel's queue.
pub const MAX_CONNECTIONS: usize = 16;
/// A connection ends after so long, whatever was sent or read.
pub const TIMEOUT: Duration = Duration::from_secs(10);
/// The request line and headers have to arrive in so long.
const HEADER_TIMEOUT: Duration = Duration::from_secs(3);
/// Most that a request line and its headers may have; hyper takes no lower limit.
pub const MAX_REQUEST_BYTES: usize = 8 << 10;

/// Why metrics cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another program is there.
    #[error("another program listens at {0}; give another place in [metrics] listen")]
    Taken(Listen),
    /// Something that is not a socket is there.
    #[error("{} exists and is not a socket; give another place in [metrics] listen", .0.display())]
    NotASocket(PathBuf),
    /// The kernel refuses.
    #[error("cannot listen at {listen} for scrapes of metrics: {source}")]
    Refused {
        /// Where.
        listen: Listen,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Listens for scrapes. A socket's file is removed when this is dropped.
#[derive(Debug)]
pub struct Server {
    listener: Listener,
}

#[derive(Debug)]
enum Listener {
    Address(BlockingTcp),
    Socket(BlockingUnix, PathBuf),
}

impl Server {
    /// Listens from now on; a Unix socket is made for its owner only. Clients wait until [`Server::serve`].
    ///
    /// # Errors
    /// See [`ListenError`].
    pub fn bind(listen: &Listen) -> Result<Self, ListenError> {
        let refused = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => ListenError::Taken(listen.clone()),
            _ => ListenError::Refused { listen: listen.clone(), source },
        };
        let listener = match listen {
            Listen::Address(address) => {
                let listener = BlockingTcp::bind(address).map_err(refused)?;
                listener.set_nonblocking(true).map_err(refused)?;
                Listener::Address(listener)
            }
            Listen::Socket(path) => {
                let listener = listen_private(path).map_err(|why| match why {
                    NoRoom::Taken => ListenError::Taken(listen.clone()),
                    NoRoom::NotASocket => ListenError::NotASocket(path.clone()),
                    NoRoom::Io(source) => refused(source),
                })?;
                Listener::Socket(listener, path.clone())
            }
        };
        Ok(Self { listener })
    }

    /// Where it listens: an address with the port that the kernel chose if 0 was given.
    pub fn place(&self) -> Option<Listen> {
        match &self.listener {
            Listener::Address(listener) => listener.local_addr().ok().map(Listen::Address),
            Listener::Socket(_, path) => Some(Listen::Socket(path.clone())),
        }
    }

    /// The address it listens at; `None` for a Unix socket.
    pub fn address(&self) -> Option<SocketAddr> {
        match self.place()? {
            Listen::Address(address) => Some(address),
            Listen::Socket(_) => None,
        }
    }

    /// Serves until the future is dropped. Within a runtime.
    pub async fn serve(self, metrics: Arc<Metrics>) {
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut connections = JoinSet::new();
        let accepting = match &self.listener {
            Listener::Address(listener) => {
                listener.try_clone().and_then(TcpListener::from_std).map(Accepting::Address)
            }
            Listener::Socket(listener, _) => {
                listener.try_clone().and_then(UnixListener::from_std).map(Accepting::Socket)
            }
        };
        let accepting = match accepting {
            Ok(accepting) => accepting,
            Err(error) => {
                tracing::error!("metrics cannot be served: {error}");
                return;
            }
        };
        loop {
            while connections.try_join_next().is_some() {}
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
            let metrics = Arc::clone(&metrics);
            let accepted = match &accepting {
                Accepting::Address(listener) => listener.accept().await.map(|(stream, _)| {
                    connections.spawn(answer(stream, metrics, permit));
                }),
                Accepting::Socket(listener) => listener.accept().await.map(|(stream, _)| {
                    connections.spawn(answer(stream, metrics, permit));
                }),
            };
            if let Err(error) = accepted {
                tracing::warn!("a scrape could not connect: {error}");
                // For example out of descriptors, which does not pass at once.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

enum Accepting {
    Address(TcpListener),
    Socket(UnixListener),
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Listener::Socket(_, path) = &self.listener {
            // Somebody else may have removed it.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Answers one request.
async fn answer(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    metrics: Arc<Metrics>,
    _permit: OwnedSemaphorePermit,
) {
    let service = service_fn(move |request| {
        let metrics = Arc::clone(&metrics);
        async move { Ok::<_, Infallible>(response(&request, metrics).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_REQUEST_BYTES)
        // The next scrape is seconds away, and an idle connection would take the place of another one.
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!("a scrape failed: {error}"),
        Err(_) => tracing::debug!("a scrape took longer than {} s", TIMEOUT.as_secs()),
    }
}

async fn response<B>(request: &Request<B>, metrics: Arc<Metrics>) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refused = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered\n");
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    if request.uri().path() != "/metrics" {
        return plain(StatusCode::NOT_FOUND, "metrics are at /metrics\n");
    }
    let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let format = Format::accepted(accept);
    // Off the async threads: the loop's own tasks are among them.
    let Ok(text) = tokio::task::spawn_blocking(move || metrics.text(format)).await else {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "the loop is ending\n");
    };
    let mut response = Response::new(Full::new(Bytes::from_owner(Text(text))));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    response
}

/// A text that all its readers share.
struct Text(Arc<str>);

impl AsRef<[u8]> for Text {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests;
