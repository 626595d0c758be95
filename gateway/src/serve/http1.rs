//! HTTP/1.1: one request at a time on a connection.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http::header::{CONNECTION, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};

use super::activity::{Activity, AtWork};
use super::connection::{linger, wind_up};
use super::socket::Socket;
use super::stream::Stream;
use crate::ending::Phase;
use crate::exchange::ResponseBody;
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
    let activity = Arc::new(Activity::default());
    let has_body = AtomicBool::new(false);
    let service = service_fn(|request: Request<Incoming>| {
        has_body.store(!request.body().is_end_stream(), Relaxed);
        // In a box of its own its memory is given back with the answer's head: a stream lasts longer (8 KB each).
        let (at_work, answer) = (activity.begin(), Box::pin(handle(shared.clone(), request)));
        async move {
            let mut response = answer.await?;
            if shared.ending.has_reached(Phase::Leaving) {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response.map(|body| Answer { body, _at_work: at_work }))
        }
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_header_size(max_head)
        .max_buf_size(max_head.max(8 << 10)) // less hyper does not take
        .serve_connection(TokioIo::new(socket), service);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = shared.ending.reached(Phase::Draining) => {
            match wind_up(&mut connection, |connection| connection.graceful_shutdown(), &activity, &shared.ending).await {
                Some(ended) => ended,
                None => return,
            }
        }
    };
    let parts = connection.into_parts();
    let is_refused = ended.as_ref().is_err_and(hyper::Error::is_parse);
    if let Err(error) = ended {
        if is_refused {
            refused(&error, peer, shared);
        } else if error.is_timeout() && !parts.read_buf.is_empty() {
            limits::hit(Limit::HeaderTimeout); // with nothing read it was idle
        }
        tracing::debug!(%error, "a connection ended early");
        if !is_refused {
            return;
        }
    }
    if is_refused || has_body.load(Relaxed) {
        Box::pin(linger(parts.io.into_inner())).await; // hyper may have answered before it had read all
    }
}

/// An answer's body; the request is at work until it has gone.
struct Answer {
    body: ResponseBody,
    _at_work: AtWork,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
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
