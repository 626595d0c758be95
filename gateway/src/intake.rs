//! A request's body, read once into one piece of counted memory.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::CONTENT_ENCODING;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};

use crate::budget::Held;
use crate::errors::{Code, Failure};

/// How long a client may pause within its body.
const PAUSE: Duration = Duration::from_secs(30);

/// Reads the body. `held` grows with it. Units: bytes.
///
/// # Errors
/// Too large, too slow, compressed, broken off, or no memory left for it.
pub(crate) async fn read(
    mut body: Incoming,
    headers: &HeaderMap,
    max: usize,
    budget: usize,
    held: &mut Held,
) -> Result<Bytes, Failure> {
    if headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return Err(Failure::new(
            Code::UnsupportedEncoding,
            "the body is compressed: send it without Content-Encoding",
        ));
    }
    let declared = body.size_hint().exact().and_then(|bytes| usize::try_from(bytes).ok());
    let room = |held: &mut Held, bytes: usize| {
        if held.grow(bytes, budget) {
            Ok(())
        } else {
            Err(Failure::new(Code::Overloaded, "too many bytes of request bodies are in memory: try again"))
        }
    };
    if let Some(bytes) = declared {
        fits(bytes, max)?;
        room(held, bytes)?;
    }
    let (mut first, mut rest) = (Bytes::new(), BytesMut::new());
    loop {
        let frame = match tokio::time::timeout(PAUSE, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => {
                return Err(Failure::new(Code::InvalidBody, format!("the body could not be read: {error}")));
            }
            Ok(None) => break,
            Err(_) => return Err(Failure::new(Code::RequestTimeout, "the body stopped arriving")),
        };
        let Ok(data) = frame.into_data() else { continue };
        if declared.is_none() {
            fits(first.len() + rest.len() + data.len(), max)?;
            room(held, data.len())?;
        }
        if first.is_empty() && rest.is_empty() {
            first = data; // a small body comes in one piece, and is not copied
        } else {
            if rest.is_empty() {
                rest.reserve(declared.unwrap_or(first.len() + data.len()));
                rest.extend_from_slice(&std::mem::take(&mut first));
            }
            rest.extend_from_slice(&data);
        }
        if body.is_end_stream() {
            break;
        }
    }
    Ok(if rest.is_empty() { first } else { rest.freeze() })
}

fn fits(bytes: usize, max: usize) -> Result<(), Failure> {
    if bytes > max {
        return Err(Failure::new(
            Code::BodyTooLarge,
            format!("the body has more than the {max} bytes that are allowed"),
        ));
    }
    Ok(())
}
