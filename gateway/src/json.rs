//! One pass over a JSON text, without building it.
//!
//! [`members`] validates the whole text (RFC 8259, the grammar that serde_json and Go's `encoding/json` share) and
//! shows the members of the top-level object as byte ranges. It is what lets the gateway read and change a body
//! while the rest of its bytes goes on untouched; requests and answers are read by this one function.

mod node;
mod writer;

use std::ops::Range;

pub(crate) use self::node::Node;
pub(crate) use self::writer::Writer;

/// How deep arrays and objects may nest: what serde_json itself allows. Unit: levels.
pub const MAX_DEPTH: usize = 128;

/// What a value is, by its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `"…"`
    String,
    /// `-1.5e3`
    Number,
    /// `true`
    True,
    /// `false`
    False,
    /// `null`
    Null,
    /// `{…}`
    Object,
    /// `[…]`
    Array,
}

/// A member of the top-level object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The key between its quotes, escapes and all.
    pub key: Range<usize>,
    /// The value, a string's quotes included.
    pub value: Range<usize>,
    /// What the value is.
    pub kind: Kind,
}

/// Why a text is not a JSON object, and at which byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {at}")]
pub struct Malformed {
    /// What is wrong, for a person.
    pub what: &'static str,
    /// The byte offset, from 0.
    pub at: usize,
}

/// What is wrong with a text that nests deeper than [`MAX_DEPTH`].
pub(crate) const TOO_DEEP: &str = "nesting deeper than 128 levels";

/// Calls `member` for each member of the one object that `text` must be, in order.
///
/// # Errors
/// [`Malformed`] for anything that is not exactly one JSON object in UTF-8 with white space around it, as soon as it
/// is seen: members before the fault have been shown by then.
pub fn members(text: &[u8], mut member: impl FnMut(Member)) -> Result<(), Malformed> {
    read(text, |scan, key| {
        let start = scan.at;
        let kind = scan.value()?;
        member(Member { key, value: start..scan.at, kind });
        Ok(())
    })
}

/// Goes over the one object that `text` must be. Of each member `value` hears the key, between its quotes, and goes over the
/// value itself: whoever looks into large ones looks at each byte once.
///
/// # Errors
/// As [`members`].
pub(crate) fn read<'a>(
    text: &'a [u8],
    value: impl FnMut(&mut Scan<'a>, Range<usize>) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    let mut scan = Scan::of(text)?;
    scan.object(value)?;
    scan.end("bytes after the object")
}

/// Calls `item` for each item of the one array that `text` must be, in order, with its place and kind.
///
/// # Errors
/// As [`members`].
pub fn items(text: &[u8], mut item: impl FnMut(Range<usize>, Kind)) -> Result<(), Malformed> {
    let mut scan = Scan::of(text)?;
    scan.array(|scan| {
        let start = scan.at;
        let kind = scan.value()?;
        item(start..scan.at, kind);
        Ok(())
    })?;
    scan.end("bytes after the array")
}

/// The text of a string value or key, given without its quotes; `None` where an escape names half a surrogate pair.
/// The caller has it from [`members`], so its escapes are well formed.
pub fn unescape(raw: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(raw).ok()?;
    if !raw.contains(&b'\\') {
        return Some(text.to_owned());
    }
    serde_json::from_str(&format!("\"{text}\"")).ok()
}

/// A place in a text, up to which it is well formed.
pub(crate) struct Scan<'a> {
    text: &'a [u8],
    /// The same.
    utf8: &'a str,
    at: usize,
    /// How many arrays and objects it is in.
    depth: usize,
}

impl<'a> Scan<'a> {
    /// Of a text in UTF-8, at its first byte that is no space.
    fn of(text: &'a [u8]) -> Result<Self, Malformed> {
        let utf8 = std::str::from_utf8(text)
            .map_err(|error| Malformed { what: "bytes that are not UTF-8", at: error.valid_up_to() })?;
        if utf8.starts_with('\u{feff}') {
            return Err(Malformed { what: "a byte order mark", at: 0 });
        }
        let mut scan = Self { text, utf8, at: 0, depth: 0 };
        scan.space();
        Ok(scan)
    }

    /// An object: `value` goes over each member's value, of which it hears the key, between its quotes.
    ///
    /// # Errors
    /// Here is none, or what is here is malformed.
    pub(crate) fn object(
        &mut self,
        mut value: impl FnMut(&mut Self, Range<usize>) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        self.expect(b'{', "something else than an object")?;
        self.each(b'}', |scan| {
            let key = scan.key()?;
            value(scan, key)
        })
    }

    /// An array: `item` goes over each of its items.
    ///
    /// # Errors
    /// As [`Scan::object`].
    pub(crate) fn array(&mut self, item: impl FnMut(&mut Self) -> Result<(), Malformed>) -> Result<(), Malformed> {
        self.expect(b'[', "something else than an array")?;
        self.each(b']', item)
    }

