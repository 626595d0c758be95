//! The one body type of every answer.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;

use super::event::print_error;
use super::{Broken, Held, Line, Passing};
use crate::budget::Room;
use crate::classify::Dialect;
use crate::ending::{self, Ending, Phase};
use crate::errors::{Code, Failure};
use crate::health::Cause;
use crate::limits::{self, Limit};
use crate::peer::Answering;
use crate::replica::Replica;
use crate::settle::Settlement;

/// Largest answer that is not a stream. Unit: bytes.
pub(crate) const MAX_WHOLE: usize = 64 << 20;

/// An answer's body. It carries the request's [`Settlement`], so that a request is settled when its last byte has gone
/// out or its client has left, and not when its handler returned.
pub struct ResponseBody {
    kind: Kind,
    settlement: Option<Box<Settlement>>,
}

enum Kind {
    Whole(Bytes),
    Stream(Box<Streaming>),
    /// It has a settlement of its own.
    Held(Box<Held>),
}

/// A stream on its way through.
pub(crate) struct Streaming {
    /// `None` once it has ended.
    pub(crate) source: Option<Source>,
    pub(crate) passing: Passing,
    pub(crate) dialect: Dialect,
    pub(crate) idle: Idle,
    /// Who polls the body wakes when the gateway is over.
    pub(crate) ending: Arc<Ending>,
    /// Whether what went out so far ended with a line's end.
    pub(crate) at_line_end: bool,
}

/// Where a stream comes from.
pub(crate) enum Source {
    /// A replica.
    Replica { line: Line, incoming: Incoming, replica: Arc<Replica> },
    /// The gateway that has sent it to one.
    Peer(Answering),
}

impl Source {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, String>>> {
        let frame = match self {
            Self::Replica { line, incoming, .. } => {
                line.drive(cx);
                ready!(Pin::new(incoming).poll_frame(cx))
            }
            Self::Peer(answer) => return answer.poll_data(cx),
        };
        Poll::Ready(frame.map(|frame| match frame {
            Ok(frame) => Ok(frame.into_data().unwrap_or_default()),
            Err(error) => Err(format!("the replica's stream broke off: {error}")),
        }))
    }

    /// It has come to its end.
    fn keep(self) {
        if let Self::Replica { line, replica, .. } = self {
            line.keep(&replica);
        }
    }
}

/// A timer that is set again at every chunk, and looks at the clock only when it fires.
pub(crate) struct Idle {
    /// For the piece that is awaited.
    limit: Duration,
    /// For those after it.
    between: Duration,
    last: Instant,
    sleep: Pin<Box<Sleep>>,
}

impl Idle {
    /// The first piece may take another time than those after it: an Ollama's head comes with its first token, but other
    /// servers send theirs at once, and load and queue behind it.
    pub(crate) fn new(first: Duration, between: Duration) -> Self {
        Self { limit: first, between, last: Instant::now(), sleep: Box::pin(tokio::time::sleep(first)) }
    }

    /// A piece has come.
    fn heard(&mut self) {
        self.last = Instant::now();
        if self.limit != self.between {
            self.limit = self.between;
            self.sleep.as_mut().reset((self.last + self.limit).into());
        }
    }

    fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.sleep.as_mut().poll(cx).is_ready() {
            let due = self.last + self.limit;
            if due <= Instant::now() {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(due.into());
        }
        Poll::Pending
    }
}

impl ResponseBody {
    /// A body that is there already.
    pub fn whole(bytes: Bytes) -> Self {
        Self { kind: Kind::Whole(bytes), settlement: None }
    }

    pub(crate) fn stream(streaming: Streaming) -> Self {
        Self { kind: Kind::Stream(Box::new(streaming)), settlement: None }
    }

    /// Of a request that waits.
    pub(crate) fn held(held: Held) -> Self {
        Self { kind: Kind::Held(Box::new(held)), settlement: None }
    }

