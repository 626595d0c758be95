//! What a GGUF's header says, as `/api/show` prints it. Written for the simulator alone, so that the loader's own reader is not
//! tested against itself (ggml's `docs/gguf.md`, versions 2 and 3).

use std::io::{self, Read};

use serde_json::{Map, Value};

/// Longest text of a header. Unit: bytes.
const MAX_TEXT: u64 = 16 << 20;
/// Most entries of a list, keys or tensors.
const MAX_ENTRIES: u64 = 1 << 20;

/// The header of a GGUF.
#[derive(Debug, Default)]
pub(super) struct Gguf {
    pub(super) keys: Map<String, Value>,
    /// Name, kind and dimensions, columns first.
    pub(super) tensors: Vec<(String, String, Vec<u64>)>,
}

impl Gguf {
    /// Reads a header.
    ///
    /// # Errors
    /// It is none, or broken off.
    pub(super) fn read(mut from: impl Read) -> io::Result<Self> {
        let from = &mut from;
        if &bytes::<4>(from)? != b"GGUF" {
            return Err(io::Error::other("supplied file was not in GGUF format"));
        }
        let version = u32::from_le_bytes(bytes(from)?);
        if !(2..=3).contains(&version) {
            return Err(io::Error::other("unsupported GGUF version"));
        }
        let (tensors, keys) = (count(from)?, count(from)?);
        let mut gguf = Self::default();
        for _ in 0..keys {
            let (name, kind) = (text(from)?, u32::from_le_bytes(bytes(from)?));
            gguf.keys.insert(name, value(from, kind)?);
        }
        for _ in 0..tensors {
            let (name, dims) = (text(from)?, u32::from_le_bytes(bytes(from)?));
            let dims = (0..dims.min(8)).map(|_| Ok(u64::from_le_bytes(bytes(from)?))).collect::<io::Result<_>>()?;
            let kind = kind(u32::from_le_bytes(bytes(from)?));
            let _offset: [u8; 8] = bytes(from)?;
            gguf.tensors.push((name, kind.to_owned(), dims));
        }
        let parameters = gguf.parameters();
        gguf.keys.insert("general.parameter_count".to_owned(), parameters.into());
        Ok(gguf)
    }

    /// A text of its keys.
    pub(super) fn text(&self, key: &str) -> &str {
        self.keys.get(key).and_then(Value::as_str).unwrap_or_default()
    }

    /// Numbers in all of its tensors.
    pub(super) fn parameters(&self) -> u64 {
        self.tensors.iter().map(|(_, _, dims)| dims.iter().product::<u64>()).sum()
    }

    /// `general.file_type`, as Ollama calls it.
    pub(super) fn file_type(&self) -> &'static str {
        match self.keys.get("general.file_type").and_then(Value::as_u64) {
            Some(0) => "F32",
            Some(1) => "F16",
            Some(2) => "Q4_0",
            Some(7) => "Q8_0",
            Some(15) => "Q4_K_M",
            Some(18) => "Q6_K",
            Some(32) => "BF16",
            _ => "unknown",
        }
    }
}

fn kind(number: u32) -> &'static str {
    match number {
        0 => "F32",
        1 => "F16",
        2 => "Q4_0",
        8 => "Q8_0",
        12 => "Q4_K",
        14 => "Q6_K",
        30 => "BF16",
        _ => "unknown",
    }
}

fn bytes<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn count(from: &mut impl Read) -> io::Result<u64> {
    let count = u64::from_le_bytes(bytes(from)?);
    if count > MAX_ENTRIES { Err(io::Error::other("too many entries")) } else { Ok(count) }
}

fn text(from: &mut impl Read) -> io::Result<String> {
    let length = u64::from_le_bytes(bytes(from)?);
    if length > MAX_TEXT {
        return Err(io::Error::other("too long a text"));
    }
    let mut text = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    from.read_exact(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// A float, as Go writes it: without a point where it is whole.
fn float(number: f64) -> Value {
    if number.fract() == 0.0 && number.abs() < 1e15 { (number as i64).into() } else { number.into() }
}

/// A value of one of GGUF's types. A float is the number that its shortest text says, as Go prints it.
fn value(from: &mut impl Read, kind: u32) -> io::Result<Value> {
    Ok(match kind {
        0 => u8::from_le_bytes(bytes(from)?).into(),
        1 => i8::from_le_bytes(bytes(from)?).into(),
        2 => u16::from_le_bytes(bytes(from)?).into(),
        3 => i16::from_le_bytes(bytes(from)?).into(),
        4 => u32::from_le_bytes(bytes(from)?).into(),
        5 => i32::from_le_bytes(bytes(from)?).into(),
        6 => float(f32::from_le_bytes(bytes(from)?).to_string().parse().map_err(io::Error::other)?),
        7 => (bytes::<1>(from)? != [0]).into(),
        8 => text(from)?.into(),
        9 => {
            let (kind, count) = (u32::from_le_bytes(bytes(from)?), count(from)?);
            if kind == 9 {
                return Err(io::Error::other("a list of lists"));
            }
            (0..count).map(|_| value(from, kind)).collect::<io::Result<Vec<_>>>()?.into()
        }
        10 => u64::from_le_bytes(bytes(from)?).into(),
        11 => i64::from_le_bytes(bytes(from)?).into(),
        12 => float(f64::from_le_bytes(bytes(from)?)),
        other => return Err(io::Error::other(format!("unknown type {other}"))),
    })
}
