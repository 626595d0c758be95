//! The loader's port: for gateways, for whoever starts and watches the replica, and for Prometheus.

mod api;
mod places;
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
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

pub use tls::Tls;
pub use token::{Token, TokenError};

use self::places::{Place, Places};
use crate::board::Board;

/// Connections at once. One more takes the place of the one that has done nothing for longest.
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
    serve_at_most(CONNECTIONS, listener, board, wanted).await
}

async fn serve_at_most(
    most: usize,
    listener: TcpListener,
    board: Arc<Board>,
    wanted: watch::Receiver<Arc<Wanted>>,
) -> Infallible {
    let places = Places::new(most);
    loop {
        let socket = match listener.accept().await {
            Ok((socket, _)) => socket,
            Err(error) => {
                tracing::debug!(%error, "a connection was not accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let place = Arc::new(places.take(&board.metrics).await);
        let (board, wanted) = (board.clone(), wanted.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = secured(socket, board, wanted, place.clone()) => {}
                () = place.taken() => tracing::debug!("an idle connection to the loader gave way to another"),
            }
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

async fn secured(socket: TcpStream, board: Arc<Board>, wanted: watch::Receiver<Arc<Wanted>>, place: Arc<Place>) {
    let tls = wanted.borrow().tls.clone();
    let Some(tls) = tls else { return converse(socket, board, wanted, false, place).await };
    let accept = TlsAcceptor::from(tls.current()).accept(socket);
    match tokio::time::timeout(HANDSHAKE_WITHIN, accept).await {
        Ok(Ok(socket)) => {
            // One that nobody has signed ends the handshake.
            let certified = socket.get_ref().1.peer_certificates().is_some();
            converse(socket, board, wanted, certified, place).await;
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
    place: Arc<Place>,
) {
    let service = service_fn(move |request| {
        let (board, wanted, place) = (board.clone(), wanted.borrow().clone(), place.clone());
        async move {
            let _at_work = place.begin();
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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_port_full_of_those_who_say_nothing_answers_who_asks() {
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let at = listener.local_addr().unwrap();
        let board = Arc::new(Board::new(Instant::now()));
        let (_, wanted) = watch::channel(Arc::new(Wanted::default()));
        let serving = tokio::spawn(serve_at_most(2, listener, board, wanted));
        let mut first = TcpStream::connect(at).await.unwrap();
        let mut second = TcpStream::connect(at).await.unwrap();
        second.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n").await.unwrap(); // and no more

        let ask = |path: &'static str| async move {
            let mut third = TcpStream::connect(at).await.unwrap();
            let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
            third.write_all(head.as_bytes()).await.unwrap();
            let mut answer = String::new();
            third.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let page = ask("/metrics").await;
        assert!(page.contains("tutti_loader_connections_full_total 1\n"), "{page}");
        assert_eq!(first.read(&mut [0; 9]).await.unwrap_or_default(), 0, "it has done nothing for longest");
        second.write_all(b"connection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        second.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("ok\n"), "{answer}");
        assert!(ask("/healthz").await.ends_with("ok\n"));
        serving.abort();
    }
}
