//! The beginning of a client's connection under TLS.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use super::connection::linger;
use crate::limits::{self, Limit, Seldom};
use crate::shared::Shared;
use crate::tls::Tls;

/// What a client hears that speaks HTTP without TLS.
const IN_CLEAR: &str = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n\
    This port speaks HTTPS: write https:// in place of http://.\n";
/// Agrees with the client on keys. `None` where nothing came of it; that is counted, and seldom said.
pub(super) async fn shake(
    stream: TcpStream,
    peer: SocketAddr,
    tls: &Tls,
    within: Duration,
    shared: &Shared,
) -> Option<TlsStream<TcpStream>> {
    static FAILED: Seldom = Seldom::new();
    let error = match timeout(within, agree(stream, tls)).await {
        Ok(Ok(stream)) => return Some(stream),
        Ok(Err(error)) => error,
        Err(_) => {
            limits::hit(Limit::HandshakeTimeout);
            io::Error::new(io::ErrorKind::TimedOut, format!("not within {within:?}"))
        }
    };
    shared.failed_handshakes.fetch_add(1, Relaxed);
    if let Some(unsaid) = FAILED.say() {
        tracing::warn!(%error, client = %peer.ip(), unsaid, "a TLS handshake came to nothing");
    }
    None
}

async fn agree(stream: TcpStream, tls: &Tls) -> io::Result<TlsStream<TcpStream>> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the client left without a word"));
    }
    if first[0].is_ascii_uppercase() {
        in_clear(stream).await?;
        return Err(io::Error::other("the client speaks HTTP without TLS"));
    }
    let _place = match tls.handshakes.try_acquire() {
        Ok(place) => place,
        Err(_) => {
            limits::hit(Limit::Handshakes);
            tls.handshakes.acquire().await.map_err(io::Error::other)?
        }
    };
    tls.acceptor.accept(stream).await
}

/// Tells a client that this port speaks TLS.
async fn in_clear(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(IN_CLEAR.as_bytes()).await?;
    linger(stream).await;
    Ok(())
}
