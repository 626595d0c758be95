//! The loader's port: for gateways, for whoever starts and watches the replica, and for Prometheus.

mod api;
mod tls;
mod token;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

pub use tls::Tls;
pub use token::{Token, TokenError};

use crate::board::Board;

/// Connections at once. Further ones wait.
const CONNECTIONS: usize = 256;
/// How long a head may take to arrive, and how long a connection may lie idle before it.
const HEAD_WITHIN: Duration = Duration::from_secs(60);
/// How long a TLS handshake may take.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// How long one exchange may take: the longest wait for news, and some.
const EXCHANGE_WITHIN: Duration = Duration::from_secs(150);
/// Pause after an accept that failed: out of files, mostly.
const PAUSE: Duration = Duration::from_millis(50);

/// Listens on an address.
///
/// # Errors
/// The address is taken or not this machine's.
pub(crate) async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Serves until it is dropped. What `wanted` holds at the time counts: for a connection its TLS, for a request all of it.
pub(crate) async fn serve(
    listener: TcpListener,
    board: Arc<Board>,
    wanted: watch::Receiver<Arc<Wanted>>,
) -> Infallible {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
        let socket = match listener.accept().await {
            Ok((socket, _)) => socket,
            Err(error) => {
                tracing::debug!(%error, "a connection was not accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let (board, wanted) = (board.clone(), wanted.clone());
        tokio::spawn(async move {
            secured(socket, board, wanted).await;
            drop(place);
        });
    }
}

/// What whoever asks must show, but for health and metrics.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) token: Option<Arc<Token>>,
    /// A certificate of who may ask.
    pub(crate) tls: Option<Tls>,
}

async fn secured(socket: TcpStream, board: Arc<Board>, wanted: watch::Receiver<Arc<Wanted>>) {
    let tls = wanted.borrow().tls.clone();
    let Some(tls) = tls else { return converse(socket, board, wanted, false).await };
    let accept = TlsAcceptor::from(tls.current()).accept(socket);
    match tokio::time::timeout(HANDSHAKE_WITHIN, accept).await {
        Ok(Ok(socket)) => {
            // One that nobody has signed ends the handshake.
            let certified = socket.get_ref().1.peer_certificates().is_some();
            converse(socket, board, wanted, certified).await;
        }
        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake came to nothing"),
        Err(_) => tracing::debug!("a TLS handshake took too long"),
    }
}

async fn converse(
    socket: impl AsyncRead + AsyncWrite + Unpin + 'static,
    board: Arc<Board>,
    wanted: watch::Receiver<Arc<Wanted>>,
    certified: bool,
) {
    let service = service_fn(move |request| {
        let (board, wanted) = (board.clone(), wanted.borrow().clone());
        async move {
            let respond = api::respond(&board, &wanted, certified, request);
            let late = |_| api::text(http::StatusCode::REQUEST_TIMEOUT, "the request did not arrive in time\n");
            Ok::<_, Infallible>(tokio::time::timeout(EXCHANGE_WITHIN, respond).await.unwrap_or_else(late))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .serve_connection(TokioIo::new(socket), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection to the loader ended early");
    }
}
