//! The answer to a client whose request waits: SSE comments (WHATWG HTML, "Server-sent events": lines that begin with a colon
//! are left aside) until there is an answer, then that.

use std::pin::Pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body::{Body as _, Frame};
use tokio::time::Sleep;

use super::ResponseBody;
use super::event::{Framing, print_error};
use crate::classify::Dialect;
use crate::dialect::error_of;
use crate::errors::{Code, Failure};
use crate::settle::Settlement;

/// How long a client waits before it hears so, and how often it does then. The first comment commits the status 200, so it
/// does not come sooner, and what goes wrong afterwards is an event.
const COMMENT_EVERY: Duration = Duration::from_secs(10);
const COMMENT: Bytes = Bytes::from_static(b": waiting\n\n");

/// Whether a client can be told that its request waits, and whether it does.
#[derive(Debug, Default)]
pub(crate) struct Waits {
    by: OnceLock<(Framing, Dialect)>,
    waits: AtomicBool,
    told: AtomicBool,
}

impl Waits {
    /// Its client wants events, which may have comments between them.
    pub(crate) fn can_hear(&self, framing: Framing, dialect: Dialect) {
        if framing.is_sse() {
            let _ = self.by.set((framing, dialect)); // a request is read once
        }
    }

    /// It begins, or ends, to wait for a slot.
    pub(crate) fn set(&self, waits: bool) {
        self.waits.store(waits, Relaxed);
    }

    /// Whether its client has heard of it: by a status of 200.
    pub(crate) fn is_told(&self) -> bool {
        self.told.load(Relaxed)
    }

    /// How its client hears of it, while it waits.
    fn told_by(&self) -> Option<(Framing, Dialect)> {
        self.by.get().copied().filter(|_| self.waits.load(Relaxed))
    }
}

/// What comes of a request.
pub(crate) type Served = Result<Response<ResponseBody>, Failure>;
/// A request that is being served, whoever looks at it.
pub(crate) type Serving = Pin<Box<dyn Future<Output = (Box<Settlement>, Served)> + Send>>;

/// How far a request has come when its client is to hear of it.
pub(crate) enum First {
    /// There is an answer.
    Served(Box<Settlement>, Served),
    /// It waits, and a comment is due.
    Waits(Held),
}

/// Serves a request until there is an answer, or a comment is due.
pub(crate) async fn first(mut serving: Serving, waits: &Waits) -> First {
    let mut sleep: Option<Pin<Box<Sleep>>> = None; // most never wait
    let served = std::future::poll_fn(|cx| {
        if let Poll::Ready(served) = serving.as_mut().poll(cx) {
            return Poll::Ready(Ok(served));
        }
        let by = waits.told_by();
        if sleep.is_none() && by.is_none() {
            return Poll::Pending;
        }
        let sleep = sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep(COMMENT_EVERY)));
        while sleep.as_mut().poll(cx).is_ready() {
            if let Some(by) = by {
                return Poll::Ready(Err(by));
            }
            sleep.set(tokio::time::sleep(COMMENT_EVERY)); // it has its slot: the replica's own status is worth waiting for
        }
        Poll::Pending
    });
    match served.await {
        Ok((settlement, served)) => First::Served(settlement, served),
        Err((framing, dialect)) => {
            waits.told.store(true, Relaxed);
            let sleep = Box::pin(tokio::time::sleep(COMMENT_EVERY));
            First::Waits(Held { serving, framing, dialect, sleep, comment: Some(COMMENT), then: None })
        }
    }
}

/// A request whose client hears that it waits.
pub(crate) struct Held {
    serving: Serving,
    framing: Framing,
    dialect: Dialect,
    sleep: Pin<Box<Sleep>>,
    /// One that is due.
    comment: Option<Bytes>,
    /// Its answer.
    then: Option<Box<ResponseBody>>,
}

impl Held {
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            if let Some(then) = &mut self.then {
                let frame = Pin::new(&mut **then).poll_frame(cx);
                return frame.map(|frame| frame.and_then(Result::ok).and_then(|frame| Frame::into_data(frame).ok()));
            }
            if let Some(comment) = self.comment.take() {
                return Poll::Ready(Some(comment));
            }
            match self.serving.as_mut().poll(cx) {
                Poll::Ready((settlement, served)) => {
                    self.serving = Box::pin(std::future::pending()); // its memory is free for as long as the stream lasts
                    self.then = Some(Box::new(self.answer(settlement, served)));
                }
                Poll::Pending if self.sleep.as_mut().poll(cx).is_ready() => {
                    self.sleep.set(tokio::time::sleep(COMMENT_EVERY));
                    self.comment = Some(COMMENT);
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// What the client gets, who has been told 200 already.
    fn answer(&self, mut settlement: Box<Settlement>, served: Served) -> ResponseBody {
        let failure = match served {
            Ok(response) if response.status().is_success() && response.body().is_stream() => {
                let mut body = response.into_body();
                settlement.goes_out(200);
                body.settle(settlement);
                return body;
            }
            Ok(response) => {
                let status = response.status();
                let said = error_of(&response.into_body().into_whole());
                let said = said.unwrap_or_else(|| format!("the replica answered {status}"));
                Failure::quoting(Code::UpstreamError, said).blaming_none() // it was blamed when it answered
            }
            Err(failure) => failure,
        };
        settlement.failed(&failure);
        let mut body = ResponseBody::whole(print_error(self.framing, &failure, self.dialect, 0));
        settlement.goes_out(200);
        body.settle(settlement);
        body
    }
}
