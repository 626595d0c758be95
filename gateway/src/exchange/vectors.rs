//! Vectors as base64, for clients that ask for it: OpenAI's packages do so by default, and Ollama 0.11.4 sends numbers all
//! the same.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;

use crate::classify::Edits;
use crate::json::{self, Kind};

/// An answer of `/v1/embeddings` with each vector of numbers as OpenAI's base64: that of its little-endian 32-bit floats.
/// Vectors that are text already, and all else, stay as they are.
pub(crate) fn in_base64(answer: Bytes) -> Bytes {
    let mut edits = Edits::default();
    for (start, vector) in vectors(&answer) {
        if let Some(floats) = floats(vector) {
            edits.replace(start..start + vector.len(), format!("\"{}\"", BASE64_STANDARD.encode(floats)).into());
        }
    }
    let pieces = edits.apply(&answer);
    if let [only] = pieces.as_slice() { only.clone() } else { pieces.concat().into() }
}

/// The bytes of an array of numbers; `None` where something else is in it.
fn floats(vector: &[u8]) -> Option<Vec<u8>> {
    let mut floats = Vec::with_capacity(vector.len() / 2); // a number takes ten bytes or so, a float four
    let mut strange = false;
    // It is well formed: what it is in was read already.
    let _ = json::items(vector, |range, kind| {
        let number = std::str::from_utf8(&vector[range]).ok().filter(|_| kind == Kind::Number);
        match number.and_then(|number| number.parse::<f32>().ok()) {
            Some(float) => floats.extend_from_slice(&float.to_le_bytes()),
            None => strange = true,
        }
    });
    (!strange).then_some(floats)
}

/// The arrays that are the `embedding` of an item of `data`, and where they stand.
fn vectors(answer: &[u8]) -> Vec<(usize, &[u8])> {
    let mut found = Vec::new();
    // The answer was read already: it is well formed.
    let _ = json::members(answer, |data| {
        if &answer[data.key] != b"data" || data.kind != Kind::Array {
            return;
        }
        let (start, items) = (data.value.start, &answer[data.value]);
        let _ = json::items(items, |place, kind| {
            if kind != Kind::Object {
                return;
            }
            let (start, item) = (start + place.start, &items[place]);
            let _ = json::members(item, |member| {
                let value = &item[member.value.clone()];
                if &item[member.key] == b"embedding" && member.kind == Kind::Array {
                    found.push((start + member.value.start, value));
                }
            });
        });
    });
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn answer(vectors: &[Vec<f32>]) -> Value {
        let item =
            |(index, vector): (usize, &Vec<f32>)| json!({ "object": "embedding", "embedding": vector, "index": index });
        let data: Vec<Value> = vectors.iter().enumerate().map(item).collect();
        json!({ "object": "list", "data": data, "model": "e", "usage": { "prompt_tokens": 2, "data": [{ "embedding": [1] }] } })
    }

    proptest! {
        /// Whoever decodes them has the very floats, and all else as it was.
        #[test]
        fn floats_are_the_same_in_base64(vectors in prop::collection::vec(prop::collection::vec(any::<f32>().prop_filter("JSON has no others", |f| f.is_finite()), 0..20), 0..4)) {
            let before = answer(&vectors);
            let mut after: Value = serde_json::from_slice(&in_base64(Bytes::from(before.to_string()))).unwrap();
            for (index, vector) in vectors.iter().enumerate() {
                let place = &mut after["data"][index]["embedding"];
                let bytes = BASE64_STANDARD.decode(place.as_str().unwrap()).unwrap();
                let (floats, rest) = bytes.as_chunks::<4>();
                prop_assert!(rest.is_empty());
                prop_assert_eq!(&floats.iter().map(|float| f32::from_le_bytes(*float)).collect::<Vec<_>>(), vector);
                *place = json!(vector);
            }
            prop_assert_eq!(after, before);
        }
    }

    #[test]
    fn what_is_no_numbers_stays() {
        for strange in [
            r#"{"data":[{"embedding":"AACAPw=="}]}"#,
            r#"{"data":[{"embedding":[1,"2"]},[1],{}],"embedding":[1]}"#,
            r#"{"data":{"embedding":[1]}}"#,
            r#"{"error":{"message":"no"}}"#,
            "[1]",
            "",
        ] {
            assert_eq!(in_base64(Bytes::from(strange)), strange);
        }
    }
}
