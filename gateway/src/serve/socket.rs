//! A client's socket, as hyper reads and writes it.
//!
//! hyper reads nothing while it holds bytes of the next request, and asks an answer's body for nothing while it cannot
//! write. A request would go on for a client that is not there, or does not listen. So the socket looks for itself: it
//! reads ahead until it sees the end of the stream, and gives a write only so long. HTTP/2 reads all the time, and needs
//! only the latter.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use crate::limits::{self, Limit};

/// How much is read ahead of hyper. The end behind more than that is seen when hyper has come to it. Unit: bytes.
const AHEAD: usize = 16 << 10;

/// How a client of HTTP/2 begins (RFC 9113, 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The stream of one client.
pub(super) struct Socket<S> {
    stream: S,
    /// Read ahead, for hyper to take first.
    ahead: BytesMut,
    /// Since the last look hyper has asked for bytes and there were none: it sees the end itself.
    awaited: bool,
    /// Whether it looks for itself.
    looks: bool,
    /// The last read was from what is ahead, or filled all that hyper had room for: there may be more, and hyper comes for
    /// it in its next turn.
    more: bool,
    /// How long the client may take nothing.
    patience: Duration,
    /// Runs while it does not.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    /// Cut when the client takes nothing for as long as `patience`.
    pub(super) fn new(stream: S, patience: Duration) -> Self {
        Self { stream, ahead: BytesMut::new(), awaited: false, looks: true, more: false, patience, stalled: None }
    }

    /// One that HTTP/2 reads.
    pub(super) fn of_http2(self) -> Self {
        Self { looks: false, ..self }
    }

    /// Whether the client begins as HTTP/2 does; hyper gets those bytes too.
    pub(super) async fn speaks_http2(&mut self) -> io::Result<bool> {
        poll_fn(|cx| {
            loop {
                let known = self.ahead.len().min(PREFACE.len());
                if self.ahead[..known] != PREFACE[..known] {
                    return Poll::Ready(Ok(false));
                }
                if known == PREFACE.len() {
                    return Poll::Ready(Ok(true));
                }
                if ready!(self.read_ahead(cx))? == 0 {
                    return Poll::Ready(Ok(false)); // hyper sees the end too
                }
            }
        })
        .await
    }

    /// Whether there is anything that hyper has not taken.
    pub(super) fn has_ahead(&self) -> bool {
        !self.ahead.is_empty()
    }

