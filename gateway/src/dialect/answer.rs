//! What a replica answers, step by step, apart from how its API says it.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use crate::json::{Kind, Node};
use crate::limits::{self, Limit};

/// Tokens, as the replica counted them, and what it says of its weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub input: u64,
    /// Those of them that the replica had in memory from before.
    pub cached: u64,
    /// Tokens of the answer.
    pub output: u64,
    /// How long the request had waited for a runner with its weights, as an Ollama tells (`load_duration`); of others zero.
    pub loading: Duration,
}

impl Usage {
    /// What is known after more was said: what is said last, and what was said before where that is nothing.
    pub(crate) fn then(self, later: Self) -> Self {
        let last = |earlier: u64, later: u64| if later == 0 { earlier } else { later };
        Self {
            input: last(self.input, later.input),
            cached: last(self.cached, later.cached),
            output: last(self.output, later.output),
            loading: self.loading.max(later.loading),
        }
    }
}

/// A step of an answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step<'a> {
    /// A piece of the text.
    Text(Cow<'a, str>),
    /// A piece of what the model thinks before it answers.
    Thinking(Cow<'a, str>),
    /// A piece of a tool's call.
    Call(Piece<'a>),
    /// The end of an answer that is whole.
    Done(Done),
    /// The replica gave up, and why.
    Error(String),
}

/// A piece of a tool's call. Its first has the name; arguments are pieces of a JSON object's text.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Piece<'a> {
    /// Which call of the answer, from 0.
    pub(crate) index: usize,
    pub(crate) id: Option<Cow<'a, str>>,
    pub(crate) name: Option<Cow<'a, str>>,
    pub(crate) arguments: Cow<'a, str>,
}

/// How an answer ended.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Done {
    pub(crate) reason: Reason,
    /// What the replica counted, where it did.
    pub(crate) usage: Option<Usage>,
}

/// Why an answer has no more text.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum Reason {
    /// It was said, or tools were called.
    #[default]
    Stop,
    /// The bound on its length was reached.
    Length,
    /// It must not be said.
    ContentFilter,
}

/// When something is said.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// By the clock on the wall.
    pub(crate) at: SystemTime,
    /// Since the request came.
    pub(crate) since: Duration,
}

/// A tool's call, put together from its pieces.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Called {
    pub(super) id: Option<String>,
    pub(super) name: String,
    pub(super) arguments: String,
}

/// The calls of an answer, put together.
#[derive(Debug, Default)]
pub(super) struct Calls {
    calls: Vec<Called>,
    bytes: usize,
}

/// Longest text of all calls of an answer together. Unit: bytes.
const MAX_CALLS: usize = 8 << 20;
/// Most calls of an answer.
const MAX_CALL_COUNT: usize = 1024;

impl Calls {
    /// Adds a piece.
    ///
    /// # Errors
    /// What there is too much of.
    pub(super) fn add(&mut self, piece: &Piece<'_>) -> Result<(), String> {
        let name = piece.name.as_deref().unwrap_or_default();
        let id = piece.id.as_deref().unwrap_or_default();
        self.bytes += name.len() + id.len() + piece.arguments.len();
        if self.bytes > MAX_CALLS || piece.index >= MAX_CALL_COUNT {
            limits::hit(Limit::Calls);
            let message =
                format!("the replica's calls of tools are more than {MAX_CALL_COUNT}, or than {MAX_CALLS} bytes");
            return Err(message);
        }
        if self.calls.len() <= piece.index {
            self.calls.resize_with(piece.index + 1, Called::default);
        }
        let call = &mut self.calls[piece.index];
        if !id.is_empty() && call.id.is_none() {
            call.id = Some(id.to_owned());
        }
        // Some servers say the name with each piece.
        if call.name.is_empty() {
            call.name.push_str(name);
        }
        call.arguments.push_str(&piece.arguments);
        Ok(())
    }

    /// Takes all that was put together; those that a server left out have no name.
    pub(super) fn take(&mut self) -> Vec<Called> {
        self.bytes = 0;
        let mut calls = std::mem::take(&mut self.calls);
        calls.retain(|call| !call.name.is_empty());
        calls
    }
}

/// An answer that is whole.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(super) text: String,
    pub(super) thinking: String,
    pub(super) calls: Calls,
    /// How it ended; `None` before it has.
    pub(crate) done: Option<Done>,
    /// Why the replica gave up, if it did.
    pub(crate) error: Option<String>,
}

impl Answer {
    /// Adds a step.
    ///
    /// # Errors
    /// What there is too much of.
    pub(crate) fn add(&mut self, step: &Step<'_>) -> Result<(), String> {
        match step {
            Step::Text(text) => self.text.push_str(text),
            Step::Thinking(text) => self.thinking.push_str(text),
            Step::Call(piece) => self.calls.add(piece)?,
            Step::Done(done) => self.done = Some(*done),
            Step::Error(message) => self.error = Some(message.clone()),
        }
        Ok(())
    }
}

/// What a string says; half of a surrogate pair is said as Go and Python print it, and what is no string says nothing.
pub(super) fn said(node: Node<'_>) -> Option<Cow<'_, str>> {
    if node.kind() != Kind::String {
        return None;
    }
    Some(node.string().unwrap_or(Cow::Borrowed("\u{fffd}"))).filter(|text| !text.is_empty())
}

/// A count; 0 for what is none.
pub(super) fn count(object: Node<'_>, name: &str) -> Option<u64> {
    object.get(name).and_then(Node::integer).and_then(|count| u64::try_from(count).ok())
}
