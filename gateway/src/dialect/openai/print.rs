//! Prints answers of OpenAI's API, as Ollama's 0.11.4 does: who asks the same Ollama by its own `/v1` reads the same.

use crate::dialect::answer::{Answer, Called, Done, Moment, Piece, Reason, Step, Usage};
use crate::json::Writer;

/// The state of an answer that is printed.
#[derive(Debug)]
pub(crate) struct Printer {
    /// Whether it is a chat's; else a completion's.
    chat: bool,
    /// The name that the client asked for.
    model: String,
    /// Whether a stream shall end with its usage.
    usage: bool,
    /// Makes the identifiers. Ollama's own are not unique.
    seed: u64,
    /// Calls that have begun.
    calls: usize,
}

impl Printer {
    pub(in crate::dialect) fn new(chat: bool, model: &str, usage: bool, seed: u64) -> Self {
        Self { chat, model: model.to_owned(), usage, seed, calls: 0 }
    }

    /// Prints a step of a stream; an error is none of them.
    ///
    /// # Errors
    /// What cannot be said.
    pub(in crate::dialect) fn step(&mut self, step: &Step<'_>, now: Moment, out: &mut Vec<u8>) -> Result<(), String> {
        match step {
            Step::Text(text) => self.chunk(now, out, |of, writer| of.delta(text, writer)),
            Step::Thinking(text) => self.chunk(now, out, |of, writer| of.thought(text, writer)),
            Step::Call(piece) => {
                let first = piece.index >= self.calls;
                self.calls = self.calls.max(piece.index + 1);
                self.chunk(now, out, |of, writer| of.piece(piece, first, writer));
            }
            Step::Done(done) => self.end(done, now, out),
            Step::Error(_) => {}
        }
        Ok(())
    }

    /// Prints a whole answer.
    pub(in crate::dialect) fn whole(&mut self, answer: &mut Answer, now: Moment) -> Vec<u8> {
        let done = answer.done.unwrap_or_default();
        let calls = answer.calls.take();
        self.calls = calls.len();
        let mut writer = Writer::after(Vec::with_capacity(answer.text.len() + 512));
        self.head(if self.chat { "chat.completion" } else { "text_completion" }, now, &mut writer);
        writer.key("choices").open(b'[').open(b'{').key("index").number(0);
        if self.chat {
            writer.key("message").open(b'{').key("role").string("assistant").key("content").string(&answer.text);
            if !answer.thinking.is_empty() {
                writer.key("reasoning").string(&answer.thinking);
            }
            if !calls.is_empty() {
                writer.key("tool_calls").open(b'[');
                for (index, call) in calls.iter().enumerate() {
                    self.call(call, index, &mut writer);
                }
                writer.close(b']');
            }
            writer.close(b'}');
        } else {
            writer.key("text").string(&answer.text);
        }
        writer.key("finish_reason").string(self.reason(done.reason)).close(b'}').close(b']');
        usage(done.usage, &mut writer);
        writer.close(b'}');
        writer.finish()
    }

    fn end(&self, done: &Done, now: Moment, out: &mut Vec<u8>) {
        let reason = self.reason(done.reason);
        self.event(now, out, |of, writer| {
            writer.open(b'{').key("index").number(0);
            of.delta("", writer);
            writer.key("finish_reason").string(reason).close(b'}');
        });
        if self.usage {
            let mut writer = self.begin(now, out);
            writer.key("choices").open(b'[').close(b']');
            usage(done.usage, &mut writer);
            finish(writer, out);
        }
        out.extend_from_slice(b"data: [DONE]\n\n");
    }

    /// A chunk in which something is said.
    fn chunk(&self, now: Moment, out: &mut Vec<u8>, say: impl FnOnce(&Self, &mut Writer)) {
        self.event(now, out, |of, writer| {
            writer.open(b'{').key("index").number(0);
            say(of, writer);
            writer.key("finish_reason").raw("null").close(b'}');
        });
    }

    /// A chunk with one choice.
    fn event(&self, now: Moment, out: &mut Vec<u8>, choice: impl FnOnce(&Self, &mut Writer)) {
        let mut writer = self.begin(now, out);
        writer.key("choices").open(b'[');
        choice(self, &mut writer);
        writer.close(b']');
        finish(writer, out);
    }

    fn begin(&self, now: Moment, out: &mut Vec<u8>) -> Writer {
        let mut text = std::mem::take(out);
        text.extend_from_slice(b"data: ");
        let mut writer = Writer::after(text);
        self.head(if self.chat { "chat.completion.chunk" } else { "text_completion" }, now, &mut writer);
        writer
    }

    /// The fields that every object has; what follows them closes it.
    fn head(&self, object: &str, now: Moment, out: &mut Writer) {
        let kind = if self.chat { "chatcmpl" } else { "cmpl" };
        let created = now.at.duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        out.open(b'{').key("id").string(&format!("{kind}-{:016x}", self.seed)).key("object").string(object);
        out.key("created").number(created).key("model").string(&self.model).key("system_fingerprint");
        out.string("fp_ollama");
    }

    /// A piece of text. Ollama says the role with each.
    fn delta(&self, text: &str, out: &mut Writer) {
        if self.chat {
            out.key("delta").open(b'{').key("role").string("assistant").key("content").string(text).close(b'}');
        } else {
            out.key("text").string(text);
        }
    }

    fn thought(&self, text: &str, out: &mut Writer) {
        if self.chat {
            out.key("delta").open(b'{').key("role").string("assistant").key("content").string("");
            out.key("reasoning").string(text).close(b'}');
        } else {
            out.key("text").string("");
        }
    }

    fn piece(&self, piece: &Piece<'_>, first: bool, out: &mut Writer) {
        out.key("delta").open(b'{').key("role").string("assistant").key("content").string("").key("tool_calls");
        out.open(b'[').open(b'{').key("index").number(piece.index as u64);
        if first {
            let id = piece.id.as_deref().map_or_else(|| self.id(piece.index), str::to_owned);
            out.key("id").string(&id).key("type").string("function");
        }
        out.key("function").open(b'{');
        if first {
            out.key("name").string(piece.name.as_deref().unwrap_or_default());
        }
        out.key("arguments").string(&piece.arguments).close(b'}').close(b'}').close(b']').close(b'}');
    }

    fn call(&self, call: &Called, index: usize, out: &mut Writer) {
        let id = call.id.clone().unwrap_or_else(|| self.id(index));
        out.open(b'{').key("index").number(index as u64).key("id").string(&id).key("type").string("function");
        out.key("function").open(b'{').key("name").string(&call.name).key("arguments").string(&call.arguments);
        out.close(b'}').close(b'}');
    }

    /// An identifier for a call that has none.
    fn id(&self, index: usize) -> String {
        format!("call_{:016x}_{index}", self.seed)
    }

    fn reason(&self, reason: Reason) -> &'static str {
        match reason {
            Reason::Stop if self.calls > 0 => "tool_calls",
            Reason::Stop => "stop",
            Reason::Length => "length",
            Reason::ContentFilter => "content_filter",
        }
    }
}

fn finish(mut writer: Writer, out: &mut Vec<u8>) {
    writer.close(b'}');
    *out = writer.finish();
    out.extend_from_slice(b"\n\n");
}

fn usage(usage: Option<Usage>, out: &mut Writer) {
    let Usage { input, output, .. } = usage.unwrap_or_default();
    out.key("usage").open(b'{').key("prompt_tokens").number(input).key("completion_tokens").number(output);
    out.key("total_tokens").number(input.saturating_add(output)).close(b'}');
}
