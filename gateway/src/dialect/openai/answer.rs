//! Answers of OpenAI's API, read step by step.

use std::borrow::Cow;

use crate::dialect::answer::{Done, Piece, Reason, Step, Usage, count, said};
use crate::json::{Kind, Malformed, Node};

/// The state of an answer that is read.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    done: Done,
}

impl Parser {
    /// Reads a line of a stream, without its end. Lines that say nothing (blank, comments, names of events) are no steps.
    pub(in crate::dialect) fn line(&mut self, line: &[u8], mut step: impl FnMut(Step<'_>)) -> Result<(), Malformed> {
        let Some(data) = line.strip_prefix(b"data:").map(<[u8]>::trim_ascii) else { return Ok(()) };
        match data {
            b"" => {}
            b"[DONE]" => step(Step::Done(self.done)),
            _ => self.object(Node::object(data)?, "delta", &mut step),
        }
        Ok(())
    }

    /// Reads a whole answer; one without a choice has no end.
    pub(in crate::dialect) fn whole(&mut self, body: &[u8], mut step: impl FnMut(Step<'_>)) -> Result<(), Malformed> {
        let body = Node::object(body)?;
        let mut failed = false;
        self.object(body, "message", &mut |said| {
            failed |= matches!(said, Step::Error(_));
            step(said);
        });
        if body.get("choices").is_some_and(|choices| choices.elements().next().is_some()) && !failed {
            step(Step::Done(self.done));
        }
        Ok(())
    }

    /// A chunk or an answer, which are alike but for the name of what is said.
    fn object(&mut self, object: Node<'_>, named: &str, step: &mut impl FnMut(Step<'_>)) {
        for (key, value) in object.members() {
            match &*key {
                "error" if !value.is_null() => return step(Step::Error(message_of(value))),
                "choices" => {
                    if let Some(choice) = value.elements().next() {
                        self.choice(choice, named, step);
                    }
                }
                "usage" if value.kind() == Kind::Object => self.done.usage = Some(usage(value)),
                _ => {}
            }
        }
    }

    fn choice(&mut self, choice: Node<'_>, named: &str, step: &mut impl FnMut(Step<'_>)) {
        for (key, value) in choice.members() {
            match &*key {
                key if key == named => message(value, step),
                "text" => said(value).map(Step::Text).into_iter().for_each(&mut *step),
                "finish_reason" => match value.string().as_deref() {
                    Some("length") => self.done.reason = Reason::Length,
                    Some("content_filter") => self.done.reason = Reason::ContentFilter,
                    _ => {}
                },
                _ => {}
            }
        }
    }
}

fn message(message: Node<'_>, step: &mut impl FnMut(Step<'_>)) {
    // What was thought goes first, whichever of its two names it has.
    let thought = |name| message.get(name).and_then(said);
    if let Some(thought) = thought("reasoning").or_else(|| thought("reasoning_content")) {
        step(Step::Thinking(thought));
    }
    for (key, value) in message.members() {
        match &*key {
            // A refusal is what the model says in place of a text.
            "content" | "refusal" => said(value).map(Step::Text).into_iter().for_each(&mut *step),
            "tool_calls" => {
                for (place, call) in value.elements().enumerate() {
                    self::call(call, place, step);
                }
            }
            _ => {}
        }
    }
}

fn call(call: Node<'_>, place: usize, step: &mut impl FnMut(Step<'_>)) {
    let index = call.get("index").and_then(Node::integer).and_then(|index| usize::try_from(index).ok());
    let function = call.get("function");
    let of_function = |name: &str| function.and_then(|function| function.get(name)).and_then(Node::string);
    step(Step::Call(Piece {
        index: index.unwrap_or(place),
        id: call.get("id").and_then(Node::string).filter(|id| !id.is_empty()),
        name: of_function("name").filter(|name| !name.is_empty()),
        arguments: of_function("arguments").unwrap_or_default(),
    }));
}

fn usage(value: Node<'_>) -> Usage {
    let count = |name| count(value, name).unwrap_or(0);
    let cached = value.get("prompt_tokens_details").and_then(|details| self::count(details, "cached_tokens"));
    Usage {
        input: count("prompt_tokens"),
        cached: cached.unwrap_or(0),
        output: count("completion_tokens"),
        ..Usage::default()
    }
}

/// What an `error` says: `{"message": "…"}`, or plain text.
pub(in crate::dialect) fn message_of(error: Node<'_>) -> String {
    let message = error.string().or_else(|| error.get("message").and_then(Node::string));
    message.map_or_else(|| "the replica reported an error".to_owned(), Cow::into_owned)
}
