//! The two APIs, each as a parser and a printer of what both can say.
//!
//! A request is read in its client's words into a [`request::Request`] and printed in its replicas'; an answer goes the
//! other way as [`answer::Step`]s. Nothing knows two APIs but [`crossing`], which says which is carried by which. What
//! stays within one API is not read here: it passes as bytes.
//!
//! Pure: bytes in, bytes out, and the time as it is told.

mod answer;
mod crossing;
mod ollama;
mod openai;
mod quirks;
mod refuse;
mod request;
#[cfg(test)]
mod tests;
mod tools;
mod vectors;

use bytes::Bytes;

use self::answer::Answer;
pub(crate) use self::answer::Usage;
#[cfg(test)]
pub(crate) use self::answer::{Done, Piece, Reason};
pub(crate) use self::answer::{Moment, Step};
pub(crate) use self::crossing::{Crossing, other_api, weight};
use self::vectors::NoVectors;
pub(crate) use self::vectors::{Shape, Vectors};
use crate::classify::Dialect;
use crate::errors::{Code, Failure};
use crate::json::Malformed;

/// Reads an answer in one API's words.
#[derive(Debug)]
pub(crate) enum Parser {
    OpenAi(openai::Parser),
    Ollama(ollama::Parser),
}

/// Prints an answer in one API's words.
#[derive(Debug)]
pub(crate) enum Printer {
    OpenAi(openai::Printer),
    Ollama(ollama::Printer),
    /// Vectors for so many texts.
    Vectors {
        shape: Shape,
        model: String,
        texts: usize,
        dimensions: Option<u32>,
    },
}

impl Parser {
    pub(crate) fn of(dialect: Dialect) -> Self {
        match dialect {
            // Nothing is read in Anthropic's words: see `other_api`.
            Dialect::OpenAi | Dialect::Anthropic => Self::OpenAi(openai::Parser::default()),
            Dialect::Ollama => Self::Ollama(ollama::Parser::default()),
        }
    }

    /// Reads a line of a stream, without its end.
    ///
    /// # Errors
    /// It is no line of this API.
    pub(crate) fn line(&mut self, line: &[u8], step: impl FnMut(Step<'_>)) -> Result<(), Malformed> {
        match self {
            Self::OpenAi(parser) => parser.line(line, step),
            Self::Ollama(parser) => parser.line(line, step),
        }
    }

    pub(crate) fn whole(&mut self, body: &[u8], step: impl FnMut(Step<'_>)) -> Result<(), Malformed> {
        match self {
            Self::OpenAi(parser) => parser.whole(body, step),
            Self::Ollama(parser) => parser.whole(body, step),
        }
    }
}

impl Printer {
    /// Prints a step of a stream behind what is in `out`. Errors are not printed here.
    ///
    /// # Errors
    /// What cannot be said in this API.
    pub(crate) fn step(&mut self, step: &Step<'_>, now: Moment, out: &mut Vec<u8>) -> Result<(), String> {
        match self {
            Self::OpenAi(printer) => printer.step(step, now, out),
            Self::Ollama(printer) => printer.step(step, now, out),
            Self::Vectors { .. } => Ok(()), // they come in no stream
        }
    }

    /// Carries a whole answer from one API to the other; yields it and its tokens.
    ///
    /// # Errors
    /// It is no answer, or cannot be said in this API.
    pub(crate) fn whole(&mut self, parser: &mut Parser, body: &[u8], now: Moment) -> Result<(Vec<u8>, Usage), Failure> {
        if let Self::Vectors { shape, model, texts, dimensions } = self {
            let vectors = vectors::read(body, *texts, *dimensions, false).map_err(no_vectors)?;
            let tokens = vectors.usage.input;
            return Ok((vectors::print(&vectors.rows, tokens, (*shape, model), now), vectors.usage));
        }
        let mut answer = Answer::default();
        let mut added = Ok(());
        let read = parser.whole(body, |step| {
            if added.is_ok() {
                added = answer.add(&step);
            }
        });
        read.map_err(malformed)?;
        added.map_err(unsayable)?;
        if let Some(message) = answer.error {
            return Err(Failure::quoting(Code::UpstreamError, message));
        }
        let Some(done) = answer.done else {
            return Err(Failure::new(Code::UpstreamError, "the replica's answer holds none"));
        };
        let printed = self.print(&mut answer, now).map_err(unsayable)?;
        Ok((printed, done.usage.unwrap_or_default()))
    }

    fn print(&mut self, answer: &mut Answer, now: Moment) -> Result<Vec<u8>, String> {
        match self {
            Self::OpenAi(printer) => Ok(printer.whole(answer, now)),
            Self::Ollama(printer) => printer.whole(answer, now),
            Self::Vectors { .. } => Ok(Vec::new()),
        }
    }

    /// Prints all steps of an answer as a whole one.
    #[cfg(test)]
    pub(crate) fn print_whole(&mut self, steps: &[Step<'_>], now: Moment) -> Result<Vec<u8>, String> {
        let mut answer = Answer::default();
        steps.iter().try_for_each(|step| answer.add(step))?;
        self.print(&mut answer, now)
    }
}

/// Reads an answer to so many texts, in either API's words. `coded`: vectors may be text, as base64 is.
///
/// # Errors
/// It does not hold one vector for each.
pub(crate) fn read_vectors(body: &[u8], texts: usize, coded: bool) -> Result<Vectors<'_>, Failure> {
    vectors::read(body, texts, None, coded).map_err(no_vectors)
}

/// Prints vectors, which are JSON and stay as they are, in an API's words and under this name of the model. `tokens`: those of
/// their texts.
pub(crate) fn print_vectors<R: AsRef<[u8]>>(rows: &[R], tokens: u64, of: (Shape, &str), now: Moment) -> Bytes {
    vectors::print(rows, tokens, of, now).into()
}

/// What an answer with an error status says, in either API's words; `None` where it says nothing in them.
pub(crate) fn error_of(body: &[u8]) -> Option<String> {
    let body = crate::json::Node::object(body).ok()?;
    body.get("error").filter(|error| !error.is_null()).map(openai::message_of)
}

/// An answer that the client's API has no words for; the replica did nothing wrong.
fn unsayable(why: String) -> Failure {
    Failure::new(Code::UpstreamError, why).blaming_none()
}

fn malformed(malformed: Malformed) -> Failure {
    Failure::new(Code::UpstreamError, format!("the replica's answer is no JSON object: {malformed}"))
}

fn no_vectors(why: NoVectors) -> Failure {
    match why {
        NoVectors::Malformed(why) => malformed(why),
        NoVectors::Said(message) => Failure::quoting(Code::UpstreamError, message),
        NoVectors::Strange => Failure::new(Code::UpstreamError, "the replica did not answer one vector for each text"),
        NoVectors::OtherLength => refuse::untranslatable("dimensions", "is not looked at by this model's replicas"),
    }
}
