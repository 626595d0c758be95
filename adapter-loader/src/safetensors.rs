//! Safetensors, the file that PEFT writes: its header read, and none of it believed.
//!
//! The format (huggingface/safetensors, README "Format"): eight bytes of the header's length, little endian; a JSON object of
//! name → `{dtype, shape, data_offsets}`; the tensors' bytes, without a gap.

use std::collections::HashSet;
use std::fmt;
use std::io::Read;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use tutti_api::Reason;

use crate::verify::Refused;

/// Longest header. Unit: bytes; a LoRA over all linear layers of 100 takes 200 KiB.
const MAX_HEADER: u64 = 16 << 20;
/// Most tensors.
const MAX_TENSORS: usize = 65_536;
/// Most dimensions.
const MAX_DIMS: usize = 8;
/// Longest name. Unit: bytes.
const MAX_NAME: usize = 512;

/// How a tensor's numbers are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// 32 bits.
    F32,
    /// 16 bits, IEEE 754.
    F16,
    /// The upper half of 32 bits.
    BF16,
}

impl Dtype {
    /// Bytes of a number.
    pub fn bytes(self) -> u64 {
        if self == Self::F32 { 4 } else { 2 }
    }
}

/// A tensor, as the header tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// How its numbers are kept.
    pub dtype: Dtype,
    /// The slowest dimension first: rows, columns.
    pub shape: Vec<u64>,
    /// Where it begins in the file. Unit: bytes.
    pub start: u64,
    /// How long it is. Unit: bytes.
    pub length: u64,
}

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// The header's entries in its order. A map would keep the last of two that have one name.
struct Entries(Vec<(String, Entry)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Entries, M::Error> {
                let (mut entries, mut seen) = (Vec::new(), HashSet::new());
                while let Some(name) = map.next_key::<String>()? {
                    if !seen.insert(name.clone()) {
                        return Err(de::Error::custom(format!("{:?} is there twice", shown(&name))));
                    }
                    if seen.len() > MAX_TENSORS {
                        return Err(de::Error::custom(format!("more than {MAX_TENSORS} tensors")));
                    }
                    match name.as_str() {
                        "__metadata__" => drop(map.next_value::<de::IgnoredAny>()?),
                        _ => entries.push((name, map.next_value()?)),
                    }
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(All)
    }
}

/// Reads the header of a file that is `length` bytes long; yields its tensors in the order of their bytes.
///
/// # Errors
/// `InvalidFile`: it is cut off, or says what cannot be. `Unsupported`: its numbers are of another kind.
pub fn read(mut file: impl Read, length: u64) -> Result<Vec<Tensor>, Refused> {
    let invalid = |what: String| Refused::new(Reason::InvalidFile, format!("is no safetensors file: {what}"));
    let mut size = [0; 8];
    file.read_exact(&mut size).map_err(|_| invalid(format!("it has {length} bytes, and no header")))?;
    let size = u64::from_le_bytes(size);
    if size > MAX_HEADER {
        return Err(invalid(format!("its header is {size} bytes long: at most {MAX_HEADER} are read")));
    }
    let data = 8 + size;
    if data > length {
        return Err(invalid(format!("it is cut off: a header of {size} bytes in a file of {length}")));
    }
    let mut header = Vec::new();
    file.take(size).read_to_end(&mut header).map_err(|error| invalid(error.to_string()))?;
    let Entries(entries) = serde_json::from_slice(&header)
        .map_err(|error| invalid(format!("its header: {}", shown(&error.to_string()))))?;
    let mut tensors = entries
        .into_iter()
        .map(|(name, entry)| tensor(name, entry, data, length))
        .collect::<Result<Vec<_>, Refused>>()?;
    tensors.sort_by_key(|tensor| tensor.start);
    let mut end = data;
    for tensor in &tensors {
        if tensor.start != end {
            let name = shown(&tensor.name);
            return Err(invalid(format!("{name:?} begins at byte {} and should at {end}", tensor.start - data)));
        }
        end += tensor.length;
    }
    if end != length {
        return Err(invalid(format!("its tensors end at byte {end}, the file at {length}")));
    }
    Ok(tensors)
}

fn tensor(name: String, entry: Entry, data: u64, length: u64) -> Result<Tensor, Refused> {
    let wrong = |reason: Reason, what: String| Err(Refused::new(reason, format!("tensor {:?} {what}", shown(&name))));
    if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        return wrong(
            Reason::InvalidFile,
            format!("has no name that a tensor has: 1 to {MAX_NAME} visible characters"),
        );
    }
    let dtype = match entry.dtype.as_str() {
        "F32" => Dtype::F32,
        "F16" => Dtype::F16,
        "BF16" => Dtype::BF16,
        other => return wrong(Reason::Unsupported, format!("is {}: F32, F16 and BF16 are read", shown(other))),
    };
    if entry.shape.is_empty() || entry.shape.len() > MAX_DIMS {
        return wrong(Reason::InvalidFile, format!("has {} dimensions: there are 1 to {MAX_DIMS}", entry.shape.len()));
    }
    let bytes = entry.shape.iter().try_fold(dtype.bytes(), |product, dim| product.checked_mul(*dim));
    let [from, to] = entry.data_offsets;
    let inside = to.checked_add(data).is_some_and(|end| end <= length);
    match bytes {
        Some(bytes) if from <= to && inside && bytes == to - from && bytes > 0 => {
            Ok(Tensor { name, dtype, shape: entry.shape, start: data + from, length: bytes })
        }
        _ => wrong(
            Reason::InvalidFile,
            format!(
                "has the shape {:?} at bytes {from} to {to}: these do not go together, or not into the file",
                entry.shape
            ),
        ),
    }
}

