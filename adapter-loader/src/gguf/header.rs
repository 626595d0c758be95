use std::collections::HashSet;

use super::error::shown;
use super::{
    ALIGNMENT, DEFAULT_ALIGNMENT, GgufError, MAX_ALIGNMENT, MAX_DIMS, MAX_KEY, MAX_NAME, TensorKind, Value, write,
};

/// A tensor, as the header tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name, `blk.0.attn_q.weight`: 1 to 63 bytes.
    pub name: String,
    /// 1 to 4 of them, in ggml's order: the fastest first, so a matrix has its columns' number, then its rows'.
    pub dims: Vec<u64>,
    /// How its numbers are kept.
    pub kind: TensorKind,
    /// From where the tensors begin. Unit: bytes; a multiple of the alignment.
    pub offset: u64,
}

impl TensorInfo {
    /// How many numbers it has.
    pub fn elements(&self) -> u64 {
        self.dims.iter().product()
    }

    /// How long it is. Unit: bytes.
    pub fn bytes(&self) -> u64 {
        self.kind.bytes(self.elements()).expect("a header has whole rows of blocks, and no size over 64 bits")
    }

    /// What no file may have, whoever wrote it.
    pub(super) fn check(&self) -> Result<(), GgufError> {
        let wrong = |problem: String| Err(GgufError::tensor(&self.name, problem));
        if self.name.is_empty() || self.name.len() > MAX_NAME || self.name.contains('\0') {
            return wrong(format!("has a name of {} bytes: engines take 1 to {MAX_NAME}, no zero", self.name.len()));
        }
        if self.dims.is_empty() || self.dims.len() > MAX_DIMS {
            return wrong(format!("has {} dimensions: there are 1 to {MAX_DIMS}", self.dims.len()));
        }
        let elements = self.dims.iter().try_fold(1_u64, |product, dim| product.checked_mul(*dim));
        // Programs count them in 64 bits with a sign.
        let Some(elements) = elements.filter(|elements| (1..=i64::MAX as u64).contains(elements)) else {
            return wrong(format!("has the dimensions {:?}: their product is 0 or over 63 bits", self.dims));
        };
        let row = self.dims[0];
        let block = self.kind.block().0;
        if !row.is_multiple_of(block as u64) {
            return wrong(format!("is {} in rows of {row}: they are no multiple of {block}", self.kind));
        }
        if self.kind.bytes(elements).is_none_or(|bytes| bytes > i64::MAX as u64) {
            return wrong(format!("has the dimensions {:?}: its size is over 63 bits", self.dims));
        }
        Ok(())
    }
}

/// All of a GGUF but its tensors' content. Every one that there is has passed the same checks, read or made.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    /// What the file says of itself, in its order; each key once.
    pub metadata: Vec<(String, Value)>,
    /// Its tensors, in its order; each name once, none over another.
    pub tensors: Vec<TensorInfo>,
    /// What offsets are multiples of. Unit: bytes; a power of two.
    pub alignment: u64,
    /// Where the tensors begin in the file. Unit: bytes.
    pub data_start: u64,
}

impl Header {
    /// The header of a file with these metadata and these tensors (name, dimensions, kind), one after the other.
    ///
    /// # Errors
    /// [`GgufError::Invalid`] and [`GgufError::Tensor`]: it would be none that is read.
    pub fn new(
        metadata: Vec<(String, Value)>,
        tensors: impl IntoIterator<Item = (String, Vec<u64>, TensorKind)>,
    ) -> Result<Self, GgufError> {
        let alignment = check_metadata(&metadata)?;
        let mut end = 0_u64;
        let mut placed = Vec::new();
        for (name, dims, kind) in tensors {
            let tensor = TensorInfo { name, dims, kind, offset: end };
            tensor.check()?;
            let after = end.checked_add(tensor.bytes()).and_then(|end| end.checked_next_multiple_of(alignment));
            end = after.ok_or_else(|| GgufError::tensor(&tensor.name, "makes the file longer than 64 bits can say"))?;
            placed.push(tensor);
        }
        check_names(&placed)?;
        let mut header = Self { metadata, tensors: placed, alignment, data_start: 0 };
        let length = write::bytes(&header).len() as u64;
        header.data_start = length.next_multiple_of(alignment);
        Ok(header)
    }

    /// What it says under a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.iter().find_map(|(name, value)| (name == key).then_some(value))
    }

    /// The text under a key.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }

    /// The whole number under a key, of whatever width.
    pub fn number(&self, key: &str) -> Option<u64> {
        self.get(key)?.as_u64()
    }

    /// The tensor of a name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// `general.architecture`: `llama`, `qwen2`.
    pub fn architecture(&self) -> Option<&str> {
        self.text("general.architecture")
    }

    /// Where a tensor's content begins in the file. Unit: bytes.
    pub fn position(&self, tensor: &TensorInfo) -> u64 {
        self.data_start + tensor.offset
    }

    /// How long a file is that [`super::Writer`] writes with this header. Unit: bytes.
    pub fn file_length(&self) -> u64 {
        let end = |tensor: &TensorInfo| (tensor.offset + tensor.bytes()).next_multiple_of(self.alignment);
        self.data_start + self.tensors.iter().map(end).max().unwrap_or(0)
    }
}

/// Each key once, and none that is too long; yields the alignment.
pub(super) fn check_metadata(metadata: &[(String, Value)]) -> Result<u64, GgufError> {
    let mut seen = HashSet::with_capacity(metadata.len());
    for (key, value) in metadata {
        if key.is_empty() || key.len() > MAX_KEY {
            return Err(GgufError::invalid(format!("a key has {} bytes: there are 1 to {MAX_KEY}", key.len())));
        }
        if !seen.insert(key.as_str()) {
            return Err(GgufError::invalid(format!("it has the key {:?} twice", shown(key))));
        }
        check_kinds(key, value)?;
    }
    let Some(value) = metadata.iter().find_map(|(key, value)| (key == ALIGNMENT).then_some(value)) else {
        return Ok(DEFAULT_ALIGNMENT);
    };
    let sane = |alignment: &u64| alignment.is_power_of_two() && (8..=MAX_ALIGNMENT).contains(alignment);
    let alignment = if let Value::U32(alignment) = value { Some(u64::from(*alignment)) } else { None };
    alignment.filter(sane).ok_or_else(|| {
        GgufError::invalid(format!("{ALIGNMENT} is none: it is a U32, a power of two from 8 to {MAX_ALIGNMENT}"))
    })
}

/// What is read has been checked; what is written may hold arrays that are of several kinds.
fn check_kinds(key: &str, value: &Value) -> Result<(), GgufError> {
    let Value::Array(kind, values) = value else { return Ok(()) };
    if let Some(other) = values.iter().find(|value| value.kind() != *kind) {
        let other = other.kind();
        return Err(GgufError::invalid(format!("{:?} is an array of {kind:?} that holds a {other:?}", shown(key))));
    }
    values.iter().try_for_each(|value| check_kinds(key, value))
}

/// Each name once.
pub(super) fn check_names(tensors: &[TensorInfo]) -> Result<(), GgufError> {
    let mut seen = HashSet::with_capacity(tensors.len());
    match tensors.iter().find(|tensor| !seen.insert(tensor.name.as_str())) {
        Some(twice) => Err(GgufError::tensor(&twice.name, "is there twice")),
        None => Ok(()),
    }
}
