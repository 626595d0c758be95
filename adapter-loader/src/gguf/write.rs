//! Writing a file: its header, then its tensors as they come, in order.

use std::io::{self, Write};

use super::{GgufError, Header, MAGIC, TensorKind, VERSION, Value};

/// Writes a GGUF from its first byte to its last, never going back: to a file, a socket, a hash.
///
/// The tensors' content comes in the header's order, in pieces of whatever size ([`Writer::write`]); what lies between two
/// tensors is filled with zeros.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    header: Header,
    /// The tensor that is written.
    tensor: usize,
    /// How much of it is.
    written: u64,
}

impl<W: Write> Writer<W> {
    /// Writes the header of a file with these metadata and these tensors (name, dimensions, kind).
    ///
    /// # Errors
    /// [`Header::new`]'s, and what `out` says.
    pub fn new(
        out: W,
        metadata: Vec<(String, Value)>,
        tensors: impl IntoIterator<Item = (String, Vec<u64>, TensorKind)>,
    ) -> Result<Self, GgufError> {
        Self::with(out, Header::new(metadata, tensors)?)
    }

    /// Writes a header that [`Header::new`] made.
    ///
    /// # Errors
    /// What `out` says; [`GgufError::Invalid`] for one that was read from a file with other gaps than ours.
    pub fn with(mut out: W, header: Header) -> Result<Self, GgufError> {
        let mut bytes = bytes(&header);
        let mut end = 0;
        let adjacent = header.tensors.iter().all(|tensor| {
            let begins = tensor.offset == end;
            end = (tensor.offset + tensor.bytes()).next_multiple_of(header.alignment);
            begins
        });
        if !adjacent || header.data_start != (bytes.len() as u64).next_multiple_of(header.alignment) {
            return Err(GgufError::invalid("its tensors do not follow each other as they are written here"));
        }
        bytes.resize(header.data_start as usize, 0);
        out.write_all(&bytes)?;
        Ok(Self { out, header, tensor: 0, written: 0 })
    }

    /// What it writes.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The next piece of the content of the tensor whose turn it is. A piece that ends it makes the next one's turn.
    ///
    /// # Errors
    /// What `out` says; [`GgufError::Tensor`] for a piece that is longer than what is left of the tensor.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), GgufError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let Some(tensor) = self.header.tensors.get(self.tensor) else {
            return Err(GgufError::invalid("more content than it has tensors"));
        };
        let size = tensor.bytes();
        if bytes.len() as u64 > size - self.written {
            let problem = format!("has {size} bytes: {} more came", self.written + bytes.len() as u64 - size);
            return Err(GgufError::tensor(&tensor.name, problem));
        }
        self.out.write_all(bytes)?;
        self.written += bytes.len() as u64;
        if self.written == size {
            zeros(&mut self.out, size.next_multiple_of(self.header.alignment) - size)?;
            self.tensor += 1;
            self.written = 0;
        }
        Ok(())
    }

    /// The whole content of the tensor whose turn it is.
    ///
    /// # Errors
    /// [`Writer::write`]'s; [`GgufError::Tensor`] where it is not whole.
    pub fn tensor(&mut self, bytes: &[u8]) -> Result<(), GgufError> {
        if let Some(tensor) = self.header.tensors.get(self.tensor)
            && (self.written != 0 || tensor.bytes() != bytes.len() as u64)
        {
            let problem =
                format!("has {} bytes: {} came at once, {} before", tensor.bytes(), bytes.len(), self.written);
            return Err(GgufError::tensor(&tensor.name, problem));
        }
        self.write(bytes)
    }

    /// The end: yields what it was written to, flushed.
    ///
    /// # Errors
    /// [`GgufError::Tensor`] for one whose content did not come; what `out` says.
    pub fn finish(mut self) -> Result<W, GgufError> {
        if let Some(tensor) = self.header.tensors.get(self.tensor) {
            let problem = format!("has {} bytes: {} came", tensor.bytes(), self.written);
            return Err(GgufError::tensor(&tensor.name, problem));
        }
        self.out.flush()?;
        Ok(self.out)
    }
}

/// A header, without what fills it up.
pub(super) fn bytes(header: &Header) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_header(&mut bytes, header);
    bytes
}

fn put_header(out: &mut Vec<u8>, header: &Header) {
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&(header.tensors.len() as u64).to_le_bytes());
    out.extend_from_slice(&(header.metadata.len() as u64).to_le_bytes());
    for (key, value) in &header.metadata {
        put_text(out, key.as_bytes());
        out.extend_from_slice(&(value.kind() as u32).to_le_bytes());
        put_value(out, value);
    }
    for tensor in &header.tensors {
        put_text(out, tensor.name.as_bytes());
        out.extend_from_slice(&(tensor.dims.len() as u32).to_le_bytes());
        for dim in &tensor.dims {
            out.extend_from_slice(&dim.to_le_bytes());
        }
        out.extend_from_slice(&tensor.kind.number().to_le_bytes());
        out.extend_from_slice(&tensor.offset.to_le_bytes());
    }
}

fn put_text(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(number) => out.extend_from_slice(&number.to_le_bytes()),
        Value::I8(number) => out.extend_from_slice(&number.to_le_bytes()),
        Value::U16(number) => out.extend_from_slice(&number.to_le_bytes()),
        Value::I16(number) => out.extend_from_slice(&number.to_le_bytes()),
        Value::U32(number) => out.extend_from_slice(&number.to_le_bytes()),
        Value::I32(number) => out.extend_from_slice(&number.to_le_bytes()),
        Value::U64(number) => out.extend_from_slice(&number.to_le_bytes()),
        Value::I64(number) => out.extend_from_slice(&number.to_le_bytes()),
        Value::F32(number) => out.extend_from_slice(&number.to_le_bytes()),
        Value::F64(number) => out.extend_from_slice(&number.to_le_bytes()),
        Value::Bool(is) => out.extend_from_slice(&[u8::from(*is)]),
        Value::String(text) => put_text(out, text.as_bytes()),
        Value::Bytes(bytes) => put_text(out, bytes),
        Value::Array(kind, values) => {
            out.extend_from_slice(&(*kind as u32).to_le_bytes());
            out.extend_from_slice(&(values.len() as u64).to_le_bytes());
            values.iter().for_each(|value| put_value(out, value));
        }
    }
}

fn zeros(out: &mut impl Write, mut count: u64) -> io::Result<()> {
    const ZEROS: [u8; 512] = [0; 512];
    while count > 0 {
        let piece = count.min(ZEROS.len() as u64);
        out.write_all(&ZEROS[..piece as usize])?;
        count -= piece;
    }
    Ok(())
}
