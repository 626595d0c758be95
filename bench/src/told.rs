//! What an answer told its client: its tokens, its end, its error. A client that is lied to must find out here.

use serde::{Deserialize, Serialize};

/// The longest event that is kept until its line ends. Unit: bytes.
const LINE_MAX: usize = 64 << 10;

/// What has been told so far.
#[derive(Debug, Default)]
pub(crate) struct Told {
    line: Vec<u8>,
    /// Pieces of text that came.
    pub(crate) tokens: u32,
    /// The last piece says that it is the last.
    finished: bool,
    /// `[DONE]` came.
    done: bool,
    /// An error came: its code.
    error: Option<String>,
    /// Something that is no event, or one behind the end.
    strange: bool,
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum End {
    /// With all of its answer.
    Whole,
    /// With an error: its status, and its code as far as it has one.
    Error(u16, String),
    /// With an error after the answer had begun.
    Interrupted(String),
    /// The connection broke, and nothing said why.
    Cut,
    /// As a success, with less than the whole answer, or more, or something else: the lie.
    Lie(String),
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            End::Whole => f.write_str("whole"),
            End::Error(status, code) => write!(f, "{status} {code}"),
            End::Interrupted(code) => write!(f, "interrupted by the error {code}"),
            End::Cut => f.write_str("cut, without a word"),
            End::Lie(what) => write!(f, "**not as it says**: {what}"),
        }
    }
}

#[derive(Deserialize)]
struct Event {
    #[serde(default)]
    choices: Vec<Choice>,
    error: Option<Problem>,
}

#[derive(Deserialize)]
struct Choice {
    delta: Option<Text>,
    message: Option<Text>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Text {
    content: Option<String>,
}

#[derive(Deserialize)]
struct Problem {
    code: Option<String>,
    r#type: Option<String>,
}

impl Problem {
    fn name(self) -> String {
        self.code.or(self.r#type).unwrap_or_else(|| "unnamed".to_owned())
    }
}

impl Told {
    /// Takes some bytes of an SSE stream; `token` gets each piece of text.
    pub(crate) fn take(&mut self, mut bytes: &[u8], mut token: impl FnMut(&str)) {
        while let Some(at) = memchr::memchr(b'\n', bytes) {
            self.line.extend_from_slice(&bytes[..at]);
            bytes = &bytes[at + 1..];
            let line = std::mem::take(&mut self.line);
            self.line(line.trim_ascii_end(), &mut token);
        }
        self.line.extend_from_slice(bytes);
        self.strange |= self.line.len() > LINE_MAX;
    }

    fn line(&mut self, line: &[u8], token: &mut impl FnMut(&str)) {
        if line.is_empty() || line.starts_with(b":") {
            return; // a comment keeps a connection open
        }
        self.strange |= self.done;
        let Some(data) = line.strip_prefix(b"data:").map(<[u8]>::trim_ascii) else {
            self.strange |= !line.starts_with(b"event:");
            return;
        };
        if data == b"[DONE]" {
            self.done = true;
            return;
        }
        let Ok(event) = serde_json::from_slice::<Event>(data) else {
            self.strange = true;
            return;
        };
        if let Some(error) = event.error {
            self.error = Some(error.name());
        }
        for choice in event.choices {
            let text = choice.delta.or(choice.message).and_then(|text| text.content).unwrap_or_default();
            if !text.is_empty() {
                self.strange |= self.finished;
                self.tokens += 1;
                token(&text);
            }
            self.finished |= choice.finish_reason.is_some();
        }
    }

