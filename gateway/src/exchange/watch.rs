//! Watches an answer on its way to the client: counts its tokens, gives the model its client-side name, and knows
//! whether the end was the end.
//!
//! Pure: bytes in, bytes out. Where the name needs no change the bytes go on as they came, without waiting for a line
//! to be whole.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use memchr::{memchr, memrchr};

use super::event::{self, Event, Framing};
use crate::dialect::Usage;
use crate::ending;
use crate::json::Malformed;
use crate::limits::{self, Limit};

/// Longest line of a stream. Unit: bytes.
pub(super) const MAX_LINE: usize = 8 << 20;

/// The state of a watched answer.
#[derive(Debug)]
pub(crate) struct Watch {
    framing: Framing,
    /// The name to put in place of the replica's, as JSON, quotes included; `None` where they are one.
    rename: Option<Bytes>,
    /// The line that is not whole yet. Where nothing is renamed, the client has it already.
    partial: BytesMut,
    usage: Usage,
    /// Events that brought something of the answer.
    pieces: u64,
    /// All events.
    events: u64,
    done: bool,
}

/// Why an answer is not whole.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The replica said so in the stream. The client has got its words.
    Said(String),
    /// It is an answer that the client's own dialect has no words for.
    Unsayable(String),
    /// It is no answer of this dialect, or ended before its end; what was wrong, for the log and the client.
    Garbled(String),
    /// The gateway is over before it.
    Over,
}

impl Broken {
    /// What to tell.
    pub(crate) fn message(self) -> String {
        match self {
            Broken::Said(message) | Broken::Garbled(message) | Broken::Unsayable(message) => message,
            Broken::Over => ending::over().message,
        }
    }
}

impl Watch {
    pub(crate) fn new(framing: Framing, rename: Option<Bytes>) -> Self {
        Self { framing, rename, partial: BytesMut::new(), usage: Usage::default(), pieces: 0, events: 0, done: false }
    }

    /// How the answer is cut.
    pub(crate) fn framing(&self) -> Framing {
        self.framing
    }

    /// Tokens so far: what the replica counted, or, where it does not say, an event counts for a token.
    pub(crate) fn usage(&self) -> Usage {
        let output =
            if self.usage.output == 0 && self.framing != Framing::Whole { self.pieces } else { self.usage.output };
        Usage { output, ..self.usage }
    }

    /// Events so far.
    pub(crate) fn events(&self) -> u64 {
        self.events
    }

    /// Whether the last event has been seen.
    pub(crate) fn is_done(&self) -> bool {
        self.done
    }

    /// Takes a chunk of a stream; yields what goes on to the client, perhaps nothing yet.
    pub(crate) fn chunk(&mut self, chunk: Bytes) -> Result<Bytes, (Bytes, Broken)> {
        if self.done {
            // After the end nothing matters any more.
            let held = self.partial.split();
            return Ok(if self.rename.is_some() && !held.is_empty() {
                [held, chunk.into()].concat().into()
            } else {
                chunk
            });
        }
        let Some(last) = memrchr(b'\n', &chunk) else {
            self.hold(&chunk)?;
            return Ok(if self.rename.is_some() { Bytes::new() } else { chunk });
        };
        let renamed = if self.partial.is_empty() {
            self.lines(&chunk.slice(..=last), 0)?
        } else {
            let sent = if self.rename.is_some() { 0 } else { self.partial.len() };
            self.partial.extend_from_slice(&chunk[..=last]);
            let lines = self.partial.split().freeze();
            self.lines(&lines, sent)?
        };
        self.hold(&chunk[last + 1..])?;
        Ok(if self.rename.is_some() { renamed } else { chunk })
    }

    /// The stream has ended: what is left to send, and whether that was its end.
    pub(crate) fn end(&mut self) -> Result<Bytes, (Bytes, Broken)> {
        let rest = self.partial.split().freeze();
        let sent = if self.rename.is_some() { 0 } else { rest.len() };
        let renamed = if rest.is_empty() { Bytes::new() } else { self.lines(&rest, sent)? };
        let left = if self.rename.is_some() { renamed } else { Bytes::new() };
        if self.done { Ok(left) } else { Err((left, Broken::Garbled("the replica's stream broke off".into()))) }
    }

    /// Takes a whole answer of one object.
    pub(crate) fn whole(&mut self, body: Bytes) -> Result<Bytes, Broken> {
        let piece = event::parse(Framing::Whole, &body).unwrap_or(Err(Malformed { what: "nothing", at: 0 }));
        let piece = piece.map_err(garbled)?;
        self.note(&piece.event);
        Ok(match (&self.rename, piece.model) {
            (Some(name), Some(range)) => [&body[..range.start], name, &body[range.end..]].concat().into(),
            _ => body,
        })
    }

