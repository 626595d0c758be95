//! Values where they stand in a text, for those who read more of it than its top-level members.

use std::borrow::Cow;

use super::{Kind, Malformed, members};

/// A value where it stands in a text that has been found well formed. Nothing is copied but strings with escapes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node<'a> {
    pub(super) text: &'a str,
    pub(super) kind: Kind,
}

impl<'a> Node<'a> {
    /// The one object that a text must be.
    ///
    /// # Errors
    /// As [`members`].
    pub(crate) fn object(text: &'a [u8]) -> Result<Self, Malformed> {
        members(text, |_| ())?;
        let text = std::str::from_utf8(text)
            .map_err(|error| Malformed { what: "bytes that are not UTF-8", at: error.valid_up_to() })?;
        Ok(Self { text: text.trim_ascii(), kind: Kind::Object })
    }

    /// What it is.
    pub(crate) fn kind(self) -> Kind {
        self.kind
    }

    pub(crate) fn is_null(self) -> bool {
        self.kind == Kind::Null
    }

    /// The value as it stands there.
    pub(crate) fn raw(self) -> &'a str {
        self.text
    }

    /// A string's text; `None` for what is no string, or holds half of a surrogate pair.
    pub(crate) fn string(self) -> Option<Cow<'a, str>> {
        if self.kind != Kind::String {
            return None;
        }
        let raw = &self.text[1..self.text.len() - 1];
        if memchr::memchr(b'\\', raw.as_bytes()).is_none() {
            return Some(Cow::Borrowed(raw));
        }
        serde_json::from_str(self.text).ok().map(Cow::Owned)
    }

    /// A number as it stands there.
    pub(crate) fn number(self) -> Option<&'a str> {
        (self.kind == Kind::Number).then_some(self.text)
    }

    /// A whole number, also one written as `5.0`.
    pub(crate) fn integer(self) -> Option<i64> {
        let text = self.number()?;
        text.parse().ok().or_else(|| {
            let number: f64 = text.parse().ok()?;
            // What is beyond this is no whole number to those who read numbers as f64.
            const EXACT: f64 = 9_007_199_254_740_992.0;
            #[allow(clippy::cast_possible_truncation, reason = "it is whole and within what an i64 holds")]
            (number.fract() == 0.0 && number.abs() <= EXACT).then_some(number as i64)
        })
    }

    pub(crate) fn boolean(self) -> Option<bool> {
        match self.kind {
            Kind::True => Some(true),
            Kind::False => Some(false),
            _ => None,
        }
    }

    /// An object's members in order, keys without escapes; none for what is no object.
    pub(crate) fn members(self) -> impl Iterator<Item = (Cow<'a, str>, Node<'a>)> {
        let mut inside = Inside::of(self, Kind::Object);
        std::iter::from_fn(move || {
            let key = inside.value()?.string().unwrap_or(Cow::Borrowed("\u{fffd}"));
            Some((key, inside.value()?))
        })
    }

    /// An array's elements in order; none for what is no array.
    pub(crate) fn elements(self) -> impl Iterator<Item = Node<'a>> {
        let mut inside = Inside::of(self, Kind::Array);
        std::iter::from_fn(move || inside.value())
    }

    /// The member of this name; of several the last, as Go and Python take them.
    pub(crate) fn get(self, name: &str) -> Option<Node<'a>> {
        self.members().filter(|(key, _)| key == name).map(|(_, value)| value).last()
    }
}

/// A place in a container of a text that is well formed, so that nothing is looked at twice.
struct Inside<'a> {
    text: &'a str,
    at: usize,
    close: u8,
}

impl<'a> Inside<'a> {
    fn of(node: Node<'a>, kind: Kind) -> Self {
        // What is no such container is one without anything in it.
        let text = if node.kind == kind { node.text } else { "[]" };
        Self { text, at: 1, close: if text.starts_with('{') { b'}' } else { b']' } }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Goes to the next thing in it; false at the end.
    fn more(&mut self) -> bool {
        while self.peek().is_some_and(|byte| matches!(byte, b',' | b':') || byte.is_ascii_whitespace()) {
            self.at += 1;
        }
        self.peek().is_some_and(|byte| byte != self.close)
    }

    fn value(&mut self) -> Option<Node<'a>> {
        if !self.more() {
            return None;
        }
        let start = self.at;
        let kind = match self.peek()? {
            b'"' => {
                self.string();
                Kind::String
            }
            open @ (b'{' | b'[') => {
                self.container();
                if open == b'{' { Kind::Object } else { Kind::Array }
            }
            first => {
                let end = |byte: u8| matches!(byte, b',' | b'}' | b']') || byte.is_ascii_whitespace();
                let rest = &self.text.as_bytes()[self.at..];
                self.at += rest.iter().position(|byte| end(*byte)).unwrap_or(rest.len());
                match first {
                    b't' => Kind::True,
                    b'f' => Kind::False,
                    b'n' => Kind::Null,
                    _ => Kind::Number,
                }
            }
        };
        Some(Node { text: self.text.get(start..self.at)?, kind })
    }

    /// Goes behind a string.
    fn string(&mut self) {
        self.at += 1;
        let bytes = self.text.as_bytes();
        while let Some(found) = bytes.get(self.at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
            self.at += found + 1;
            if bytes[self.at - 1] == b'"' {
                return;
            }
            self.at += 1; // what is escaped
        }
        self.at = bytes.len();
    }

    /// Goes behind a container and all that is in it.
    fn container(&mut self) {
        let mut depth = 0usize;
        while let Some(byte) = self.peek() {
            match byte {
                b'"' => {
                    self.string();
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::super::tests::any_json;
    use super::*;

    /// Builds again what a node shows.
    fn rebuilt(node: Node<'_>) -> Value {
        match node.kind() {
            Kind::Object => node.members().map(|(key, value)| (key.into_owned(), rebuilt(value))).collect(),
            Kind::Array => node.elements().map(rebuilt).collect(),
            Kind::String => node.string().unwrap().into(),
            Kind::True | Kind::False => node.boolean().unwrap().into(),
            Kind::Null => Value::Null,
            Kind::Number => serde_json::from_str(node.number().unwrap()).unwrap(),
        }
    }

    proptest! {
        #[test]
        fn shows_all_of_any_object(map in prop::collection::hash_map(any::<String>(), any_json(), 0..6), pretty: bool) {
            let object = Value::Object(map.into_iter().collect());
            let text = if pretty { serde_json::to_vec_pretty(&object) } else { serde_json::to_vec(&object) }.unwrap();
            let expected: Value = serde_json::from_slice(&text).unwrap();
            prop_assert_eq!(rebuilt(Node::object(&text).unwrap()), expected);
        }
    }

    #[test]
    fn what_is_asked_of_another_kind_is_nothing() {
        let node = Node::object(br#" {"a":"x","b":[1,5.0,5.5,1e30],"a":"\ud800"} "#).unwrap();
        assert!(node.get("a").unwrap().string().is_none(), "the last of two, half of a pair");
        let b = node.get("b").unwrap();
        assert_eq!(b.elements().map(Node::integer).collect::<Vec<_>>(), [Some(1), Some(5), None, None]);
        assert_eq!((b.string(), b.boolean(), b.number(), b.members().count()), (None, None, None, 0));
        assert!(node.get("c").is_none() && node.elements().next().is_none());
    }
}
