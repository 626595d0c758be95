//! A JSON object as Go's decoder reads one: keys fold their case, the last of equal keys wins, `null` leaves a field
//! as it was, and what follows the object is not looked at.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

/// The top-level members, in order.
#[derive(Debug, Default)]
pub(crate) struct Fields(Vec<(String, Value)>);

impl Fields {
    /// Reads a request's body; the error is Go's wording.
    pub(crate) fn read(body: &[u8]) -> Result<Fields, String> {
        let mut from = serde_json::Deserializer::from_slice(body);
        Fields::deserialize(&mut from).map_err(|error| {
            if body.iter().all(u8::is_ascii_whitespace) {
                "EOF".to_owned()
            } else if error.is_eof() {
                "unexpected EOF".to_owned()
            } else if error.is_data() {
                "json: cannot unmarshal value into Go value of type api.ChatRequest".to_owned()
            } else {
                let at = error.column().saturating_sub(1).min(body.len().saturating_sub(1));
                let shown = body.get(at).copied().map_or(' ', char::from);
                format!("invalid character '{shown}' looking for beginning of value")
            }
        })
    }

    /// The value of a field, unless it is absent or null.
    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        let folds = |key: &str| key.eq_ignore_ascii_case(name);
        self.0.iter().rev().find(|(key, value)| folds(key) && !value.is_null()).map(|(_, value)| value)
    }

    /// A string field; another type is Go's error.
    pub(crate) fn string(&self, name: &str) -> Result<&str, String> {
        match self.get(name) {
            None => Ok(""),
            Some(Value::String(text)) => Ok(text),
            Some(other) => Err(mismatch(other, name, "string")),
        }
    }

    /// A boolean field.
    pub(crate) fn boolean(&self, name: &str) -> Result<Option<bool>, String> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(other) => Err(mismatch(other, name, "bool")),
        }
    }
}

fn mismatch(value: &Value, field: &str, wanted: &str) -> String {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    format!("json: cannot unmarshal {kind} into Go struct field ChatRequest.{field} of type {wanted}")
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Fields;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Fields(members))
            }
        }
        from.deserialize_map(Members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_as_go_does() {
        let fields = Fields::read(br#"{"model":"a","MODEL":"b","stream":null,"x":1} trailing"#).unwrap();
        assert_eq!(fields.string("model"), Ok("b"));
        assert_eq!(fields.boolean("stream"), Ok(None));
        assert!(fields.string("x").is_err());
        assert_eq!(Fields::read(b"{\"model\":").unwrap_err(), "unexpected EOF");
        assert_eq!(Fields::read(b" ").unwrap_err(), "EOF");
        assert!(Fields::read(b"[1]").unwrap_err().starts_with("json: cannot unmarshal"));
        assert!(Fields::read(b"{nope}").unwrap_err().starts_with("invalid character"));
    }
}