    fn hold(&mut self, partial: &[u8]) -> Result<(), (Bytes, Broken)> {
        if self.partial.len() + partial.len() > MAX_LINE {
            return Err((Bytes::new(), too_long()));
        }
        self.partial.extend_from_slice(partial);
        Ok(())
    }

    /// Reads whole lines, of which the client has the first `sent` bytes; yields them renamed where that is wanted. With
    /// an error goes what was good before it and is not sent yet.
    fn lines(&mut self, lines: &Bytes, sent: usize) -> Result<Bytes, (Bytes, Broken)> {
        let mut out = BytesMut::new();
        let (mut from, mut copied) = (0, 0);
        while from < lines.len() && !self.done {
            let end = memchr(b'\n', &lines[from..]).map_or(lines.len(), |at| from + at + 1);
            let line = lines[from..end].trim_ascii_end();
            match event::parse(self.framing, line) {
                None => {}
                Some(Err(malformed)) => {
                    out.extend_from_slice(&lines[copied..from]);
                    return Err((self.good(out, lines, sent..from), garbled(malformed)));
                }
                Some(Ok(piece)) => {
                    if let (Some(name), Some(range)) = (&self.rename, piece.model) {
                        out.extend_from_slice(&lines[copied..from + range.start]);
                        out.extend_from_slice(name);
                        copied = from + range.end;
                    }
                    self.note(&piece.event);
                    if let Event::Error(message) = piece.event {
                        out.extend_from_slice(&lines[copied..end]);
                        let good = self.good(out, lines, sent..end);
                        return Err((self.ended(good), Broken::Said(message)));
                    }
                }
            }
            from = end;
        }
        if copied == 0 {
            return Ok(lines.clone());
        }
        out.extend_from_slice(&lines[copied..]);
        Ok(out.freeze())
    }

    fn good(&self, renamed: BytesMut, lines: &Bytes, unsent: Range<usize>) -> Bytes {
        if self.rename.is_some() { renamed.freeze() } else { lines.slice(unsent.start.min(unsent.end)..unsent.end) }
    }

    /// An event that nothing more comes after: no client looks at one before the blank line behind it.
    fn ended(&self, event: Bytes) -> Bytes {
        if self.framing.is_sse() { [&event[..], b"\n"].concat().into() } else { event }
    }

    fn note(&mut self, event: &Event) {
        self.events += 1;
        match event {
            Event::Delta(usage) | Event::Step(usage) | Event::Done(usage) => {
                self.usage = self.usage.then(usage.unwrap_or_default());
                self.done |= matches!(event, Event::Done(_));
                self.pieces += u64::from(matches!(event, Event::Delta(_)));
            }
            Event::Error(_) => {}
        }
    }
}

/// A line that is longer than [`MAX_LINE`].
pub(super) fn too_long() -> Broken {
    limits::hit(Limit::Line);
    Broken::Garbled(format!("the replica sent a line of over {MAX_LINE} bytes"))
}

