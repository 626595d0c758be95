//! GGUF, the file that Ollama and llama.cpp take models and adapters in: its header read and written, never its tensors'
//! content.
//!
//! The format is that of ggml's specification (`docs/gguf.md`), versions 2 and 3, little endian. What is read may come from
//! a stranger: nothing is allocated that [`Limits`] do not allow, and nothing is returned that does not lie in the file.

mod error;
mod header;
mod kind;
mod read;
mod value;
mod write;

#[cfg(test)]
mod tests;

pub use error::GgufError;
pub use header::{Header, TensorInfo};
pub use kind::TensorKind;
pub use read::Limits;
pub use value::{Value, ValueKind};
pub use write::Writer;

/// The first four bytes.
const MAGIC: [u8; 4] = *b"GGUF";
/// What is written. Version 2 is the same, but for its numbers' order of bytes, which it does not speak of.
const VERSION: u32 = 3;
/// Where the header names none. Unit: bytes.
const DEFAULT_ALIGNMENT: u64 = 32;
/// The largest that is taken: a larger one wastes what it promises to save. Unit: bytes.
const MAX_ALIGNMENT: u64 = 64 << 10;
/// The key of the alignment.
const ALIGNMENT: &str = "general.alignment";
/// ggml's `GGML_MAX_DIMS`.
const MAX_DIMS: usize = 4;
/// ggml's `GGML_MAX_NAME`, less the zero at its end. Unit: bytes.
const MAX_NAME: usize = 63;
/// The longest key that the specification allows. Unit: bytes.
const MAX_KEY: usize = 65_535;
