//! Vectors as base64, for clients that ask for it: OpenAI's packages do so by default, and Ollama 0.11.4 sends numbers all
//! the same.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;

use crate::classify::Edits;
use crate::json::{self, Malformed, Scan};

/// An answer of `/v1/embeddings` with each vector of numbers as OpenAI's base64: that of its little-endian 32-bit floats.
/// Vectors that are text already, and all else, stay as they are.
pub(crate) fn in_base64(answer: Bytes) -> Bytes {
    let mut edits = Edits::default();
    // The answer was read already: it is well formed.
    let _ = json::read(&answer, |scan, key| {
        if scan.bytes(key) != b"data" || !scan.opens(b'[') {
            return scan.node().map(drop);
        }
        scan.array(|scan| item(scan, &mut edits))
    });
    let pieces = edits.apply(&answer);
    if let [only] = pieces.as_slice() { only.clone() } else { pieces.concat().into() }
}

/// Goes over an item of `data`, whose `embedding` is edited.
fn item(scan: &mut Scan<'_>, edits: &mut Edits) -> Result<(), Malformed> {
    if !scan.opens(b'{') {
        return scan.node().map(drop);
    }
    scan.object(|scan, key| {
        if scan.bytes(key) != b"embedding" || !scan.opens(b'[') {
            return scan.node().map(drop);
        }
        let start = scan.at();
        if let Some(floats) = floats(scan)? {
            edits.replace(start..scan.at(), format!("\"{}\"", BASE64_STANDARD.encode(floats)).into());
        }
        Ok(())
    })
}

/// Goes over an array of numbers; yields their bytes, or `None` where something else is in it.
fn floats(scan: &mut Scan<'_>) -> Result<Option<Vec<u8>>, Malformed> {
    let (mut floats, mut strange) = (Vec::new(), false);
    scan.array(|scan| {
        match scan.node()?.number().and_then(|number| number.parse::<f32>().ok()) {
            Some(float) => floats.extend_from_slice(&float.to_le_bytes()),
            None => strange = true,
        }
        Ok(())
    })?;
    Ok((!strange).then_some(floats))
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
