//! HTTP/1.1: one request at a time on a connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};

use super::connection::CLOSE_WITHIN;
use super::socket::Socket;
use super::stream::Stream;
use crate::handle::handle;
use crate::limits::{self, Limit, Seldom};
use crate::shared::Shared;

/// Serves a connection to its end. hyper drops the handler, and with it all work, when the client goes ([`Socket`]).
pub(super) async fn serve(
    socket: Socket<Stream>,
    peer: SocketAddr,
    shared: &Arc<Shared>,
    max_head: usize,
    header_timeout: Duration,
) {
    let mut draining = shared.drained();
    let asked = AtomicBool::new(false);
    let service = service_fn(|request| {
        asked.store(true, Relaxed);
        handle(shared.clone(), request)
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_header_size(max_head)
        .max_buf_size(max_head.max(8 << 10)) // less hyper does not take
        .serve_connection(TokioIo::new(socket), service);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = draining.begins() => {
            Pin::new(&mut connection).graceful_shutdown(); // an idle one closes, a busy one after its answer
            match tokio::time::timeout(CLOSE_WITHIN, &mut connection).await {
                Ok(ended) => ended,
                Err(_) if asked.load(Relaxed) => (&mut connection).await,
                Err(_) => return, // to hyper half a head is busy
            }
        }
    };
    let Err(error) = ended else { return };
    if error.is_parse() {
        refused(&error, peer, shared);
    } else if error.is_timeout() && !connection.into_parts().read_buf.is_empty() {
        limits::hit(Limit::HeaderTimeout); // with nothing read it was idle
    }
    tracing::debug!(%error, "a connection ended early");
}

/// Takes note of a head that hyper answered with 400 or 431: no request came of it, and nobody else hears of it.
fn refused(error: &hyper::Error, peer: SocketAddr, shared: &Shared) {
    static REFUSED: Seldom = Seldom::new();
    shared.refused_heads.fetch_add(1, Relaxed);
    if error.is_parse_too_large() {
        limits::hit(Limit::Header);
    }
    if let Some(unsaid) = REFUSED.say() {
        tracing::warn!(%error, client = %peer.ip(), unsaid, "the head of a request is refused");
    }
}
