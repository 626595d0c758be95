//! The socket below a connection to a replica, which can be looked at before the connection is used again.

use std::io::{self, ErrorKind, IoSlice, Read};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A socket, and whether the next read shall ask the kernel itself.
///
/// The runtime knows of a socket what it heard when it last waited. A replica that has closed since would be written to:
/// the request would be lost, and nobody could tell whether it was read.
pub(super) struct Wire {
    stream: TcpStream,
    look: Look,
}

/// Has the next read of a [`Wire`] ask the kernel, whatever the runtime knows.
#[derive(Clone, Debug, Default)]
pub(super) struct Look(Arc<AtomicBool>);

impl Look {
    pub(super) fn closely(&self) {
        self.0.store(true, Relaxed);
    }
}

impl Wire {
    pub(super) fn new(stream: TcpStream) -> (Self, Look) {
        let look = Look::default();
        (Self { stream, look: look.clone() }, look)
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if read.is_ready() || !self.look.0.load(Relaxed) {
            return read;
        }
        self.look.0.store(false, Relaxed);
        let mut byte = [0];
        match (&*SockRef::from(&self.stream)).read(&mut byte) {
            Ok(read) => {
                buf.put_slice(&byte[..read]); // none: it is closed; one: the replica speaks out of turn
                Poll::Ready(Ok(()))
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