    /// Goes over a value, whatever it is, and shows it.
    ///
    /// # Errors
    /// It is malformed.
    pub(crate) fn node(&mut self) -> Result<Node<'a>, Malformed> {
        let start = self.at;
        let kind = self.value()?;
        Ok(Node { text: &self.utf8[start..self.at], kind })
    }

    /// Whether the value that is here begins with this byte.
    pub(crate) fn opens(&self, byte: u8) -> bool {
        self.peek() == Some(byte)
    }

    /// At which byte it is.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// What stands there.
    pub(crate) fn bytes(&self, range: Range<usize>) -> &'a [u8] {
        &self.text[range]
    }

    /// What an object or array holds, from behind its opening to behind its `close`.
    fn each(&mut self, close: u8, mut one: impl FnMut(&mut Self) -> Result<(), Malformed>) -> Result<(), Malformed> {
        self.depth += 1;
        self.space();
        let mut more = self.peek() != Some(close);
        self.at += usize::from(!more);
        while more {
            one(self)?;
            self.space();
            more = self.comma_or(close)?;
        }
        self.depth -= 1;
        Ok(())
    }

    fn end(mut self, after: &'static str) -> Result<(), Malformed> {
        self.space();
        if self.at < self.text.len() { Err(self.wrong(after)) } else { Ok(()) }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn wrong(&self, what: &'static str) -> Malformed {
        let what = if self.at >= self.text.len() { "an end in the middle" } else { what };
        Malformed { what, at: self.at }
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8, what: &'static str) -> Result<(), Malformed> {
        if self.peek() != Some(byte) {
            return Err(self.wrong(what));
        }
        self.at += 1;
        Ok(())
    }

    /// True after a comma (and the space behind it), false after `close`.
    fn comma_or(&mut self, close: u8) -> Result<bool, Malformed> {
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                self.space();
                Ok(true)
            }
            Some(byte) if byte == close => {
                self.at += 1;
                Ok(false)
            }
            _ => Err(self.wrong("neither a comma nor an end")),
        }
    }

    /// A key, its colon, and the space up to the value; yields the key without its quotes.
    fn key(&mut self) -> Result<Range<usize>, Malformed> {
        let start = self.at + 1;
        self.string()?;
        let key = start..self.at - 1;
        self.space();
        self.expect(b':', "a key without a colon")?;
        self.space();
        Ok(key)
    }

    fn value(&mut self) -> Result<Kind, Malformed> {
        match self.peek() {
            Some(b'{') => self.nested().map(|()| Kind::Object),
            Some(b'[') => self.nested().map(|()| Kind::Array),
            _ => self.scalar(),
        }
    }

    fn scalar(&mut self) -> Result<Kind, Malformed> {
        match self.peek() {
            Some(b'"') => self.string().map(|()| Kind::String),
            Some(b't') => self.literal(b"true").map(|()| Kind::True),
            Some(b'f') => self.literal(b"false").map(|()| Kind::False),
            Some(b'n') => self.literal(b"null").map(|()| Kind::Null),
            Some(b'-' | b'0'..=b'9') => self.number().map(|()| Kind::Number),
            _ => Err(self.wrong("something that is no value")),
        }
    }

    /// An array or object with all that is in it, without recursion: a bit a level says which of the two it is.
    fn nested(&mut self) -> Result<(), Malformed> {
        let (mut objects, mut depth) = (0u128, self.depth);
        loop {
            // Here stands a value.
            let opened = match self.peek() {
                Some(open @ (b'{' | b'[')) => {
                    depth += 1;
                    if depth > MAX_DEPTH {
                        return Err(self.wrong(TOO_DEEP));
                    }
                    objects = objects << 1 | u128::from(open == b'{');
                    self.at += 1;
                    self.space();
                    true
                }
                _ => {
                    self.scalar()?;
                    false
                }
            };
            if opened && self.peek() != Some(if objects & 1 == 1 { b'}' } else { b']' }) {
                if objects & 1 == 1 {
                    self.key()?;
                }
                continue;
            }
            // Behind a value, or before the close of an empty container: leave what ends here.
            let mut first = opened;
            loop {
                self.space();
                let in_object = objects & 1 == 1;
                let more = if first {
                    self.at += 1;
                    false
                } else {
                    self.comma_or(if in_object { b'}' } else { b']' })?
                };
                first = false;
                if more {
                    if in_object {
                        self.key()?;
                    }
                    break;
                }
                objects >>= 1;
                depth -= 1;
                if depth == self.depth {
                    return Ok(());
                }
            }
        }
    }

    fn string(&mut self) -> Result<(), Malformed> {
        self.expect(b'"', "a key that is no string")?;
        loop {
            let rest = &self.text[self.at..];
            let Some(stop) = memchr::memchr2(b'"', b'\\', rest) else {
                self.at = self.text.len();
                return Err(self.wrong("a string without an end"));
            };
            // No early exit: this way the compiler makes vector instructions of it.
            if rest[..stop].iter().fold(false, |found, byte| found | (*byte < 0x20)) {
                return Err(self.wrong("a control character in a string"));
            }
            self.at += stop + 1;
            if rest[stop] == b'"' {
                return Ok(());
            }
            match self.peek() {
                Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
                Some(b'u') => {
                    let hex = self.text.get(self.at + 1..self.at + 5);
                    if !hex.is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)) {
                        return Err(self.wrong("a \\u escape without four hexadecimal digits"));
                    }
                    self.at += 5;
                }
                _ => return Err(self.wrong("an unknown escape")),
            }
        }
    }

    fn literal(&mut self, word: &'static [u8]) -> Result<(), Malformed> {
        if !self.text[self.at..].starts_with(word) {
            return Err(self.wrong("a word that is neither true, false nor null"));
        }
        self.at += word.len();
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Malformed> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start { Err(self.wrong("a number without digits")) } else { Ok(()) }
    }

    fn number(&mut self) -> Result<(), Malformed> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn seen(text: &[u8]) -> Result<Vec<(String, Value)>, Malformed> {
        let mut seen = Vec::new();
        members(text, |m| {
            let key = unescape(&text[m.key.clone()]).unwrap_or_default();
            seen.push((key, serde_json::from_slice(&text[m.value.clone()]).unwrap_or_default()));
        })?;
        Ok(seen)
    }

    pub(crate) fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(6, 64, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::hash_map(any::<String>(), inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn shows_every_member_of_any_object(map in prop::collection::hash_map(any::<String>(), any_json(), 0..6), pretty: bool) {
            let object = Value::Object(map.clone().into_iter().collect());
            let text = if pretty { serde_json::to_vec_pretty(&object) } else { serde_json::to_vec(&object) }.unwrap();
            let seen = seen(&text).unwrap();
            prop_assert_eq!(seen.len(), map.len());
            let expected: Value = serde_json::from_slice(&text).unwrap();
            for (key, value) in seen {
                prop_assert_eq!(&expected[&key], &value);
            }
        }

        /// Takes exactly what serde_json takes: valid texts that were cut, spliced and altered.
        #[test]
        fn agrees_with_serde_json_on_what_is_json(map in prop::collection::hash_map(any::<String>(), any_json(), 0..4),
            cut in any::<prop::sample::Index>(), put in prop::collection::vec(prop::sample::select(&b"{}[]\",:\\u0e-. tfn\x01\xff"[..]), 0..4)) {
            let mut text = serde_json::to_vec(&Value::Object(map.into_iter().collect())).unwrap();
            let at = cut.index(text.len() + 1);
            text.splice(at..at.max(text.len().min(at + put.len() / 2)), put);
            let theirs = serde_json::from_slice::<std::collections::HashMap<String, serde::de::IgnoredAny>>(&text).is_ok()
                && std::str::from_utf8(&text).is_ok(); // which serde_json does not check in what it ignores
            // serde refuses half surrogates only where it builds a string, which for the keys it does here.
            let half_surrogate_key = { let mut half = false; let _ = members(&text, |m| half |= unescape(&text[m.key]).is_none()); half };
            prop_assert_eq!(members(&text, |_| ()).is_ok(), theirs || half_surrogate_key);
        }

        #[test]
        fn shows_every_item_of_any_array(items in prop::collection::vec(any_json(), 0..6), pretty: bool) {
            let array = Value::from(items);
            let text = if pretty { serde_json::to_vec_pretty(&array) } else { serde_json::to_vec(&array) }.unwrap();
            let mut seen = Vec::new();
            super::items(&text, |range, _| seen.push(serde_json::from_slice::<Value>(&text[range]).unwrap())).unwrap();
            prop_assert_eq!(Value::from(seen), serde_json::from_slice::<Value>(&text).unwrap());
        }

        #[test]
        fn never_panics(text in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = members(&text, |_| ());
            let _ = items(&text, |_, _| ());
        }
    }

    #[test]
    fn says_where_a_text_is_wrong() {
        let wrong = |text: &[u8]| members(text, |_| ()).unwrap_err().to_string();
        assert_eq!(wrong(b"\xef\xbb\xbf{}"), "a byte order mark at byte 0");
        assert_eq!(wrong(b"[]"), "something else than an object at byte 0");
        assert_eq!(wrong(br#"{"a":1"#), "an end in the middle at byte 6");
        assert_eq!(wrong(br#"{"a":1} x"#), "bytes after the object at byte 8");
        assert_eq!(items(b"[1],", |_, _| ()).unwrap_err().to_string(), "bytes after the array at byte 3");
        assert_eq!(wrong(b"{\"a\":\"\xff\"}"), "bytes that are not UTF-8 at byte 6");
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH));
        assert!(wrong(deep.as_bytes()).starts_with("nesting deeper than 128 levels"));
        let not_too_deep = format!("{{\"a\":{}{}}}", "[".repeat(MAX_DEPTH - 1), "]".repeat(MAX_DEPTH - 1));
        assert_eq!(members(not_too_deep.as_bytes(), |_| ()), Ok(()));
    }
}
