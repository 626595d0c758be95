//! The body of an answer: whole, or token by token as the engine writes it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::driver::Ticket;
use crate::engine::Outcome;
use crate::faults::Fault;
use crate::records::Entry;
use crate::wire::Printer;

/// A response body that settles the request's record when it is read to its end, or dropped.
pub(super) struct Answer {
    entry: Entry,
    source: Source,
    cut: Option<Cut>,
}

enum Source {
    Whole(Option<Bytes>),
    Tokens(Box<Tokens>),
}

struct Tokens {
    ticket: Ticket,
    printer: Printer,
    first: Option<Outcome>,
    written: u32,
    reason: &'static str,
    done: bool,
}

/// A fault in mid-answer.
enum Cut {
    /// Fail so once two tokens of a stream, or half a document, are out.
    Ahead(Fault),
    /// Everything before the cut is handed over; let the transport send it before it learns of the end.
    Flushing(Fault),
    Silence,
    Break,
    End,
}

/// Tokens that are written before a stream is cut.
const TOKENS_BEFORE_CUT: u32 = 2;

impl Answer {
    pub(super) fn whole(entry: Entry, body: Bytes, fault: Option<Fault>) -> Self {
        let cut = matches!(fault, Some(Fault::BreakMidToken | Fault::Stall)).then_some(fault).flatten();
        Answer { entry, source: Source::Whole(Some(body)), cut: cut.map(Cut::Ahead) }
    }

    /// A stream whose first outcome is known already: the header waited for it.
    pub(super) fn tokens(
        entry: Entry,
        ticket: Ticket,
        printer: Printer,
        first: Outcome,
        reason: &'static str,
        fault: Option<Fault>,
    ) -> Self {
        let cut =
            matches!(fault, Some(Fault::BreakMidToken | Fault::Stall | Fault::ErrorMidStream | Fault::ErrorEvent));
        let tokens = Tokens { ticket, printer, first: Some(first), written: 0, reason, done: false };
        Answer { entry, source: Source::Tokens(Box::new(tokens)), cut: fault.filter(|_| cut).map(Cut::Ahead) }
    }

    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        match &mut self.source {
            Source::Whole(body) => Poll::Ready(body.take()),
            Source::Tokens(tokens) => tokens.poll_next(cx),
        }
    }

    /// Hands out what is before the cut, and turns to the cut itself when that is done.
    fn poll_to_cut(&mut self, fault: Fault, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let part = match &self.source {
            Source::Whole(_) => ready!(self.poll_source(cx)).map(|body| body.slice(..body.len() / 2)),
            Source::Tokens(tokens) if tokens.written < TOKENS_BEFORE_CUT => return self.poll_source(cx),
            Source::Tokens(tokens) => match fault {
                Fault::ErrorMidStream => Some(tokens.printer.failure()),
                Fault::ErrorEvent => Some(tokens.printer.error_event()),
                Fault::BreakMidToken => {
                    let next = tokens.printer.token(tokens.written);
                    Some(next.slice(..next.len() / 2))
                }
                _ => Some(Bytes::new()),
            },
        };
        self.cut = Some(Cut::Flushing(fault));
        Poll::Ready(part)
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let part = match self.cut {
            None => ready!(self.poll_source(cx)),
            Some(Cut::Ahead(fault)) => ready!(self.poll_to_cut(fault, cx)),
            Some(Cut::Flushing(fault)) => {
                self.cut = Some(match fault {
                    Fault::BreakMidToken => Cut::Break,
                    Fault::ErrorMidStream | Fault::ErrorEvent => Cut::End,
                    _ => Cut::Silence,
                });
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Some(Cut::Silence) => return Poll::Pending,
            Some(Cut::Break) => return Poll::Ready(Some(Err(io::Error::other("simulated break")))),
            Some(Cut::End) => None,
        };
        if part.is_none() || (self.cut.is_none() && matches!(self.source, Source::Whole(_))) {
            self.entry.done();
        }
        Poll::Ready(part.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.cut.is_none() && matches!(&self.source, Source::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Whole(body) => SizeHint::with_exact(body.as_ref().map_or(0, |b| b.len() as u64)),
            Source::Tokens(_) => SizeHint::default(),
        }
    }
}

impl Tokens {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.done {
            return Poll::Ready(None);
        }
        let outcome = match self.first.take() {
            Some(first) => Some(first),
            None => ready!(self.ticket.outcomes.poll_recv(cx)),
        };
        Poll::Ready(match outcome {
            Some(Outcome::Token(_)) => {
                self.written += 1;
                Some(self.printer.token(self.written - 1))
            }
            Some(Outcome::Finished(_, timing)) => {
                self.done = true;
                Some(self.printer.last(&timing, self.reason))
            }
            Some(Outcome::Busy(_)) | None => None,
        })
    }
}

/// Waits for the outcome that ends a request, or for its first token if it streams.
pub(super) async fn outcome(ticket: &mut Ticket, streams: bool) -> Option<Outcome> {
    loop {
        match ticket.outcomes.recv().await? {
            Outcome::Token(_) if !streams => {}
            other => return Some(other),
        }
    }
}
