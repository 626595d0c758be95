//! An answer on its way to a client that speaks another API than its replica.
//!
//! Pure: bytes in, bytes out, and the time as it is told. What goes out is printed anew, line by line as it comes in; that
//! an answer broke off, and where, is known as [`super::Watch`] knows it.

use bytes::{Bytes, BytesMut};
use memchr::memchr;

use super::event::{Framing, print_error};
use super::watch::{Broken, MAX_LINE, garbled, too_long};
use crate::classify::Dialect;
use crate::dialect::{Moment, Parser, Printer, Step, Usage};
use crate::errors::{Code, Failure};

/// The state of a translated answer.
#[derive(Debug)]
pub(crate) struct Translator {
    parser: Parser,
    printer: Printer,
    /// What the client speaks.
    to: Dialect,
    /// The line that is not whole yet.
    partial: BytesMut,
    usage: Option<Usage>,
    pieces: u64,
    done: bool,
}

impl Translator {
    /// From a replica's dialect to the other.
    pub(crate) fn new(from: Dialect, to: Dialect, printer: Printer) -> Self {
        let parser = Parser::of(from);
        Self { parser, printer, to, partial: BytesMut::new(), usage: None, pieces: 0, done: false }
    }

    /// What kind of stream goes out.
    pub(crate) fn content_type(to: Dialect, streams: bool) -> &'static str {
        match (to, streams) {
            (Dialect::OpenAi | Dialect::Anthropic, true) => "text/event-stream",
            (Dialect::Ollama, true) => "application/x-ndjson",
            (Dialect::OpenAi | Dialect::Anthropic, false) => "application/json",
            (Dialect::Ollama, false) => "application/json; charset=utf-8",
        }
    }

    /// Tokens so far: what the replica counted, or, until it says, a piece counts for a token.
    pub(crate) fn usage(&self) -> Usage {
        self.usage.unwrap_or(Usage { output: self.pieces, ..Usage::default() })
    }

    /// Whether the last event has been printed.
    pub(crate) fn is_done(&self) -> bool {
        self.done
    }

    /// Takes a chunk of a stream; yields what goes on to the client, perhaps nothing yet. With an error goes what was good
    /// before it.
    pub(crate) fn chunk(&mut self, chunk: &[u8], now: Moment) -> Result<Bytes, (Bytes, Broken)> {
        let mut out = Vec::new();
        let mut rest = chunk;
        while let Some(end) = memchr(b'\n', rest) {
            let line = &rest[..end];
            let read = if self.partial.is_empty() {
                self.line(line, now, &mut out)
            } else {
                self.hold(line).and_then(|()| {
                    let line = self.partial.split();
                    self.line(&line, now, &mut out)
                })
            };
            read.map_err(|broken| (Bytes::from(std::mem::take(&mut out)), broken))?;
            rest = &rest[end + 1..];
        }
        match self.hold(rest) {
            Ok(()) => Ok(out.into()),
            Err(broken) => Err((out.into(), broken)),
        }
    }

    /// The stream has ended: what is left to send, and whether that was its end.
    pub(crate) fn end(&mut self, now: Moment) -> Result<Bytes, (Bytes, Broken)> {
        let mut out = Vec::new();
        let rest = self.partial.split();
        match self.line(&rest, now, &mut out) {
            Ok(()) if self.done => Ok(out.into()),
            Ok(()) => Err((out.into(), Broken::Garbled("the replica's stream broke off".into()))),
            Err(broken) => Err((out.into(), broken)),
        }
    }

    /// Takes a whole answer.
    ///
    /// # Errors
    /// What to answer in its place.
    pub(crate) fn whole(&mut self, body: &[u8], now: Moment) -> Result<Bytes, Failure> {
        let (printed, usage) = self.printer.whole(&mut self.parser, body, now)?;
        (self.usage, self.done) = (Some(usage), true);
        Ok(printed.into())
    }

    fn hold(&mut self, partial: &[u8]) -> Result<(), Broken> {
        if self.partial.len() + partial.len() > MAX_LINE {
            return Err(too_long());
        }
        self.partial.extend_from_slice(partial);
        Ok(())
    }

    /// Prints what a line says. After the end nothing matters any more.
    fn line(&mut self, line: &[u8], now: Moment, out: &mut Vec<u8>) -> Result<(), Broken> {
        if self.done {
            return Ok(());
        }
        let Self { parser, printer, usage, pieces, done, to, .. } = self;
        let mut told = Ok(());
        let read = parser.line(line.trim_ascii_end(), |step| {
            if told.is_err() {
                return;
            }
            told = match &step {
                Step::Error(message) => {
                    let failure = Failure::quoting(Code::StreamInterrupted, message.clone());
                    out.extend_from_slice(&print_error(Framing::of_stream(*to), &failure, *to, 0));
                    Err(Broken::Said(message.clone()))
                }
                step => printer.step(step, now, out).map_err(Broken::Unsayable),
            };
            match step {
                Step::Done(end) if told.is_ok() => (*done, *usage) = (true, end.usage),
                _ => *pieces += 1,
            }
        });
        read.map_err(garbled)?;
        told
    }
}

#[cfg(test)]
mod tests;
