//! A request's body, read once into one piece of counted memory.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_ENCODING;
use http::request::Parts;
use http::{HeaderMap, Request, Version};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tokio::runtime::Handle;
use tokio::time::timeout;
use tutti_api::LimitsSpec;

use crate::budget::Room;
use crate::errors::{Code, Failure};
use crate::limits::{self, Limit};

/// How much of an announced body is reserved before it has arrived. Unit: bytes.
const AHEAD: usize = 1 << 20;

/// Longest body that is copied out of the buffer that it was read into (8 KiB, in HTTP/1.1), so that the connection can use
/// that again while the request waits. Unit: bytes.
const COPIED: usize = 4 << 10;

/// How long a client may go on sending what nobody reads any more, over HTTP/2.
const LINGER: Duration = Duration::from_secs(5);
/// How long it may pause meanwhile.
const LINGER_PAUSE: Duration = Duration::from_secs(1);

/// A request's body. Over HTTP/2, what is not read of it is taken and thrown away for a while: a stream that is reset
/// behind its answer, as RFC 9113, 8.1 has it, is an error without an answer to some clients, among them curl 7.88.
/// Over HTTP/1.1 the connection is closed, and sees to that itself.
pub(crate) struct Arriving {
    body: Option<Incoming>,
    is_http2: bool,
}

impl Arriving {
    /// That of a request, beside its head.
    pub(crate) fn of(request: Request<Incoming>) -> (Parts, Self) {
        let (head, body) = request.into_parts();
        let is_http2 = head.version == Version::HTTP_2;
        (head, Self { body: Some(body), is_http2 })
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        let Some(mut body) = self.body.take().filter(|body| self.is_http2 && !body.is_end_stream()) else { return };
        let Ok(runtime) = Handle::try_current() else { return };
        runtime.spawn(timeout(LINGER, async move {
            while let Ok(Some(Ok(_))) = timeout(LINGER_PAUSE, body.frame()).await {
                if body.is_end_stream() {
                    break;
                }
            }
        }));
    }
}

/// Reads the body. `room` grows with what has arrived, not with what was announced: announcing costs a client nothing.
///
/// # Errors
/// Too large, too slow, compressed, broken off, or no memory left for it.
pub(crate) async fn read(
    mut arriving: Arriving,
    headers: &HeaderMap,
    limits: &LimitsSpec,
    room: &mut Room,
) -> Result<Bytes, Failure> {
    if headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return Err(Failure::new(
            Code::UnsupportedEncoding,
            "the body is compressed: send it without Content-Encoding",
        ));
    }
    let Some(body) = &mut arriving.body else { return Ok(Bytes::new()) };
    let declared = body.size_hint().exact().and_then(|bytes| usize::try_from(bytes).ok());
    let max = limits.body.bytes();
    fits(declared.unwrap_or(0), max)?;
    let all = collected(body, declared.unwrap_or(0), max, limits.body_pause.get(), room);
    timeout(limits.body_timeout.get(), all).await.unwrap_or_else(|_| {
        limits::hit(Limit::BodyTimeout);
        Err(Failure::new(Code::RequestTimeout, "the body arrives too slowly"))
    })
}

async fn collected(
    body: &mut Incoming,
    declared: usize,
    max: usize,
    pause: Duration,
    room: &mut Room,
) -> Result<Bytes, Failure> {
    let (mut first, mut rest) = (Bytes::new(), BytesMut::new());
    loop {
        let frame = match timeout(pause, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => {
                return Err(Failure::new(Code::InvalidBody, format!("the body could not be read: {error}")));
            }
            Ok(None) => break,
            Err(_) => {
                limits::hit(Limit::BodyPause);
                return Err(Failure::new(Code::RequestTimeout, "the body stopped arriving"));
            }
        };
        let Ok(data) = frame.into_data() else { continue };
        fits(first.len() + rest.len() + data.len(), max)?;
        room.grow(data.len())?;
        if first.is_empty() && rest.is_empty() {
            first = data; // comes in one piece, mostly
        } else {
            if rest.is_empty() {
                rest.reserve(declared.clamp(first.len() + data.len(), AHEAD.max(first.len() + data.len())));
                rest.extend_from_slice(&std::mem::take(&mut first));
            }
            rest.extend_from_slice(&data);
        }
        if body.is_end_stream() {
            break;
        }
    }
    Ok(match rest.is_empty() {
        true if first.len() <= COPIED => Bytes::copy_from_slice(&first),
        true => first,
        false => rest.freeze(),
    })
}

fn fits(bytes: usize, max: usize) -> Result<(), Failure> {
    if bytes > max {
        limits::hit(Limit::Body);
        return Err(Failure::new(
            Code::BodyTooLarge,
            format!("the body has more than the {max} bytes that are allowed"),
        ));
    }
    Ok(())
}
