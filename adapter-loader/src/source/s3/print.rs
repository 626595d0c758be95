//! Tells a file from what it was.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What changes when a file does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Print {
    modified: (i64, i64),
    size: u64,
    inode: u64,
}

/// That of a file; none of one that is not there.
pub(super) fn print(file: &Path) -> Option<Print> {
    let meta = fs::metadata(file).ok()?;
    Some(Print { modified: (meta.mtime(), meta.mtime_nsec()), size: meta.len(), inode: meta.ino() })
}
