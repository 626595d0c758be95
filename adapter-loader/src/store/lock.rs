//! One loader a folder: two would take turns at each other's files.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::StoreError;

/// The lock of a folder; it goes with the process, however that ends.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

/// Takes the lock. Whoever waits for it is told who has it, where the disk takes that down.
///
/// # Errors
/// Another process has it, or the folder cannot be written and never was.
pub(super) fn take(folder: &Path) -> Result<Lock, StoreError> {
    let path = folder.join("lock");
    let failed = |error: io::Error| StoreError::of("lock", &path, error);
    // Held by a file that is open for reading: so a loader starts, and what it has serves, on a disk that takes nothing more, and
    // a disk can be made read-only under it. Not over NFS, which locks what is open for writing alone.
    let file = match File::open(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            OpenOptions::new().append(true).create(true).open(&path).and_then(|_| File::open(&path))
        }
        opened => opened,
    };
    let file = file.map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let mut pid = String::new();
            let _ = (&file).take(20).read_to_string(&mut pid);
            return Err(StoreError::Taken { folder: folder.to_owned(), pid: pid.trim().parse().unwrap_or_default() });
        }
        Err(error) => return Err(failed(error.into())),
    }
    if let Err(error) = std::fs::write(&path, format!("{}\n", std::process::id())) {
        tracing::warn!("{}", failed(error));
    }
    Ok(Lock { _file: file })
}
