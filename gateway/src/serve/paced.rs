//! An answer that goes out over HTTP/2 as its client takes it.
//!
//! A client of HTTP/2 says for each stream how much it wants, and hyper waits for that without an end. The body says
//! here whether it was asked for more, and who drives the stream ends it when it was not for too long.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::sleep;

use super::places::Place;
use crate::ending::{Ending, Phase};
use crate::exchange::ResponseBody;
use crate::limits::{self, Limit};

/// The largest piece that is given at once: what is not given yet is still the request's, with its memory in the budget.
/// Unit: bytes.
const PIECE: usize = 16 << 10;

/// What a body did when it was last asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// It gave something.
    Gave,
    /// It had nothing yet.
    Waits,
}

thread_local! {
    static ASKED: Cell<Option<Asked>> = const { Cell::new(None) };
}

/// An answer's body in pieces.
pub(super) struct Paced<B = ResponseBody> {
    body: B,
    /// What it gave and was not passed on yet.
    rest: Bytes,
    _place: Option<Place>,
}

impl<B> Paced<B> {
    pub(super) fn new(body: B, place: Option<Place>) -> Self {
        Self { body, rest: Bytes::new(), _place: place }
    }
}

impl<B: Body<Data = Bytes, Error = Infallible> + Unpin> Body for Paced<B> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        if this.rest.is_empty() {
            match Pin::new(&mut this.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => this.rest = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                other => {
                    ASKED.set(Some(Asked::Waits));
                    return other;
                }
            }
        }
        ASKED.set(Some(Asked::Gave));
        let piece = this.rest.split_to(this.rest.len().min(PIECE));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint() // hyper asks before it takes anything
    }
}

/// Drives a stream to its end, or until its client has taken nothing of the answer for as long as `patience`; dropping
/// the stream then resets it. It is woken when the gateway is over.
pub(super) async fn guarded(mut stream: Pin<Box<impl Future<Output = ()>>>, patience: Duration, ending: Arc<Ending>) {
    let mut stalled = None;
    let mut over = pin!(ending.reached(Phase::Over));
    let mut is_over = false;
    poll_fn(|cx| {
        is_over = is_over || over.as_mut().poll(cx).is_ready();
        ASKED.set(None);
        if stream.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        match ASKED.get() {
            // It waits for the replica, not for the client.
            Some(Asked::Waits) => stalled = None,
            Some(Asked::Gave) => stalled = Some(Box::pin(sleep(patience))),
            None => {}
        }
        let Some(sleep) = &mut stalled else { return Poll::Pending };
        sleep.as_mut().poll(cx).map(|()| limits::hit(Limit::WriteStall))
    })
    .await;
}
