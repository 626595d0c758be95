//! Writes a JSON text, value by value.

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
            // Nothing is refused by memory, nor by the text of a string.
            let _ = serde_json::to_writer(&mut self.out, text);
            return self;
        }
        self.plain(&[text])
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

    /// A value that is JSON already, or a number or word that reads so.
    pub(crate) fn raw(&mut self, json: &str) -> &mut Self {
        self.separate();
        self.out.extend_from_slice(json.as_bytes());
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

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