    /// Whether it goes out as it comes.
    pub(crate) fn is_stream(&self) -> bool {
        matches!(self.kind, Kind::Stream(_))
    }

    /// All of a body that is there; nothing of a stream.
    pub(crate) fn into_whole(self) -> Bytes {
        match self.kind {
            Kind::Whole(bytes) => bytes,
            Kind::Stream(_) | Kind::Held(_) => Bytes::new(),
        }
    }

    /// Hands the request's settlement to its body.
    pub(crate) fn settle(&mut self, settlement: Box<Settlement>) {
        self.settlement = Some(settlement);
    }
}

impl fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Whole(bytes) => write!(f, "ResponseBody({} bytes)", bytes.len()),
            Kind::Stream(_) => f.write_str("ResponseBody(stream)"),
            Kind::Held(_) => f.write_str("ResponseBody(waits)"),
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        let next = match &mut this.kind {
            Kind::Whole(bytes) => Poll::Ready(Some(std::mem::take(bytes)).filter(|bytes| !bytes.is_empty())),
            Kind::Stream(streaming) => streaming.poll_next(cx, this.settlement.as_deref_mut()),
            Kind::Held(held) => held.poll_next(cx),
        };
        next.map(|bytes| {
            if let Some(settlement) = &mut this.settlement {
                match &bytes {
                    Some(bytes) => settlement.sent(bytes.len()),
                    None => settlement.finished(),
                }
                // Some clients close as soon as they have read a stream's last event.
                let whole = match &this.kind {
                    Kind::Whole(_) => true,
                    Kind::Stream(streaming) => bytes.is_some() && streaming.passing.is_done(),
                    Kind::Held(_) => false,
                };
                if whole {
                    settlement.finished();
                }
            }
            bytes.map(|bytes| Ok(Frame::data(bytes)))
        })
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.kind, Kind::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Stream(_) | Kind::Held(_) => SizeHint::default(),
        }
    }
}

impl Streaming {
    fn poll_next(&mut self, cx: &mut Context<'_>, mut settlement: Option<&mut Settlement>) -> Poll<Option<Bytes>> {
        while let Some(source) = &mut self.source {
            let whole = self.passing.is_done(); // then whatever is the matter with the rest, the answer is all there
            let mut cause = Cause::Closed;
            let outcome = match source.poll_data(cx) {
                Poll::Ready(Some(Ok(chunk))) => {
                    self.idle.heard();
                    self.passing.chunk(chunk)
                }
                Poll::Ready(Some(Err(_))) if whole => self.finish(),
                Poll::Ready(Some(Err(why))) => Err((Bytes::new(), Broken::Garbled(why))),
                Poll::Ready(None) => {
                    cause = Cause::Error; // a whole stream without its last event: so Ollama's `/v1` ends when its runner dies
                    if let Some(source) = self.source.take() {
                        source.keep();
                    }
                    self.passing.end()
                }
                Poll::Pending => match self.idle.poll_expired(cx) {
                    Poll::Ready(()) if whole => self.finish(),
                    Poll::Ready(()) => {
                        cause = Cause::Silent;
                        let silent = format!("the replica was silent for {:?} within its answer", self.idle.limit);
                        Err((Bytes::new(), Broken::Garbled(silent)))
                    }
                    Poll::Pending if self.ending.has_reached(Phase::Over) && whole => self.finish(),
                    Poll::Pending if self.ending.has_reached(Phase::Over) => Err((Bytes::new(), Broken::Over)),
                    Poll::Pending => return Poll::Pending,
                },
            };
            let bytes = match outcome {
                Ok(bytes) => bytes,
                Err((good, broken)) => self.broken(good, broken, cause, settlement.as_deref_mut()),
            };
            if let Some(settlement) = settlement.as_deref_mut() {
                settlement.hear();
                settlement.counted(self.passing.usage());
                if self.source.is_none() || self.passing.is_done() {
                    settlement.stream_done();
                }
            }
            if let Some(last) = bytes.last() {
                self.at_line_end = *last == b'\n';
                return Poll::Ready(Some(bytes));
            }
        }
        Poll::Ready(None)
    }