    /// Reads some bytes ahead of hyper; 0 at the end of the stream.
    fn read_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut bytes = [0; 2048];
        let room = bytes.len().min(AHEAD - self.ahead.len());
        let mut read = ReadBuf::new(&mut bytes[..room]);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
        self.ahead.extend_from_slice(read.filled());
        Poll::Ready(Ok(read.filled().len()))
    }

    /// Looks whether the client is still there, and has the task woken when it leaves.
    fn look(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if mem::take(&mut self.awaited) || !self.looks {
            return Ok(());
        }
        if mem::take(&mut self.more) {
            cx.waker().wake_by_ref(); // whether it came is seen then
            return Ok(());
        }
        while self.ahead.len() < AHEAD {
            match self.read_ahead(cx)? {
                Poll::Pending => break,
                Poll::Ready(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the client has left")),
                Poll::Ready(_) => cx.waker().wake_by_ref(), // hyper may have asked for them before
            }
        }
        Ok(())
    }

    /// What came of a write or a flush; one that waits too long is an error.
    fn written<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        self.look(cx)?;
        let patience = self.patience;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(patience)));
        stalled.as_mut().poll(cx).map(|()| {
            limits::hit(Limit::WriteStall);
            Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing"))
        })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Socket<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            let read = Pin::new(&mut self.stream).poll_read(cx, buf);
            self.awaited = read.is_pending();
            self.more = read.is_ready() && buf.remaining() == 0;
            return read;
        }
        self.more = true;
        let most = buf.remaining().min(self.ahead.len());
        buf.put_slice(&self.ahead.split_to(most));
        if self.ahead.is_empty() {
            self.ahead = BytesMut::new(); // its memory is not needed any more
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Socket<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.written(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.written(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper ends each of its turns with a flush, whether it has written or not: the moment to look.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.look(cx)?;
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if flushed.is_ready() {
            return flushed; // as it always is without TLS: what was written is the kernel's
        }
        self.written(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::{pending, ready};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use bytes::Bytes;
    use http::{Request, Response};
    use http_body::{Body, Frame};
    use http_body_util::{BodyExt, Empty, Full};
    use hyper::body::Incoming;
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::task::JoinHandle;
    use tokio::time::{Instant, timeout};

    use super::*;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: here\r\n\r\n";
    /// What fits between the client and the socket. Unit: bytes.
    const PIPE: usize = 1024;
    const SECOND: Duration = Duration::from_secs(1);
    const STALLED: Duration = Duration::from_secs(120);

    /// A body without an end.
    struct Flood;

    /// A stream that counts how often it is read.
    struct Counted(DuplexStream, Arc<AtomicUsize>);

    impl AsyncRead for Counted {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            self.1.fetch_add(1, Relaxed);
            Pin::new(&mut self.0).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for Counted {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.0).poll_write(cx, buf)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    impl Body for Flood {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[0; PIPE])))))
        }
    }

    /// A client whose requests hyper serves with these answers, and what came of its connection.
    fn client<F, B>(answer: fn() -> F) -> (DuplexStream, JoinHandle<hyper::Result<()>>)
    where
        F: Future<Output = B> + Send + 'static,
        B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
    {
        let (client, server) = duplex(PIPE);
        let service = service_fn(move |_| async move { Ok::<_, Infallible>(Response::new(answer().await)) });
        let connection = http1::Builder::new().serve_connection(TokioIo::new(Socket::new(server, STALLED)), service);
        (client, tokio::spawn(connection))
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_behind_bytes_that_hyper_does_not_read_ends_the_connection() {
        for tail in [&b"\r\n"[..], b"GET /ne", REQUEST, &[b'x'; 3 * PIPE]] {
            let (mut client, connection) = client(pending::<Empty<Bytes>>);
            client.write_all(REQUEST).await.unwrap();
            client.write_all(tail).await.unwrap();
            drop(client);
            let ended = timeout(SECOND, connection).await.unwrap_or_else(|_| panic!("{tail:?}: not seen"));
            assert!(ended.unwrap().is_err());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_read_ahead_is_answered_in_its_turn() {
        let (mut client, _connection) = client(|| async {
            sleep(SECOND).await;
            Empty::new()
        });
        for _ in 0..3 {
            client.write_all(REQUEST).await.unwrap();
            sleep(SECOND / 10).await; // the next ones come while the first is at work
        }
        let mut answers = Vec::new();
        while timeout(2 * SECOND, client.read_buf(&mut answers)).await.is_ok() {}
        assert_eq!(String::from_utf8(answers).unwrap().matches("HTTP/1.1 200 OK").count(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_body_is_read_by_hyper_alone() {
        const BODY: usize = 512 << 10;
        let (mut client, server) = duplex(2 * BODY);
        let reads = Arc::new(AtomicUsize::new(0));
        let mut stream = Socket::new(Counted(server, reads.clone()), STALLED);
        let service = service_fn(|request: Request<Incoming>| async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(body.len().to_string())))
        });
        let head = format!("POST / HTTP/1.1\r\nhost: here\r\ncontent-length: {BODY}\r\n\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        client.write_all(&vec![b'x'; BODY]).await.unwrap();
        assert!(!stream.speaks_http2().await.unwrap()); // it has read ahead for that
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        let mut answer = Vec::new();
        while !answer.ends_with(BODY.to_string().as_bytes()) {
            timeout(SECOND, client.read_buf(&mut answer)).await.unwrap().unwrap();
        }
        // hyper's room grows from 8 KiB on.
        assert!(reads.load(Relaxed) < BODY / (8 << 10), "{} reads", reads.load(Relaxed));
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_much_is_read_ahead() {
        let (mut client, connection) = client(pending::<Empty<Bytes>>);
        client.write_all(REQUEST).await.unwrap();
        let mut taken = 0;
        while let Ok(written) = timeout(SECOND, client.write(&[b'x'; PIPE])).await {
            taken += written.unwrap();
        }
        // What hyper itself reads is no more than its first buffer.
        assert!((AHEAD..=AHEAD + PIPE + 8192).contains(&taken), "{taken}");
        assert!(!connection.is_finished());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_cut() {
        let (mut client, connection) = client(|| ready(Flood));
        client.write_all(REQUEST).await.unwrap();
        let begun = Instant::now();
        assert!(timeout(2 * STALLED, connection).await.expect("it ends").unwrap().is_err());
        assert_eq!(begun.elapsed().as_secs(), STALLED.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_little_is_not() {
        let (mut client, connection) = client(|| ready(Flood));
        client.write_all(REQUEST).await.unwrap();
        for _ in 0..10 {
            sleep(STALLED - SECOND).await;
            client.read_exact(&mut [0; 10]).await.unwrap();
        }
        assert!(!connection.is_finished());
    }
}