/// A stranger's text, cut.
fn shown(text: &str) -> String {
    text.chars().take(120).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    /// A file of these tensors.
    pub(crate) fn file(tensors: &[(&str, &[u64], Vec<f32>)]) -> Vec<u8> {
        let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
        for (name, shape, values) in tensors {
            let from = data.len();
            data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            let entry = json!({ "dtype": "F32", "shape": shape, "data_offsets": [from, data.len()] });
            header.insert((*name).to_owned(), entry);
        }
        with(&serde_json::Value::from(header).to_string(), &data)
    }

    fn with(header: &str, data: &[u8]) -> Vec<u8> {
        let length = (header.len() as u64).to_le_bytes();
        [length.as_slice(), header.as_bytes(), data].concat()
    }

    fn of(bytes: &[u8]) -> Result<Vec<Tensor>, Refused> {
        read(bytes, bytes.len() as u64)
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = file(&[("b", &[1, 2], vec![1.0, 2.0]), ("a", &[3], vec![0.0; 3])]);
        let tensors = of(&bytes).unwrap();
        let told: Vec<_> = tensors.iter().map(|t| (t.name.as_str(), t.shape.clone(), t.length)).collect();
        assert_eq!(told, [("b", vec![1, 2], 8), ("a", vec![3], 12)].map(|(n, s, l)| (n, s, l)));
    }

    #[test]
    fn headers_that_lie_are_refused() {
        let entry = |dtype: &str, shape: &str, from: u64, to: u64| {
            format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}}}"#)
        };
        for (bytes, reason, what) in [
            (Vec::new(), Reason::InvalidFile, "no header"),
            (vec![0; 7], Reason::InvalidFile, "no header"),
            (u64::MAX.to_le_bytes().to_vec(), Reason::InvalidFile, "at most"),
            (100_u64.to_le_bytes().to_vec(), Reason::InvalidFile, "cut off"),
            (with("[]", b""), Reason::InvalidFile, "its header"),
            (with("{", b""), Reason::InvalidFile, "its header"),
            (with(&entry("F64", "[1]", 0, 8), &[0; 8]), Reason::Unsupported, "F64"),
            (with(&entry("F32", "[1]", 0, 8), &[0; 8]), Reason::InvalidFile, "do not go together"),
            (with(&entry("F32", "[2]", 0, 8), &[0; 4]), Reason::InvalidFile, "not into the file"),
            (with(&entry("F32", "[1]", 4, 8), &[0; 8]), Reason::InvalidFile, "should at"),
            (with(&entry("F32", "[1]", 0, 4), &[0; 8]), Reason::InvalidFile, "the file at"),
            (with(&entry("F32", "[0]", 0, 0), &[]), Reason::InvalidFile, "do not go together"),
            (with(&entry("F32", "[]", 0, 4), &[0; 4]), Reason::InvalidFile, "dimensions"),
            (with(&entry("F32", "[4294967296,4294967296]", 0, 4), &[0; 4]), Reason::InvalidFile, "do not go together"),
            (with(&entry("F32", "[1]", 0, 4).replace("\"a\"", "\"a b\""), &[0; 4]), Reason::InvalidFile, "no name"),
            (
                with(
                    r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#,
                    &[0; 4],
                ),
                Reason::InvalidFile,
                "twice",
            ),
        ] {
            let refused = of(&bytes).unwrap_err();
            assert!(refused.reason == reason && refused.message.contains(what), "{what}: {refused:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_hurt(bytes in proptest::collection::vec(any::<u8>(), 0..300), at in 0_usize..400, flip in 1_u8..) {
            let _ = of(&bytes);
            let mut whole = file(&[("x.lora_A.weight", &[2, 3], vec![1.0; 6]), ("x.lora_B.weight", &[3, 2], vec![1.0; 6])]);
            let at = at % whole.len();
            whole[at] ^= flip;
            if let Ok(tensors) = of(&whole) {
                prop_assert!(tensors.iter().all(|tensor| tensor.start + tensor.length <= whole.len() as u64));
            }
        }
    }
}
