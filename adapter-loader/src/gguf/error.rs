use std::io;

use tutti_api::Reason;

/// Why a file is no GGUF that is taken, or cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// The file cannot be read, or not be written.
    #[error("GGUF: {0}")]
    Io(#[from] io::Error),
    /// It does not begin with `GGUF`.
    #[error("it is no GGUF file: it does not begin with the four letters GGUF")]
    NoGguf,
    /// It is for machines of the other order of bytes.
    #[error("it is a big-endian GGUF: only little-endian ones are read, convert it again on a little-endian machine")]
    BigEndian,
    /// It is of a version that is not read.
    #[error("it is a GGUF of version {0}: versions 2 and 3 are read, convert it again with a current llama.cpp")]
    Version(u32),
    /// It ends before its header does.
    #[error("it is cut off: the file ends at byte {0}, within its header")]
    CutOff(u64),
    /// The header is more than [`super::Limits`] allow.
    #[error("its header has {what}: at most {limit} are read")]
    TooMuch {
        /// What there is too much of, with its number.
        what: String,
        /// The limit, in the same unit.
        limit: u64,
    },
    /// The header says something that cannot be.
    #[error("its header is not right: {0}")]
    Invalid(String),
    /// A tensor cannot be where, or what, the header says.
    #[error("tensor {tensor:?} {problem}")]
    Tensor {
        /// Its name, cut to 100 characters.
        tensor: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl GgufError {
    /// The word for programs: of a file that came from a source. A file that cannot be read is told by its error.
    pub fn reason(&self) -> Reason {
        match self {
            Self::BigEndian | Self::Version(_) => Reason::Unsupported,
            Self::Io(error) if error.kind() == io::ErrorKind::StorageFull => Reason::NoSpace,
            _ => Reason::InvalidFile,
        }
    }

    pub(super) fn invalid(what: impl Into<String>) -> Self {
        Self::Invalid(what.into())
    }

    pub(super) fn too_much(what: impl Into<String>, limit: u64) -> Self {
        Self::TooMuch { what: what.into(), limit }
    }

    pub(super) fn tensor(name: &str, problem: impl Into<String>) -> Self {
        Self::Tensor { tensor: shown(name), problem: problem.into() }
    }
}

/// A name, cut: a stranger's may be long.
pub(super) fn shown(name: &str) -> String {
    name.chars().take(100).collect()
}
