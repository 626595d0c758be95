//! A client's connection, up to the protocol that it speaks.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{sleep, timeout};
use tutti_api::LimitsSpec;

use super::activity::Activity;
use super::core::Counted;
use super::handshake::shake;
use super::socket::Socket;
use super::stream::Stream;
use super::{http1, http2};
use crate::ending::{Ending, Phase};
use crate::limits::{self, Limit};
use crate::shared::Shared;
use crate::tls::HTTP_2;

/// How long a gateway that closes a connection waits for the rest of a handshake or a head, or for its client to go.
pub(super) const CLOSE_WITHIN: Duration = Duration::from_secs(1);
/// How long a connection is silent before the client's machine is asked whether it is there.
pub(super) const PROBE_AFTER: Duration = Duration::from_secs(60);
/// How long the answer may take; the kernel asks again as often.
pub(super) const PROBE_EVERY: Duration = Duration::from_secs(10);
/// How long a client may go on sending what nobody reads any more.
const LINGER: Duration = Duration::from_secs(5);
/// How long it may pause meanwhile.
const LINGER_PAUSE: Duration = Duration::from_secs(1);
/// How often the kernel asks in vain.
const PROBES: u32 = 3;

/// Serves a connection to its end.
pub(super) async fn serve(socket: TcpStream, peer: SocketAddr, counted: Counted, shared: Arc<Shared>) {
    let limits = shared.table().config.gateway.limits.clone();
    let too_late = async {
        shared.ending.reached(Phase::Draining).await;
        sleep(CLOSE_WITHIN).await;
    };
    let opened = tokio::select! {
        biased; // mostly its first bytes are there
        opened = Box::pin(open(socket, peer, &shared, &limits)) => opened,
        () = too_late => return,
    };
    match opened {
        Ok(Some((socket, true))) => Box::pin(http2::serve(socket, peer, counted, shared, limits)).await,
        Ok(Some((socket, false))) => {
            http1::serve(socket, peer, &shared, limits.header.bytes(), limits.header_timeout.get()).await;
        }
        Ok(None) => {}
        Err(error) => tracing::debug!(%error, "a connection was lost before it began"),
    }
}

/// Lets a connection of a gateway that drains come to its end. One that lies idle is given time for a request that may be
/// on its way, then closed by `shut`, as which a busy one closes after its answer; what is neither then, half a head or a
/// client that does not go, is dropped: `None`. Whatever is at work is woken when the gateway is over.
pub(super) async fn wind_up<C: Future + Unpin>(
    mut connection: &mut C,
    shut: impl Fn(Pin<&mut C>),
    activity: &Activity,
    ending: &Ending,
) -> Option<C::Output> {
    let mut over = pin!(ending.reached(Phase::Over));
    let (mut is_over, mut is_shut) = (false, false);
    loop {
        tokio::select! {
            ended = &mut connection => return Some(ended),
            () = over.as_mut(), if !is_over => is_over = true,
            () = activity.idle_for(CLOSE_WITHIN) => {
                if is_shut {
                    return None;
                }
                is_shut = true;
            }
        }
        shut(Pin::new(&mut *connection));
    }
}

/// Comes to terms with the client; yields its socket, and whether it speaks HTTP/2. `None`: it does not speak at all.
async fn open(
    socket: TcpStream,
    peer: SocketAddr,
    shared: &Shared,
    limits: &LimitsSpec,
) -> io::Result<Option<(Socket<Stream>, bool)>> {
    let stream = prepare(socket, limits)?;
    let patience = limits.write_stall.get();
    if let Some(tls) = &shared.tls {
        let shaken = shake(stream, peer, tls, limits.handshake_timeout.get(), shared).await;
        return Ok(shaken.map(|stream| {
            let is_http2 = stream.get_ref().1.alpn_protocol() == Some(HTTP_2);
            let socket = Socket::new(Stream::Tls(Box::new(stream)), patience);
            if is_http2 { (socket.of_http2(), true) } else { (socket, false) }
        }));
    }
    let mut socket = Socket::new(Stream::Plain(stream), patience);
    match timeout(limits.header_timeout.get(), socket.speaks_http2()).await {
        Ok(Ok(true)) => Ok(Some((socket.of_http2(), true))),
        Ok(Ok(false)) => Ok(Some((socket, false))),
        Ok(Err(error)) => Err(error),
        Err(_) => {
            if socket.has_ahead() {
                limits::hit(Limit::HeaderTimeout);
            }
            Ok(None)
        }
    }
}

/// Reads, for a while, what a client sends that has its answer. Closed with bytes unread, its connection would be reset,
/// and the client might see that in place of the answer (RFC 9112, 9.6).
pub(super) async fn linger(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let read = async {
        stream.shutdown().await?;
        let mut bytes = vec![0; 16 << 10]; // in the future it would be each connection's
        while timeout(LINGER_PAUSE, stream.read(&mut bytes)).await?? > 0 {}
        io::Result::Ok(())
    };
    let _ = timeout(LINGER, read).await; // who sends without an end is cut
}

fn prepare(socket: TcpStream, limits: &LimitsSpec) -> io::Result<tokio::net::TcpStream> {
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
