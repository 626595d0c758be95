//! Writes a JSON text, value by value, on one line: that of a stream.

use std::borrow::Cow;

/// A text that grows. Whoever uses it opens and closes containers in pairs; commas come by themselves.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    out: Vec<u8>,
    /// Whether something stands before the next value in its container.
    comma: bool,
}

impl Writer {
    /// One with room for so many bytes.
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self::after(Vec::with_capacity(bytes))
    }

    /// Appends to what is there.
    pub(crate) fn after(out: Vec<u8>) -> Self {
        Self { out, comma: false }
    }

    /// Opens an object or an array, by its bracket.
    pub(crate) fn open(&mut self, bracket: u8) -> &mut Self {
        self.separate();
        self.out.push(bracket);
        self.comma = false;
        self
    }

    /// Closes what was opened last.
    pub(crate) fn close(&mut self, bracket: u8) -> &mut Self {
        self.out.push(bracket);
        self.comma = true;
        self
    }

    /// A member's key, one that needs no escapes.
    pub(crate) fn key(&mut self, key: &'static str) -> &mut Self {
        self.separate();
        self.out.push(b'"');
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.comma = false;
        self
    }

    /// A string.
    pub(crate) fn string(&mut self, text: &str) -> &mut Self {
        // No early exit: this way the compiler makes vector instructions of it.
        if text.bytes().fold(false, |found, byte| found | (byte < 0x20) | (byte == b'"') | (byte == b'\\')) {
            self.separate();
            let start = self.out.len();
            // Nothing is refused by memory, nor by the text of a string.
            let _ = serde_json::to_writer(&mut self.out, text);
            if text.contains(SEPARATORS) {
                let escaped = String::from_utf8_lossy(&self.out[start..]).into_owned();
                self.out.truncate(start);
                self.out.extend_from_slice(on_one_line(&escaped).as_bytes());
            }
            return self;
        }
        self.separate();
        self.out.push(b'"');
        self.out.extend_from_slice(on_one_line(text).as_bytes());
        self.out.push(b'"');
        self
    }

    /// A string in pieces, none of which needs an escape.
    pub(crate) fn plain(&mut self, pieces: &[&str]) -> &mut Self {
        self.separate();
        self.out.push(b'"');
        for piece in pieces {
            self.out.extend_from_slice(piece.as_bytes());
        }
        self.out.push(b'"');
        self
    }

    /// A value that is JSON already, or a number or word that reads so. What would end the line is left out or escaped.
    pub(crate) fn raw(&mut self, json: &str) -> &mut Self {
        self.separate();
        self.out.extend_from_slice(on_one_line(json).as_bytes());
        self
    }

    /// A value that is JSON already, byte for byte: in what nobody reads by lines.
    pub(crate) fn verbatim(&mut self, json: &[u8]) -> &mut Self {
        self.separate();
        self.out.extend_from_slice(json);
        self
    }

    /// A whole number.
    pub(crate) fn number(&mut self, number: u64) -> &mut Self {
        self.raw(&number.to_string())
    }

    /// `true` or `false`.
    pub(crate) fn boolean(&mut self, value: bool) -> &mut Self {
        self.raw(if value { "true" } else { "false" })
    }

    /// What was written.
    pub(crate) fn finish(self) -> Vec<u8> {
        self.out
    }

    fn separate(&mut self) {
        if std::mem::replace(&mut self.comma, true) {
            self.out.push(b',');
        }
    }
}

/// What ends a line and may stand in a string of JSON as it is.
const SEPARATORS: [char; 3] = ['\u{85}', '\u{2028}', '\u{2029}'];

/// JSON without what ends a line. Between its values that means nothing, and within a string it stands as an escape but
/// for three characters: clients that read lines as Python's `splitlines` does (httpx, and so Ollama's own package) end
/// one at these too. Go, and so Ollama, escapes two of them as well.
fn on_one_line(json: &str) -> Cow<'_, str> {
    // No early exit, as above. The last two begin U+0085, and U+2028 and U+2029, among many others.
    let may = |byte: u8| (byte == b'\n') | (byte == b'\r') | (byte == 0xc2) | (byte == 0xe2);
    if !json.bytes().fold(false, |found, byte| found | may(byte))
        || !json.contains(|char| matches!(char, '\n' | '\r') || SEPARATORS.contains(&char))
    {
        return Cow::Borrowed(json);
    }
    let mut line = String::with_capacity(json.len() + 64);
    for char in json.chars() {
        match char {
            '\n' | '\r' => {}
            '\u{85}' => line.push_str("\\u0085"),
            '\u{2028}' => line.push_str("\\u2028"),
            '\u{2029}' => line.push_str("\\u2029"),
            char => line.push(char),
        }
    }
    Cow::Owned(line)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn nothing_that_ends_a_line_is_in_one() {
        let ends = "a\n\r\u{b}\u{c}\u{1c}\u{85}\u{2028}\u{2029}é”\u{1f600}";
        let plain = "\u{85}\u{2028}\u{2029}é”";
        let pretty = "{\r\n  \"a\": [\n1,\n2],\n \"b\": \"\u{2028}\\n\"\n}";
        let mut writer = Writer::default();
        writer.open(b'[').string(ends).string(plain).raw(pretty).close(b']');
        let text = String::from_utf8(writer.finish()).unwrap();
        assert!(!text.chars().any(|char| char < ' ' || SEPARATORS.contains(&char)), "{text:?}");
        let read: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read, json!([ends, plain, { "a": [1, 2], "b": "\u{2028}\n" }]));
    }

    #[test]
    fn writes_what_reads_the_same() {
        let mut writer = Writer::after(b"data: ".to_vec());
        writer.open(b'{').key("a").string("\"\n\u{1f600}\\").key("b").open(b'[').number(1).raw("{\"x\":2}");
        writer.open(b'[').close(b']').boolean(true).close(b']').key("c").open(b'{').close(b'}').close(b'}');
        let text = writer.finish();
        let read: Value = serde_json::from_slice(text.strip_prefix(b"data: ").unwrap()).unwrap();
        assert_eq!(read, json!({ "a": "\"\n\u{1f600}\\", "b": [1, { "x": 2 }, [], true], "c": {} }));
    }
}
