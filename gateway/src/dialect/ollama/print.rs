//! Prints answers of Ollama's API, as its 0.11.4 does.

use crate::calendar::rfc3339;
use crate::dialect::answer::{Answer, Called, Calls, Done, Moment, Reason, Step};
use crate::json::{Node, Writer};

/// The state of an answer that is printed.
#[derive(Debug)]
pub(crate) struct Printer {
    /// Whether it is a chat's; else a prompt's.
    chat: bool,
    /// The name that the client asked for.
    model: String,
    /// Calls of which not all has come: this API knows them whole only.
    calls: Calls,
}

/// What an object of this API says.
#[derive(Default)]
struct Said<'a> {
    text: &'a str,
    thinking: &'a str,
    calls: &'a [Called],
    done: Option<&'a Done>,
}

impl Printer {
    pub(in crate::dialect) fn new(chat: bool, model: &str) -> Self {
        Self { chat, model: model.to_owned(), calls: Calls::default() }
    }

    /// Prints a step of a stream; an error is none of them.
    ///
    /// # Errors
    /// What cannot be said.
    pub(in crate::dialect) fn step(&mut self, step: &Step<'_>, now: Moment, out: &mut Vec<u8>) -> Result<(), String> {
        match step {
            Step::Text(text) => self.line(&Said { text, ..Said::default() }, now, out),
            Step::Thinking(thinking) => self.line(&Said { thinking, ..Said::default() }, now, out),
            Step::Call(piece) => self.calls.add(piece),
            Step::Done(done) => {
                let calls = self.calls.take();
                if !calls.is_empty() {
                    self.line(&Said { calls: &calls, ..Said::default() }, now, out)?;
                }
                self.line(&Said { done: Some(done), ..Said::default() }, now, out)
            }
            Step::Error(_) => Ok(()),
        }
    }

    /// Prints a whole answer.
    ///
    /// # Errors
    /// What cannot be said.
    pub(in crate::dialect) fn whole(&mut self, answer: &mut Answer, now: Moment) -> Result<Vec<u8>, String> {
        let calls = answer.calls.take();
        let said = Said { text: &answer.text, thinking: &answer.thinking, calls: &calls, done: answer.done.as_ref() };
        let mut out = Vec::with_capacity(answer.text.len() + 512);
        self.object(&said, now, &mut out)?;
        Ok(out)
    }

    /// The answer to a request that only loads the model, which it is.
    pub(in crate::dialect) fn loaded(&self, now: Moment) -> Vec<u8> {
        let mut out = Writer::default();
        self.begin(now, &mut out);
        if self.chat {
            out.key("message").open(b'{').key("role").string("assistant").key("content").string("").close(b'}');
        } else {
            out.key("response").string("");
        }
        out.key("done_reason").string("load").key("done").boolean(true).close(b'}');
        out.finish()
    }

    fn begin(&self, now: Moment, out: &mut Writer) {
        out.open(b'{').key("model").string(&self.model).key("created_at").string(&rfc3339(now.at));
    }

    fn line(&self, said: &Said<'_>, now: Moment, out: &mut Vec<u8>) -> Result<(), String> {
        self.object(said, now, out)?;
        out.push(b'\n');
        Ok(())
    }

    fn object(&self, said: &Said<'_>, now: Moment, out: &mut Vec<u8>) -> Result<(), String> {
        let mut writer = Writer::after(std::mem::take(out));
        self.begin(now, &mut writer);
        let printed = if self.chat { message(said, &mut writer) } else { response(said, &mut writer) };
        if let Some(done) = said.done {
            writer.key("done_reason").string(reason(done.reason)).key("done").boolean(true);
            metrics(done, now, &mut writer);
        } else {
            writer.key("done").boolean(false);
        }
        writer.close(b'}');
        *out = writer.finish();
        printed
    }
}

fn message(said: &Said<'_>, out: &mut Writer) -> Result<(), String> {
    out.key("message").open(b'{').key("role").string("assistant").key("content").string(said.text);
    if !said.thinking.is_empty() {
        out.key("thinking").string(said.thinking);
    }
    let mut whole = Ok(());
    if !said.calls.is_empty() {
        out.key("tool_calls").open(b'[');
        for call in said.calls {
            whole = whole.and(self::call(call, out));
        }
        out.close(b']');
    }
    out.close(b'}');
    whole
}

/// A prompt's answer, which has no calls: it could not name a tool.
fn response(said: &Said<'_>, out: &mut Writer) -> Result<(), String> {
    out.key("response").string(said.text);
    if !said.thinking.is_empty() {
        out.key("thinking").string(said.thinking);
    }
    Ok(())
}

fn call(call: &Called, out: &mut Writer) -> Result<(), String> {
    out.open(b'{');
    if let Some(id) = &call.id {
        out.key("id").string(id); // as later versions than 0.11.4 do
    }
    out.key("function").open(b'{').key("name").string(&call.name).key("arguments");
    let arguments = if call.arguments.trim().is_empty() { "{}" } else { &call.arguments };
    let whole = Node::object(arguments.as_bytes()).map(|object| {
        out.raw(object.raw());
    });
    out.close(b'}').close(b'}');
    whole.map_err(|malformed| format!("the model called a tool with arguments that are no JSON object: {malformed}"))
}

fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::Stop => "stop",
        Reason::Length => "length",
        Reason::ContentFilter => "content_filter",
    }
}

/// What is known of an answer's time and tokens. Ollama leaves out what is zero; here that is also what nobody knows.
fn metrics(done: &Done, now: Moment, out: &mut Writer) {
    let usage = done.usage.unwrap_or_default();
    let total = u64::try_from(now.since.as_nanos()).unwrap_or(u64::MAX);
    for (field, value) in [("total_duration", total), ("prompt_eval_count", usage.input), ("eval_count", usage.output)]
    {
        if value > 0 {
            out.key(field).number(value);
        }
    }
}
