//! Why a file did not come.

use std::io;
use std::path::PathBuf;

use tutti_api::{Digest, Reason};

use crate::source::SourceError;

/// Why a file did not come.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The source does not answer, refuses, or has something else by now.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The object is not as large as the manifest says; nothing was fetched.
    #[error("{place}: it has {listed} bytes, and its manifest says {expected}: push it again, under a new path")]
    Size {
        /// What was fetched.
        place: String,
        /// Unit: bytes.
        listed: u64,
        /// Unit: bytes.
        expected: u64,
    },
    /// The bytes are not those of the manifest.
    #[error("{place}: it is {found}, and its manifest says {expected}: push it again, under a new path")]
    Digest {
        /// What was fetched.
        place: String,
        /// What came.
        found: Digest,
        /// What the manifest says.
        expected: Digest,
    },
    /// The disk has no room; nothing was left there.
    #[error(
        "{}: the disk is full{}: make room, or lower adapters.disk",
        folder.display(),
        .free.map(|free| format!(" ({needed} bytes are needed, {free} are free)")).unwrap_or_default()
    )]
    NoSpace {
        /// Where it was to come.
        folder: PathBuf,
        /// Unit: bytes.
        needed: u64,
        /// Unit: bytes; absent where the disk became full on the way.
        free: Option<u64>,
    },
    /// The disk takes nothing.
    #[error("{}: the disk is read-only: mount it writable, or name another folder", .0.display())]
    ReadOnly(PathBuf),
    /// Another process fetches the same file to the same place.
    #[error("{}: another process is writing it: two loaders must not share a folder", .0.display())]
    Busy(PathBuf),
    /// The system does not do what it should with the file.
    #[error("{}: {error}", path.display())]
    Disk {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// The fetch was ended from outside.
    #[error("the fetch was stopped")]
    Stopped,
}

impl FetchError {
    /// What the system says of a file, by its meaning.
    pub(super) fn disk(path: impl Into<PathBuf>, needed: u64, error: io::Error) -> Self {
        let path = path.into();
        let folder = || path.parent().unwrap_or(&path).to_owned();
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                FetchError::NoSpace { folder: folder(), needed, free: None }
            }
            io::ErrorKind::ReadOnlyFilesystem => FetchError::ReadOnly(folder()),
            _ => FetchError::Disk { path, error },
        }
    }

    /// The reason of the adapter that this keeps from serving.
    pub fn reason(&self) -> Reason {
        match self {
            FetchError::Source(error) => error.reason(),
            FetchError::Size { .. } | FetchError::Digest { .. } => Reason::DigestMismatch,
            FetchError::NoSpace { .. } | FetchError::ReadOnly(_) | FetchError::Disk { .. } => Reason::NoSpace,
            FetchError::Busy(_) | FetchError::Stopped => Reason::SourceUnavailable,
        }
    }

    /// Whether the same fetch may well succeed a moment later.
    pub fn is_passing(&self) -> bool {
        match self {
            FetchError::Source(error) => error.is_passing(),
            FetchError::Busy(_) | FetchError::Stopped => true,
            _ => false,
        }
    }
}
