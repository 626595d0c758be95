//! Answers of Ollama's API, read step by step.

use std::borrow::Cow;
use std::time::Duration;

use crate::dialect::answer::{Done, Piece, Reason, Step, Usage, count, said};
use crate::dialect::openai::message_of;
use crate::json::{Kind, Malformed, Node};

/// The state of an answer that is read.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    calls: usize,
}

impl Parser {
    /// Reads a line of a stream, without its end; a blank one is no step.
    pub(in crate::dialect) fn line(&mut self, line: &[u8], step: impl FnMut(Step<'_>)) -> Result<(), Malformed> {
        if line.trim_ascii().is_empty() { Ok(()) } else { self.whole(line, step) }
    }

    /// Reads a whole answer, or a piece of one: they are alike.
    pub(in crate::dialect) fn whole(&mut self, body: &[u8], mut step: impl FnMut(Step<'_>)) -> Result<(), Malformed> {
        let body = Node::object(body)?;
        if let Some(error) = body.get("error").filter(|error| !error.is_null()) {
            step(Step::Error(message_of(error)));
            return Ok(());
        }
        let message = body.get("message").unwrap_or(body);
        let of_message = |name| message.get(name).and_then(said);
        of_message("thinking").map(Step::Thinking).into_iter().for_each(&mut step);
        let text = of_message("content").or_else(|| of_message("response"));
        text.map(Step::Text).into_iter().for_each(&mut step);
        for call in message.get("tool_calls").into_iter().flat_map(Node::elements) {
            self.call(call, &mut step);
        }
        if body.get("done").and_then(Node::boolean) == Some(true) {
            let reason = body.get("done_reason").and_then(Node::string);
            let reason = match reason.as_deref() {
                Some("length") => Reason::Length,
                Some("content_filter") => Reason::ContentFilter,
                _ => Reason::Stop,
            };
            step(Step::Done(Done { reason, usage: usage(body) }));
        }
        Ok(())
    }

    /// A call, which is always whole here.
    fn call(&mut self, call: Node<'_>, step: &mut impl FnMut(Step<'_>)) {
        let function = call.get("function");
        let arguments = function.and_then(|function| function.get("arguments"));
        let arguments = arguments.filter(|arguments| arguments.kind() == Kind::Object);
        step(Step::Call(Piece {
            index: self.calls,
            id: call.get("id").and_then(Node::string).filter(|id| !id.is_empty()),
            name: function.and_then(|function| function.get("name")).and_then(Node::string),
            arguments: arguments.map_or(Cow::Borrowed("{}"), |arguments| Cow::Borrowed(arguments.raw())),
        }));
        self.calls += 1;
    }
}

/// The tokens, where any were counted: an answer whose counts are zero has none of these fields.
fn usage(body: Node<'_>) -> Option<Usage> {
    let (input, output) = (count(body, "prompt_eval_count"), count(body, "eval_count"));
    (input.is_some() || output.is_some()).then(|| Usage {
        input: input.unwrap_or(0),
        output: output.unwrap_or(0),
        cached: 0,
        loading: Duration::from_nanos(count(body, "load_duration").unwrap_or(0)),
    })
}