    /// How a stream of so many tokens ended.
    pub(crate) fn end(self, status: u16, complete: bool, tokens: u32) -> End {
        let Told { tokens: came, finished, done, error, strange, .. } = self;
        match error {
            Some(code) if done => End::Lie(format!("[DONE] after the error {code}")),
            Some(code) if status == 200 => End::Interrupted(code),
            Some(code) => End::Error(status, code),
            None if status != 200 => End::Error(status, "unnamed".to_owned()),
            None if strange => End::Lie("something that is no event, or one behind the end".to_owned()),
            None if done && came != tokens => End::Lie(format!("[DONE] after {came} of {tokens} tokens")),
            None if done && !finished => End::Lie("[DONE] without a reason to finish".to_owned()),
            None if complete && !done => End::Lie(format!("an end after {came} of {tokens} tokens, without [DONE]")),
            None if !complete => End::Cut,
            None => End::Whole,
        }
    }
}

/// How an answer of one document ended.
pub(crate) fn end_of_document(status: u16, complete: bool, body: &[u8]) -> End {
    match serde_json::from_slice::<Event>(body) {
        Ok(Event { error: Some(error), .. }) if status != 200 => End::Error(status, error.name()),
        _ if !complete => End::Cut,
        _ if status != 200 => End::Error(status, "unnamed".to_owned()),
        Ok(Event { error: None, choices }) if choices.iter().any(|choice| choice.message.is_some()) => End::Whole,
        _ => End::Lie("a 200 without an answer".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"x\"},\"finish_reason\":null}]}\n\n";
    const LAST: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"\"},\"finish_reason\":\"stop\"}]}\n\n";
    const ERROR: &str = "data: {\"error\":{\"code\":\"stream_interrupted\",\"message\":\"…\"}}\n\n";

    fn end(stream: &str, complete: bool) -> End {
        // Wherever it is cut, it tells the same.
        let whole = |cut: usize| {
            let mut told = Told::default();
            told.take(&stream.as_bytes()[..cut], |_| ());
            told.take(&stream.as_bytes()[cut..], |_| ());
            told.end(200, complete, 2)
        };
        let ends: Vec<End> = (0..=stream.len()).map(whole).collect();
        assert!(ends.windows(2).all(|pair| pair[0] == pair[1]), "{ends:?}");
        ends[0].clone()
    }

    #[test]
    fn a_whole_stream_is_told_from_every_shorter_one() {
        let done = "data: [DONE]\n\n";
        assert_eq!(end(&format!("{TOKEN}: still here\n\n{TOKEN}{LAST}{done}"), true), End::Whole);
        assert!(matches!(end(&format!("{TOKEN}{LAST}{done}"), true), End::Lie(_)), "a token is missing");
        assert!(matches!(end(&format!("{TOKEN}{TOKEN}{TOKEN}{LAST}{done}"), true), End::Lie(_)), "one too many");
        assert!(matches!(end(&format!("{TOKEN}{TOKEN}{done}"), true), End::Lie(_)), "no reason to finish");
        assert!(matches!(end(&format!("{TOKEN}{TOKEN}{LAST}"), true), End::Lie(_)), "no [DONE]");
        assert!(matches!(end("", true), End::Lie(_)), "nothing at all");
        assert!(matches!(end(&format!("{TOKEN}{TOKEN}{LAST}{done}{TOKEN}"), true), End::Lie(_)), "more behind it");
        assert_eq!(end(&format!("{TOKEN}{TOKEN}"), false), End::Cut);
        assert_eq!(end(&format!("{TOKEN}{TOKEN}{LAST}{done}"), false), End::Cut, "the framing did not end");
    }

    #[test]
    fn an_error_is_honest_unless_it_ends_like_a_success() {
        assert_eq!(end(&format!("{TOKEN}{ERROR}"), true), End::Interrupted("stream_interrupted".into()));
        assert_eq!(end(&format!("{TOKEN}{ERROR}"), false), End::Interrupted("stream_interrupted".into()));
        assert!(matches!(end(&format!("{TOKEN}{ERROR}data: [DONE]\n\n"), true), End::Lie(_)));
    }

    #[test]
    fn documents() {
        let answer = br#"{"choices":[{"message":{"content":"x"},"finish_reason":"stop"}]}"#;
        assert_eq!(end_of_document(200, true, answer), End::Whole);
        assert_eq!(end_of_document(200, false, &answer[..20]), End::Cut);
        assert!(matches!(end_of_document(200, true, b"{}"), End::Lie(_)));
        let error = br#"{"error":{"code":"queue_full","type":"rate_limit","message":"x"}}"#;
        assert_eq!(end_of_document(429, true, error), End::Error(429, "queue_full".into()));
        assert!(matches!(end_of_document(200, true, error), End::Lie(_)));
    }

    #[test]
    fn tokens_come_in_order() {
        let mut text = String::new();
        let mut told = Told::default();
        for piece in ["a", "b"] {
            told.take(TOKEN.replace('x', piece).as_bytes(), |token| text += token);
        }
        assert_eq!((text.as_str(), told.tokens), ("ab", 2));
    }
}
