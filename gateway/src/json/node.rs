//! Values where they stand in a text, for those who read more of it than its top-level members.

use std::borrow::Cow;

use super::{Kind, Malformed, Scan, members, unescape};

/// A value where it stands in a text that has been found well formed. Nothing is copied but strings with escapes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node<'a> {
    text: &'a str,
    kind: Kind,
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
        if !raw.contains('\\') {
            return Some(Cow::Borrowed(raw));
        }
        unescape(raw.as_bytes()).map(Cow::Owned)
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
            let key = inside.next(|scan| scan.key())?;
            let key = &inside.text[key];
            let key = if key.contains('\\') {
                unescape(key.as_bytes()).map_or(Cow::Borrowed("\u{fffd}"), Cow::Owned)
            } else {
                Cow::Borrowed(key)
            };
            Some((key, inside.value()?))
        })
    }

    /// An array's elements in order; none for what is no array.
    pub(crate) fn elements(self) -> impl Iterator<Item = Node<'a>> {
        let mut inside = Inside::of(self, Kind::Array);
        std::iter::from_fn(move || {
            inside.next(|_| Ok(()))?;
            inside.value()
        })
    }

    /// The member of this name; of several the last, as Go and Python take them.
    pub(crate) fn get(self, name: &str) -> Option<Node<'a>> {
        self.members().filter(|(key, _)| key == name).map(|(_, value)| value).last()
    }
}

/// A place in a container.
struct Inside<'a> {
    text: &'a str,
    scan: Scan<'a>,
    close: u8,
    first: bool,
}

impl<'a> Inside<'a> {
    fn of(node: Node<'a>, kind: Kind) -> Self {
        // What is no such container is one without anything in it.
        let text = if node.kind == kind { node.text } else { "[]" };
        let close = if text.starts_with('{') { b'}' } else { b']' };
        Self { text, scan: Scan { text: text.as_bytes(), at: 1 }, close, first: true }
    }

    /// Goes to the next thing in it and reads its beginning; `None` at the end.
    fn next<T>(&mut self, begin: impl FnOnce(&mut Scan<'a>) -> Result<T, Malformed>) -> Option<T> {
        self.scan.space();
        let more = if std::mem::take(&mut self.first) {
            self.scan.peek() != Some(self.close)
        } else {
            self.scan.comma_or(self.close).ok()?
        };
        if more { begin(&mut self.scan).ok() } else { None }
    }

    fn value(&mut self) -> Option<Node<'a>> {
        let start = self.scan.at;
        let kind = self.scan.value().ok()?;
        Some(Node { text: &self.text[start..self.scan.at], kind })
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
