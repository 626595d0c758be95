//! The port for other gateways: mutual TLS and HTTP/2, nothing else.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::core::{Counted, Door};
use crate::limits::{self, Limit, Seldom};
use crate::peer::{self, Peers};
use crate::shared::Shared;

/// Connections of other gateways: each has one a core, and one to ask how this one stands.
const CONNECTIONS: usize = 4096;
/// Requests on one of them.
const STREAMS: u32 = 10_000;
/// How long a handshake may take, with the wait for others.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a peer may say nothing before it is asked whether it is there, and how long it may take to say so.
const PROBE: Duration = Duration::from_secs(1);
/// What a peer may send of one body before it was read. Unit: bytes.
const STREAM_WINDOW: u32 = 256 << 10;
/// The same of all bodies on a connection. Unit: bytes.
const CONNECTION_WINDOW: u32 = 8 << 20;
/// What is held of an answer that waits for its turn on the connection. Unit: bytes.
const SEND_BUFFER: usize = 64 << 10;
/// Longest head. Unit: bytes.
const MAX_HEAD: u32 = 64 << 10;
/// Streams that were reset before they were looked at: all that wait, where a gateway leaves.
const RESET_MAX: usize = STREAMS as usize;
/// Pause after an accept that failed: out of files, mostly.
const PAUSE: Duration = Duration::from_millis(50);

/// Accepts until another process has the port, or this one ends: while it drains others ask how far it is.
pub(super) fn accept(listener: TcpListener, doors: Vec<Door>, shared: Arc<Shared>, peers: Arc<Peers>) {
    tokio::spawn(async move {
        let listener = match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, "cannot wait for connections"),
        };
        loop {
            let accepted = tokio::select! {
                biased;
                () = shared.ending.succeeded() => return,
                accepted = listener.accept() => accepted.and_then(|(socket, _)| socket.into_std()),
            };
            let Ok(socket) = accepted else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            if peers.connections.load(Relaxed) >= CONNECTIONS {
                limits::hit(Limit::PeerConnections);
                continue;
            }
            if let Some(door) = doors.iter().min_by_key(|door| door.open()) {
                door.hand_peer(socket);
            }
        }
    });
}

/// A connection in the count, until it is dropped.
struct Place(Arc<Peers>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Relaxed);
    }
}

/// Serves a connection to its end.
pub(super) async fn serve(socket: TcpStream, shared: Arc<Shared>, peers: Arc<Peers>, core: Arc<AtomicUsize>) {
    static FAILED: Seldom = Seldom::new();
    peers.connections.fetch_add(1, Relaxed);
    let _place = Place(peers.clone());
    let from = socket.peer_addr().ok();
    let stream = match timeout(HANDSHAKE, shake(socket, &peers)).await {
        Ok(Ok(stream)) => stream,
        failed => {
            shared.failed_handshakes.fetch_add(1, Relaxed);
            let why = failed.map_or_else(|_| format!("not within {HANDSHAKE:?}"), |why| told(why.err()));
            if let Some(unsaid) = FAILED.say() {
                let from = from.map(|from: SocketAddr| from.ip().to_string());
                tracing::warn!(
                    why,
                    from,
                    unsaid,
                    "who is no gateway of this authority is refused at the port for peers"
                );
            }
            return;
        }
    };
    let service = service_fn({
        let shared = shared.clone();
        move |request| {
            let place = || Counted::forwarded(&core, &shared);
            let answer = peer::answer(&shared, &peers, request, place);
            async move { Ok::<_, std::convert::Infallible>(answer) }
        }
    });
    let mut connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(MAX_HEAD)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(RESET_MAX)
        .keep_alive_interval(PROBE)
        .keep_alive_timeout(PROBE)
        .serve_connection(TokioIo::new(stream), service);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = shared.ending.succeeded() => {
            Pin::new(&mut connection).graceful_shutdown(); // whoever has the port answers there
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection of a peer ended early");
    }
}

fn told(error: Option<io::Error>) -> String {
    error.map(|error| error.to_string()).unwrap_or_default()
}

async fn shake(socket: TcpStream, peers: &Peers) -> io::Result<TlsStream<tokio::net::TcpStream>> {
    socket.set_nonblocking(true)?;
    socket.set_nodelay(true)?;
    let stream = tokio::net::TcpStream::from_std(socket)?;
    let _place = peers.handshakes.acquire().await.map_err(io::Error::other)?;
    TlsAcceptor::from(peers.mutual.current().server.clone()).accept(stream).await
}