pub(super) fn garbled(malformed: Malformed) -> Broken {
    Broken::Garbled(format!("the replica's answer is no JSON object: {malformed}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NDJSON: &str = "{\"model\":\"a:1\",\"response\":\"x\",\"done\":false}\n{\"model\":\"a:1\",\"done\":true,\"prompt_eval_count\":3,\"eval_count\":2}\n";
    const SSE: &str = "data: {\"model\":\"a:1\",\"choices\":[]}\n\ndata: {\"model\":\"a:1\",\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\ndata: [DONE]\n\n";

    /// Cuts a text at these places and watches the chunks; yields all that went out, and how it ended.
    fn watched(
        framing: Framing,
        rename: Option<&str>,
        text: &str,
        cuts: &[prop::sample::Index],
    ) -> (String, Watch, Option<Broken>) {
        let mut watch = Watch::new(framing, rename.map(|name| Bytes::from(format!("\"{name}\""))));
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).chain([0, text.len()]).collect();
        at.sort_unstable();
        let mut out = Vec::new();
        for pair in at.windows(2) {
            match watch.chunk(Bytes::copy_from_slice(&text.as_bytes()[pair[0]..pair[1]])) {
                Ok(bytes) => out.extend_from_slice(&bytes),
                Err((good, broken)) => {
                    out.extend_from_slice(&good);
                    return (String::from_utf8(out).unwrap(), watch, Some(broken));
                }
            }
        }
        let ended = watch.end();
        out.extend_from_slice(match &ended {
            Ok(left) | Err((left, _)) => left,
        });
        (String::from_utf8(out).unwrap(), watch, ended.err().map(|(_, broken)| broken))
    }

    proptest! {
        #[test]
        fn wherever_a_stream_is_cut_it_arrives_whole(cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8), rename: bool, sse: bool) {
            let (framing, text) = if sse { (Framing::Sse, SSE) } else { (Framing::Ndjson, NDJSON) };
            let (out, watch, broken) = watched(framing, rename.then_some("risk"), text, &cuts);
            prop_assert_eq!(out, if rename { text.replace("a:1", "risk") } else { text.to_owned() });
            prop_assert_eq!(broken, None);
            prop_assert_eq!(watch.usage(), Usage { input: 3, output: 2, ..Usage::default() });
        }

        #[test]
        fn a_stream_cut_short_is_known(cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..4), short in 1..40usize, rename: bool) {
            let text = &NDJSON[..NDJSON.len() - 1 - short];
            let (out, _, broken) = watched(Framing::Ndjson, rename.then_some("risk"), text, &cuts);
            prop_assert!(broken.is_some());
            if !rename {
                prop_assert!(text.starts_with(&out));
            }
        }

        #[test]
        fn an_error_in_a_stream_goes_out_once_and_ends_it(cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..4), rename: bool) {
            let text = "{\"model\":\"a:1\",\"done\":false}\n{\"error\":\"boom\"}\n";
            let (out, _, broken) = watched(Framing::Ndjson, rename.then_some("risk"), text, &cuts);
            prop_assert_eq!(out, if rename { text.replace("a:1", "risk") } else { text.to_owned() });
            prop_assert_eq!(broken, Some(Broken::Said("boom".into())));
        }
    }

    #[test]
    fn what_comes_after_the_end_is_no_fault() {
        for (framing, end) in [
            (Framing::Ndjson, "{\"model\":\"a:1\",\"done\":true,\"eval_count\":2}\n"),
            (Framing::Sse, "data: {\"model\":\"a:1\",\"usage\":{\"completion_tokens\":2}}\n\ndata: [DONE]\n\n"),
            (
                Framing::Named,
                "data: {\"type\":\"response.completed\",\"response\":{\"model\":\"a:1\",\"usage\":{\"output_tokens\":2}}}\n\n",
            ),
        ] {
            // So some servers end what has names, too.
            let text = [end, "data: [DONE]\n\n<html>"].concat();
            for rename in [None, Some("risk")] {
                let expected = if rename.is_some() { text.replace("a:1", "risk") } else { text.clone() };
                for cut in 0..=text.len() {
                    let mut watch = Watch::new(framing, rename.map(|_| Bytes::from_static(b"\"risk\"")));
                    let pieces =
                        [&text[..cut], &text[cut..]].map(|piece| watch.chunk(piece.to_owned().into()).unwrap());
                    let out = [pieces.concat(), watch.end().unwrap().to_vec()].concat();
                    assert_eq!((String::from_utf8(out).unwrap(), watch.usage().output), (expected.clone(), 2), "{cut}");
                }
            }
        }
    }

    #[test]
    fn a_line_without_an_end_is_not_kept_for_ever() {
        let mut watch = Watch::new(Framing::Ndjson, None);
        let piece = Bytes::from(vec![b' '; MAX_LINE / 2 + 1]);
        assert_eq!(watch.chunk(piece.clone()), Ok(piece.clone()));
        assert!(matches!(watch.chunk(piece), Err((_, Broken::Garbled(_)))));
    }

    #[test]
    fn an_error_event_goes_out_with_the_blank_line_that_clients_wait_for() {
        for rename in [None, Some("risk")] {
            for (framing, error) in [
                (Framing::Sse, "data: {\"error\":{\"message\":\"boom\"}}\n\n"),
                (Framing::Named, "event: error\ndata: {\"type\":\"error\",\"message\":\"boom\"}\n\n"),
            ] {
                let (out, _, broken) = watched(framing, rename, error, &[]);
                assert_eq!((out.as_str(), broken), (error, Some(Broken::Said("boom".into()))));
            }
        }
    }

    #[test]
    fn a_whole_answer_is_renamed_and_counted() {
        let mut watch = Watch::new(Framing::Whole, Some(Bytes::from_static(b"\"risk\"")));
        let out = watch.whole(Bytes::from_static(b"{\"model\":\"a:1\",\"eval_count\":2}")).unwrap();
        assert_eq!(out, "{\"model\":\"risk\",\"eval_count\":2}");
        assert_eq!(watch.usage(), Usage { output: 2, ..Usage::default() });
        assert!(matches!(watch.whole(Bytes::from_static(b"<html>")), Err(Broken::Garbled(_))));
    }
}
