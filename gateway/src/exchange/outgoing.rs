//! The body on its way to a replica.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};

/// The pieces of an edited body, in order; its length is known.
///
/// hyper's client keeps room for 32 requests a connection, so what lies here in line is paid 32 times.
#[derive(Debug, Default)]
pub(crate) struct Outgoing(Vec<Bytes>);

impl Outgoing {
    pub(crate) fn new(mut pieces: Vec<Bytes>) -> Self {
        pieces.reverse(); // they leave from the end
        Self(pieces)
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(|piece| piece.remaining() as u64).sum())
    }
}
