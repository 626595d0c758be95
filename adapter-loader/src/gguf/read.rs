//! Reading a header: no byte of it is believed before it is looked at.

use std::io::{BufReader, ErrorKind, Read, Seek, SeekFrom};

use super::error::shown;
use super::header::{check_metadata, check_names};
use super::{GgufError, Header, MAGIC, MAX_DIMS, MAX_KEY, MAX_NAME, TensorInfo, TensorKind, Value, ValueKind};

/// What is read at most. The defaults take what there is (a vocabulary of 256 Ki tokens is 10 MiB), and no more than a
/// few times that.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long a header may be. Unit: bytes.
    pub header: u64,
    /// How much memory a header may take once it is read. Unit: bytes.
    pub memory: u64,
    /// How many keys.
    pub keys: u64,
    /// How many tensors.
    pub tensors: u64,
    /// How long a text may be. Unit: bytes.
    pub text: u64,
    /// How many values an array may have.
    pub array: u64,
    /// How deep arrays may lie in each other: 1 is an array of no arrays.
    pub depth: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header: 64 << 20,
            memory: 256 << 20,
            keys: 4096,
            tensors: 64 << 10,
            text: 1 << 20,
            array: 2 << 20,
            depth: 4,
        }
    }
}

impl Header {
    /// Reads the header of a whole file, and nothing behind it.
    ///
    /// # Errors
    /// The file cannot be read, is no GGUF, is more than the limits allow, or its header cannot be true: a tensor does not
    /// lie in the file, or lies over another.
    pub fn read(mut reader: impl Read + Seek, limits: &Limits) -> Result<Self, GgufError> {
        let length = reader.seek(SeekFrom::End(0))?;
        reader.rewind()?;
        let mut input = Input { reader: BufReader::new(reader), length, at: 0, memory: 0, limits: *limits };
        let (keys, tensors) = input.front()?;
        let metadata = input.metadata(keys)?;
        let alignment = check_metadata(&metadata)?;
        let tensors = input.tensors(tensors)?;
        check_names(&tensors)?;
        let data_start = input.at.next_multiple_of(alignment);
        check_places(&tensors, alignment, length.saturating_sub(data_start))?;
        Ok(Self { metadata, tensors, alignment, data_start })
    }
}

/// Every tensor lies in the file, where its offset may be, and over no other.
fn check_places(tensors: &[TensorInfo], alignment: u64, space: u64) -> Result<(), GgufError> {
    for tensor in tensors {
        if !tensor.offset.is_multiple_of(alignment) {
            let problem = format!("begins at {}: that is no multiple of {alignment}", tensor.offset);
            return Err(GgufError::tensor(&tensor.name, problem));
        }
        let end = tensor.offset.checked_add(tensor.bytes()).filter(|end| *end <= space);
        if end.is_none() {
            let (offset, bytes) = (tensor.offset, tensor.bytes());
            let problem =
                format!("has {bytes} bytes from {offset} on: the file has {space}; it is cut off, or its header lies");
            return Err(GgufError::tensor(&tensor.name, problem));
        }
    }
    let mut order: Vec<&TensorInfo> = tensors.iter().collect();
    order.sort_unstable_by_key(|tensor| tensor.offset);
    let over = order.windows(2).find(|pair| pair[0].offset + pair[0].bytes() > pair[1].offset);
    match over {
        Some(pair) => Err(GgufError::tensor(&pair[1].name, format!("lies over {:?}", shown(&pair[0].name)))),
        None => Ok(()),
    }
}

struct Input<R> {
    reader: BufReader<R>,
    /// Of the file. Unit: bytes.
    length: u64,
    /// How much of it has been read. Unit: bytes.
    at: u64,
    /// What has been allocated. Unit: bytes.
    memory: u64,
    limits: Limits,
}

impl<R: Read> Input<R> {
    /// Magic, version, and how many tensors and keys there are, as (keys, tensors).
    fn front(&mut self) -> Result<(u64, u64), GgufError> {
        if self.length < MAGIC.len() as u64 || self.array::<4>()? != MAGIC {
            return Err(GgufError::NoGguf);
        }
        match self.u32()? {
            2 | 3 => {}
            // Every version that there is fits its lowest byte.
            version if version & 0xffff == 0 => return Err(GgufError::BigEndian),
            version => return Err(GgufError::Version(version)),
        }
        let tensors = self.u64()?;
        let keys = self.u64()?;
        if keys > self.limits.keys {
            return Err(GgufError::too_much(format!("{keys} keys"), self.limits.keys));
        }
        if tensors > self.limits.tensors {
            return Err(GgufError::too_much(format!("{tensors} tensors"), self.limits.tensors));
        }
        Ok((keys, tensors))
    }

    fn metadata(&mut self, keys: u64) -> Result<Vec<(String, Value)>, GgufError> {
        let mut metadata = self.room(keys, 8 + 4 + 1)?; // a length, a kind, a byte
        for _ in 0..keys {
            let key = self.name("a key", MAX_KEY)?;
            let kind = self.kind(&key)?;
            let value = self.value(&key, kind, self.limits.depth)?;
            metadata.push((key, value));
        }
        Ok(metadata)
    }

    fn kind(&mut self, key: &str) -> Result<ValueKind, GgufError> {
        let number = self.u32()?;
        let unknown = || GgufError::invalid(format!("{:?} is of a kind {number} that there is not", shown(key)));
        ValueKind::of(number).ok_or_else(unknown)
    }

