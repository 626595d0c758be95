//! A client's connection.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use tutti_api::LimitsSpec;

use super::core::Counted;
use super::handshake::shake;
use super::socket::Socket;
use super::stream::Stream;
use crate::handle::handle;
use crate::limits::{self, Limit, Seldom};
use crate::shared::Shared;

/// How long a draining gateway waits for the rest of a handshake, or of a connection's first head.
const HEAD_IN_DRAIN: Duration = Duration::from_secs(1);
/// How long a connection is silent before the kernel asks whether the client's machine is there.
const PROBE_AFTER: Duration = Duration::from_secs(60);
/// How often it asks then.
const PROBE_EVERY: Duration = Duration::from_secs(10);
/// How often it asks in vain.
const PROBES: u32 = 3;

/// Serves a connection to its end. hyper drops the handler, and with it all work, when the client goes ([`Socket`]).
pub(super) async fn serve(socket: TcpStream, peer: SocketAddr, _counted: Counted, shared: Arc<Shared>) {
    let limits = shared.table().config.gateway.limits.clone();
    let stream = match prepare(socket, &limits) {
        Ok(stream) => stream,
        Err(error) => return tracing::debug!(%error, "a connection was lost before it began"),
    };
    let mut draining = shared.drained();
    let stream = match &shared.tls {
        None => Stream::Plain(stream),
        Some(tls) => {
            let shaken = Box::pin(shake(stream, peer, tls, limits.handshake_timeout.get(), &shared));
            let too_late = async {
                draining.begins().await;
                tokio::time::sleep(HEAD_IN_DRAIN).await;
            };
            tokio::select! {
                shaken = shaken => match shaken {
                    Some(stream) => Stream::Tls(Box::new(stream)),
                    None => return,
                },
                () = too_late => return,
            }
        }
    };
    let max_head = limits.header.bytes();
    let asked = AtomicBool::new(false);
    let service = service_fn(|request| {
        asked.store(true, Relaxed);
        handle(shared.clone(), request)
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout.get())
        .max_header_size(max_head)
        .max_buf_size(max_head.max(8 << 10)) // less hyper does not take
        .serve_connection(TokioIo::new(Socket::new(stream, limits.write_stall.get())), service);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = draining.begins() => {
            Pin::new(&mut connection).graceful_shutdown(); // an idle one closes, a busy one after its answer
            match tokio::time::timeout(HEAD_IN_DRAIN, &mut connection).await {
                Ok(ended) => ended,
                Err(_) if asked.load(Relaxed) => (&mut connection).await,
                Err(_) => return, // to hyper half a head is busy
            }
        }
    };
    let Err(error) = ended else { return };
    if error.is_parse() {
        refused(&error, peer, &shared);
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

fn prepare(socket: TcpStream, limits: &LimitsSpec) -> std::io::Result<tokio::net::TcpStream> {
    socket.set_nonblocking(true)?;
    socket.set_nodelay(true)?; // Nagle against delayed acknowledgements costs 40 ms
    // A client whose machine or network is gone says nothing more; only asking or sending tells.
    let probes = TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_EVERY).with_retries(PROBES);
    SockRef::from(&socket).set_tcp_keepalive(&probes)?;
    // The last of an answer may wait in the kernel, where nobody's write waits for it. Later than the writer's own
    // patience, which says whose fault it was.
    #[cfg(target_os = "linux")]
    SockRef::from(&socket).set_tcp_user_timeout(Some(limits.write_stall.get() + PROBE_EVERY))?;
    tokio::net::TcpStream::from_std(socket)
}
