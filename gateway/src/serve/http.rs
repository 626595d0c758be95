//! A client's connection.

use std::net::TcpStream;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};

use super::core::Counted;
use super::socket::{STALLED, Socket};
use crate::handle::handle;
use crate::shared::Shared;

/// How long a head may take to arrive, and how long a connection may lie idle before it.
const HEAD_WITHIN: Duration = Duration::from_secs(75);

/// How long a draining gateway waits for the rest of a connection's first head.
const HEAD_IN_DRAIN: Duration = Duration::from_secs(1);
/// How long a connection is silent before the kernel asks whether the client's machine is there.
const PROBE_AFTER: Duration = Duration::from_secs(60);
/// How often it asks then.
const PROBE_EVERY: Duration = Duration::from_secs(10);
/// How often it asks in vain.
const PROBES: u32 = 3;

/// Serves a connection to its end. hyper drops the handler, and with it all work, when the client goes ([`Socket`]).
pub(super) async fn connection(socket: TcpStream, _counted: Counted, shared: Arc<Shared>) {
    let stream = match prepare(socket) {
        Ok(stream) => stream,
        Err(error) => return tracing::debug!(%error, "a connection was lost before it began"),
    };
    let max_head = shared.table().config.gateway.limits.header.bytes();
    let mut draining = shared.drained();
    let asked = AtomicBool::new(false);
    let service = service_fn(|request| {
        asked.store(true, Relaxed);
        handle(shared.clone(), request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_header_size(max_head)
        .max_buf_size(max_head.max(8 << 10)) // less hyper does not take
        .serve_connection(TokioIo::new(Socket::new(stream)), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = draining.begins() => {
            connection.as_mut().graceful_shutdown(); // an idle one closes, a busy one after its answer
            match tokio::time::timeout(HEAD_IN_DRAIN, connection.as_mut()).await {
                Ok(ended) => ended,
                Err(_) if asked.load(Relaxed) => connection.await,
                Err(_) => return, // to hyper half a head is busy
            }
        }
    };
    if let Err(error) = ended {
        if error.is_parse() {
            shared.refused_heads.fetch_add(1, Relaxed); // nobody else hears of it
        }
        tracing::debug!(%error, "a connection ended early");
    }
}

fn prepare(socket: TcpStream) -> std::io::Result<tokio::net::TcpStream> {
    socket.set_nonblocking(true)?;
    socket.set_nodelay(true)?; // Nagle against delayed acknowledgements costs 40 ms
    // A client whose machine or network is gone says nothing more; only asking or sending tells.
    let probes = TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_EVERY).with_retries(PROBES);
    SockRef::from(&socket).set_tcp_keepalive(&probes)?;
    #[cfg(target_os = "linux")]
    SockRef::from(&socket).set_tcp_user_timeout(Some(STALLED))?;
    tokio::net::TcpStream::from_std(socket)
}