    /// Ends a stream whose last event has gone out and whose connection did not end well.
    fn finish(&mut self) -> Result<Bytes, (Bytes, Broken)> {
        self.source = None;
        self.passing.end()
    }

    /// Ends the stream in a way that no client takes for a success: with an error event, and without the dialect's
    /// last one. The connection to the replica goes with it.
    fn broken(&mut self, good: Bytes, broken: Broken, cause: Cause, settlement: Option<&mut Settlement>) -> Bytes {
        self.source = None;
        let (failure, tell) = match broken {
            Broken::Said(message) => (Failure::quoting(Code::StreamInterrupted, message).blaming(Cause::Error), false),
            Broken::Garbled(message) => (Failure::new(Code::StreamInterrupted, message).blaming(cause), true),
            Broken::Over => (ending::over(), true),
            Broken::Unsayable(message) => (Failure::new(Code::StreamInterrupted, message).blaming_none(), true),
        };
        if let Some(settlement) = settlement {
            settlement.failed(&failure);
        }
        if !tell {
            return good;
        }
        let mut bytes = BytesMut::from(good);
        if !bytes.last().map_or(self.at_line_end, |last| *last == b'\n') {
            bytes.extend_from_slice(b"\n");
        }
        let framing = self.passing.framing_to(self.dialect);
        if framing.is_sse() {
            bytes.extend_from_slice(b"\n"); // whatever event has begun ends here
        }
        bytes.extend_from_slice(&print_error(framing, &failure, self.dialect, self.passing.events()));
        bytes.freeze()
    }
}

/// Reads an answer of one object to its end, and keeps the connection.
///
/// # Errors
/// The [`Failure`] to answer with, where the answer breaks off, stalls or is too large.
pub(crate) async fn collect(
    mut line: Line,
    mut incoming: Incoming,
    replica: &Replica,
    idle: Duration,
    room: &mut Room,
) -> Result<Bytes, Failure> {
    let limit = idle;
    let mut idle: Option<Idle> = None; // most answers come with their head, and need no timer
    let (mut first, mut rest) = (Bytes::new(), BytesMut::new());
    loop {
        let frame = poll_fn(|cx| {
            line.drive(cx);
            if let Poll::Ready(frame) = Pin::new(&mut incoming).poll_frame(cx) {
                return Poll::Ready(Ok(frame));
            }
            idle.get_or_insert_with(|| Idle::new(limit, limit)).poll_expired(cx).map(|()| Err(limit))
        });
        match frame.await {
            Ok(Some(Ok(frame))) => {
                let Ok(data) = frame.into_data() else { continue };
                room.grow(data.len())?;
                if first.is_empty() && rest.is_empty() {
                    first = data; // the only one, mostly: no copy
                } else {
                    if rest.is_empty() {
                        rest.extend_from_slice(&std::mem::take(&mut first));
                    }
                    rest.extend_from_slice(&data);
                }
                if rest.len() > MAX_WHOLE {
                    limits::hit(Limit::Answer);
                    return Err(Failure::new(
                        Code::UpstreamError,
                        format!("the replica's answer is larger than {MAX_WHOLE} bytes"),
                    ));
                }
                if let Some(idle) = &mut idle {
                    idle.heard();
                }
            }
            Ok(None) => break,
            Ok(Some(Err(error))) => {
                return Err(Failure::new(Code::UpstreamError, format!("the replica's answer broke off: {error}")));
            }
            Err(limit) => {
                let message = format!("the replica was silent for {limit:?} within its answer");
                return Err(Failure::new(Code::UpstreamTimeout, message));
            }
        }
    }
    line.keep(replica);
    Ok(if rest.is_empty() { first } else { rest.freeze() })
}
