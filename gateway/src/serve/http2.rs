//! HTTP/2: many requests on one connection, each a task of its own.
//!
//! hyper drops a stream's task when its client resets it, and with it all work. Three things hyper does not look at are
//! looked at here: a stream whose client takes nothing of its answer, a connection on which nothing happens, and how many
//! requests there are over all connections.

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HeaderValue};
use http::{Method, Request, Response};
use hyper::body::{Body, Incoming};
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::timeout;
use tutti_api::LimitsSpec;

use super::connection::{CLOSE_WITHIN, PROBE_AFTER, PROBE_EVERY, wind_up};
use super::core::Counted;
use super::paced::{Paced, guarded};
use super::places::{Place, Places};
use super::socket::Socket;
use super::stream::Stream;
use crate::ending::{Ending, Phase};
use crate::errors::{Code, Failure};
use crate::exchange::ResponseBody;
use crate::handle::{handle, refuse};
use crate::limits::{self, Limit, Seldom};
use crate::shared::Shared;

/// What a client may send of one body before the gateway has read it. Unit: bytes.
const STREAM_WINDOW: u32 = 256 << 10;
/// What it may send of all its bodies together. Unit: bytes.
const CONNECTION_WINDOW: u32 = 1 << 20;
/// What is held of an answer that waits for its turn on the connection. Unit: bytes.
const SEND_BUFFER: usize = 64 << 10;
/// Streams that a client has reset before they were looked at, and those that were reset for its faults; a client with
/// more is cut (CVE-2023-44487, "rapid reset"). Unit: streams.
const RESET_MAX: usize = 50;
/// Headers in a head, as in HTTP/1.1.
const HEADERS_MAX: usize = 100;
/// What the table of sizes in RFC 9113, 6.5.2 adds for each header. Unit: bytes.
const HEADER_OVERHEAD: usize = 32;

/// Serves a connection to its end.
pub(super) async fn serve(
    socket: Socket<Stream>,
    peer: SocketAddr,
    counted: Counted,
    shared: Arc<Shared>,
    limits: LimitsSpec,
) {
    let places = Arc::new(Places::new(counted));
    let max_head = limits.header.bytes();
    let service = service_fn({
        let (places, shared) = (places.clone(), shared.clone());
        move |request| answer(shared.clone(), request, places.take(&shared), max_head)
    });
    let mut connection =
        http2::Builder::new(Streams { patience: limits.write_stall.get(), ending: shared.ending.clone() })
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.h2_streams)
            // A head that is somewhat too large gets an answer of ours; beyond, the library refuses it on its own.
            .max_header_list_size(u32::try_from(max_head.saturating_mul(2)).unwrap_or(u32::MAX))
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .max_pending_accept_reset_streams(RESET_MAX)
            .max_local_error_reset_streams(RESET_MAX)
            .keep_alive_interval(PROBE_AFTER)
            .keep_alive_timeout(PROBE_EVERY)
            .serve_connection(TokioIo::new(socket), service);
    let idle = places.activity.idle_for(limits.header_timeout.get());
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = shared.ending.reached(Phase::Draining) => {
            Pin::new(&mut connection).graceful_shutdown(); // GOAWAY, at once: what has begun ends, and nothing is lost
            let shut = |connection: Pin<&mut _>| http2::Connection::graceful_shutdown(connection);
            match wind_up(&mut connection, shut, &places.activity, &shared.ending).await {
                Some(ended) => ended,
                None => return,
            }
        }
        () = idle => {
            Pin::new(&mut connection).graceful_shutdown();
            match timeout(CLOSE_WITHIN, &mut connection).await {
                Ok(ended) => ended,
                Err(_) if places.activity.at_work() == 0 => return,
                Err(_) => connection.await, // a request came at the last moment
            }
        }
    };
    if let Err(error) = ended {
        judge(&error, peer);
    }
}

/// Says and counts it where the library ended a connection for what its client did.
fn judge(error: &hyper::Error, peer: SocketAddr) {
    static CUT: Seldom = Seldom::new();
    let reason = error.source().and_then(|source| source.downcast_ref::<h2::Error>()?.reason());
    if reason == Some(h2::Reason::ENHANCE_YOUR_CALM) {
        limits::hit(Limit::H2Flood);
        if let Some(unsaid) = CUT.say() {
            tracing::warn!(client = %peer.ip(), unsaid, "an HTTP/2 client is cut: it resets or sends heads without end");
        }
    }
    tracing::debug!(%error, "a connection ended early");
}

async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
    place: Option<Place>,
    max_head: usize,
) -> Result<Response<Paced>, Infallible> {
    let refusal = match &place {
        None => Some(Failure::new(Code::Overloaded, "as many requests are at work as may: try again")),
        Some(_) => too_large(&request, max_head),
    };
    let is_head = request.method() == Method::HEAD;
    let mut response = match refusal {
        Some(failure) => refuse(request, &failure),
        None => Box::pin(handle(shared, request)).await?, // whose memory is not needed once a stream has begun
    };
    if is_head {
        without_body(&mut response); // hyper leaves it out by itself in HTTP/1.1 alone
    }
    Ok(response.map(|body| Paced::new(body, place)))
}

/// Takes the body out of an answer, and says how long it would have been.
fn without_body(response: &mut Response<ResponseBody>) {
    if let Some(length) = response.body().size_hint().exact() {
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    *response.body_mut() = ResponseBody::whole(Bytes::new());
}

/// HTTP/1.1's bounds of a head.
fn too_large(request: &Request<Incoming>, max: usize) -> Option<Failure> {
    let headers = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + HEADER_OVERHEAD);
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    let bytes: usize = headers.sum::<usize>() + target;
    if bytes <= max && request.headers().len() <= HEADERS_MAX {
        return None;
    }
    limits::hit(Limit::Header);
    let message = format!("a head has at most {max} bytes and {HEADERS_MAX} headers");
    Some(Failure::new(Code::HeaderTooLarge, message))
}

/// Runs each stream as a task.
#[derive(Clone)]
struct Streams {
    patience: Duration,
    ending: Arc<Ending>,
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        tokio::spawn(guarded(Box::pin(stream), self.patience, self.ending.clone()));
    }
}