    fn value(&mut self, key: &str, kind: ValueKind, depth: u32) -> Result<Value, GgufError> {
        Ok(match kind {
            ValueKind::U8 => Value::U8(u8::from_le_bytes(self.array()?)),
            ValueKind::I8 => Value::I8(i8::from_le_bytes(self.array()?)),
            ValueKind::U16 => Value::U16(u16::from_le_bytes(self.array()?)),
            ValueKind::I16 => Value::I16(i16::from_le_bytes(self.array()?)),
            ValueKind::U32 => Value::U32(self.u32()?),
            ValueKind::I32 => Value::I32(i32::from_le_bytes(self.array()?)),
            ValueKind::U64 => Value::U64(self.u64()?),
            ValueKind::I64 => Value::I64(i64::from_le_bytes(self.array()?)),
            ValueKind::F32 => Value::F32(f32::from_le_bytes(self.array()?)),
            ValueKind::F64 => Value::F64(f64::from_le_bytes(self.array()?)),
            ValueKind::Bool => match self.array()? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [byte] => {
                    let key = shown(key);
                    return Err(GgufError::invalid(format!("{key:?} is {byte} where it is true (1) or false (0)")));
                }
            },
            ValueKind::String => match String::from_utf8(self.text(self.limits.text)?) {
                Ok(text) => Value::String(text),
                Err(error) => Value::Bytes(error.into_bytes()),
            },
            ValueKind::Array => self.values(key, depth)?,
        })
    }

    fn values(&mut self, key: &str, depth: u32) -> Result<Value, GgufError> {
        let Some(depth) = depth.checked_sub(1) else {
            let what = format!("arrays in arrays under {:?}, deeper than {}", shown(key), self.limits.depth);
            return Err(GgufError::too_much(what, self.limits.depth.into()));
        };
        let kind = self.kind(key)?;
        let count = self.u64()?;
        if count > self.limits.array {
            let what = format!("an array of {count} values under {:?}", shown(key));
            return Err(GgufError::too_much(what, self.limits.array));
        }
        let mut values = self.room(count, kind.least())?;
        for _ in 0..count {
            values.push(self.value(key, kind, depth)?);
        }
        Ok(Value::Array(kind, values))
    }

    fn tensors(&mut self, count: u64) -> Result<Vec<TensorInfo>, GgufError> {
        let mut tensors = self.room(count, 8 + 1 + 4 + 8 + 4 + 8)?; // a name, one dimension, a kind, an offset
        for _ in 0..count {
            let name = self.name("a tensor", MAX_NAME)?;
            let dims = self.u32()?;
            if !(1..=MAX_DIMS as u32).contains(&dims) {
                return Err(GgufError::tensor(&name, format!("has {dims} dimensions: there are 1 to {MAX_DIMS}")));
            }
            let mut sizes = self.room(dims.into(), 8)?;
            for _ in 0..dims {
                sizes.push(self.u64()?);
            }
            let number = self.u32()?;
            let unknown = || GgufError::tensor(&name, format!("is of a kind {number} that is not known here"));
            let kind = TensorKind::of(number).ok_or_else(unknown)?;
            let tensor = TensorInfo { offset: self.u64()?, dims: sizes, kind, name };
            tensor.check()?;
            tensors.push(tensor);
        }
        Ok(tensors)
    }

    /// A key, or a tensor's name.
    fn name(&mut self, whose: &str, longest: usize) -> Result<String, GgufError> {
        let bytes = self.text(longest as u64)?;
        String::from_utf8(bytes).map_err(|_| GgufError::invalid(format!("the name of {whose} is no UTF-8")))
    }

    fn text(&mut self, longest: u64) -> Result<Vec<u8>, GgufError> {
        let length = self.u64()?;
        if length > longest {
            return Err(GgufError::too_much(format!("a text of {length} bytes at byte {}", self.at), longest));
        }
        let mut bytes: Vec<u8> = self.room(length, 1)?;
        bytes.resize(length as usize, 0);
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// An empty vector with room for so many, each of which takes at least so many bytes of the file: what the file cannot
    /// hold is not allocated for.
    fn room<T>(&mut self, count: u64, least: u64) -> Result<Vec<T>, GgufError> {
        let bytes = count.checked_mul(least).and_then(|bytes| bytes.checked_add(self.at));
        if bytes.is_none_or(|bytes| bytes > self.length) {
            return Err(GgufError::CutOff(self.length));
        }
        // A block of the allocator's is 16 bytes at least.
        let memory = count.saturating_mul(size_of::<T>() as u64).saturating_add(16);
        self.memory = self.memory.saturating_add(memory);
        if self.memory > self.limits.memory {
            return Err(GgufError::too_much(format!("{} bytes of memory", self.memory), self.limits.memory));
        }
        Ok(Vec::with_capacity(count as usize))
    }

    fn u32(&mut self) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], GgufError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), GgufError> {
        self.at += bytes.len() as u64;
        if self.at > self.limits.header {
            return Err(GgufError::too_much(format!("{} bytes or more", self.at), self.limits.header));
        }
        self.reader.read_exact(bytes).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => GgufError::CutOff(self.length),
            _ => GgufError::Io(error),
        })
    }
}
