//! The texts of a request for vectors, and all else of it. Pure.

use std::fmt::Write as _;
use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::pace;
use crate::json::{Kind, Node};

/// A request for vectors, taken apart. Its texts are slices of the body.
#[derive(Clone, Debug)]
pub(crate) struct Texts {
    /// All fields but the model, the texts, and how the caller wants its vectors written, in one order: those of two
    /// requests are equal where a replica does the same with both.
    pub(crate) fields: Box<str>,
    /// Each as it is written in JSON.
    items: Vec<Bytes>,
    /// They stand in a list.
    listed: bool,
}

impl Texts {
    /// Reads a body of an API that takes several texts as `input`; `None` for what has no texts, or tokens in their place,
    /// or says something twice: that goes as it is.
    pub(crate) fn read(body: &Bytes) -> Option<Self> {
        let object = Node::object(body).ok()?;
        let (mut input, mut fields) = (None, Vec::new());
        for (key, value) in object.members() {
            match &*key {
                "model" | "encoding_format" => {}
                "input" => {
                    if input.replace(value).is_some() {
                        return None;
                    }
                }
                // Go folds the case of keys.
                other if other.eq_ignore_ascii_case("input") => return None,
                _ => fields.push((key, value)),
            }
        }
        let input = input?;
        let listed = input.kind() == Kind::Array;
        let nodes: Vec<Node<'_>> = if listed { input.elements().collect() } else { vec![input] };
        if nodes.is_empty() || nodes.iter().any(|node| node.kind() != Kind::String) {
            return None;
        }
        // Stable: of equal keys the last counts still.
        fields.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut printed = String::new();
        for (key, value) in fields {
            let _ = write!(printed, "{}:{},", serde_json::Value::from(&*key), value.raw()); // a String takes all
        }
        let items = nodes.into_iter().map(|node| body.slice_ref(node.raw().as_bytes())).collect();
        Some(Self { fields: printed.into(), items, listed })
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    /// What each weighs.
    pub(crate) fn weights(&self) -> impl Iterator<Item = usize> {
        self.items.iter().map(|item| pace::weight(item.len()))
    }

    /// What they weigh together.
    pub(crate) fn weight(&self) -> usize {
        self.weights().sum()
    }

    /// Some of them.
    pub(crate) fn piece(&self, range: Range<usize>) -> Self {
        Self { fields: self.fields.clone(), items: self.items[range].to_vec(), listed: true }
    }

    /// The body of a call for these, which have the same fields.
    pub(crate) fn body<'t>(model: &str, all: impl Iterator<Item = &'t Texts> + Clone) -> Bytes {
        let first = all.clone().next();
        let fields = first.map_or("", |texts| &*texts.fields);
        let items = || all.clone().flat_map(|texts| &texts.items);
        let size = items().map(|item| item.len() + 1).sum::<usize>() + fields.len() + model.len() + 64;
        let mut body = BytesMut::with_capacity(size);
        body.extend_from_slice(b"{");
        body.extend_from_slice(fields.as_bytes());
        body.extend_from_slice(b"\"model\":");
        body.extend_from_slice(serde_json::Value::from(model).to_string().as_bytes());
        body.extend_from_slice(b",\"input\":");
        // One caller's text is sent as it was.
        let listed = all.clone().nth(1).is_some() || first.is_some_and(|texts| texts.listed);
        body.extend_from_slice(if listed { b"[" } else { b"" });
        for (at, item) in items().enumerate() {
            body.extend_from_slice(if at > 0 { b"," } else { b"" });
            body.extend_from_slice(item);
        }
        body.extend_from_slice(if listed { b"]}" } else { b"}" });
        body.freeze()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn texts(body: &str) -> Option<Texts> {
        Texts::read(&Bytes::copy_from_slice(body.as_bytes()))
    }

    #[test]
    fn what_is_no_texts_goes_as_it_is() {
        for body in [
            r#"{"model":"m"}"#,
            r#"{"model":"m","input":[]}"#,
            r#"{"model":"m","input":null}"#,
            r#"{"model":"m","input":[1,2]}"#,
            r#"{"model":"m","input":["a",[1]]}"#,
            r#"{"model":"m","input":"a","input":"b"}"#,
            r#"{"model":"m","input":"a","Input":"b"}"#,
            r#"{"model":"m","input":"a","\u0049nput":"b"}"#,
        ] {
            assert!(texts(body).is_none(), "{body}");
        }
    }

    #[test]
    fn fields_are_the_same_in_any_order_and_how_vectors_are_written_is_none_of_them() {
        let fields = |body: &str| texts(body).unwrap().fields;
        let one = fields(r#"{"model":"m","dimensions":3,"input":"a","truncate":false,"encoding_format":"base64"}"#);
        assert_eq!(one, fields(r#"{"truncate":false , "input":["b"],"model":"n", "dimensions":3}"#));
        assert_ne!(one, fields(r#"{"truncate":true,"input":["b"],"dimensions":3}"#));
        assert_ne!(one, fields(r#"{"input":["b"],"dimensions":3}"#));
    }

    proptest! {
        /// What is sent has each text as it was, in order, the fields and the model; one caller's as he said it.
        #[test]
        fn texts_arrive_as_they_were(said in prop::collection::vec(prop::collection::vec(any::<String>(), 1..5), 1..5), single: bool) {
            let body = |inputs: &Vec<String>| {
                let input = if single && inputs.len() == 1 { json!(inputs[0]) } else { json!(inputs) };
                json!({ "model": "m", "input": input, "dimensions": 8, "x": { "y": [1, "\""] } }).to_string()
            };
            let read: Vec<Texts> = said.iter().map(|inputs| texts(&body(inputs)).unwrap()).collect();
            let sent: Value = serde_json::from_slice(&Texts::body("m\"", read.iter())).unwrap();
            prop_assert_eq!(&sent["model"], "m\"");
            prop_assert_eq!((&sent["dimensions"], &sent["x"]["y"][1]), (&json!(8), &json!("\"")));
            let all: Vec<String> = said.concat();
            let expected = if single && said.len() == 1 && all.len() == 1 { json!(all[0]) } else { json!(all) };
            prop_assert_eq!(&sent["input"], &expected);
            let first = read[0].piece(0..1);
            let piece: Value = serde_json::from_slice(&Texts::body("m", std::iter::once(&first))).unwrap();
            prop_assert_eq!(&piece["input"], &json!([&said[0][0]]));
        }
    }
}
