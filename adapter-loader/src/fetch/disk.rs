//! Small things that fetches do with a disk.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::error::FetchError;
use super::parts::MAX_RECORD;

/// How long a place may be another's: a fetch that was stopped lets go when its threads see it.
const OTHERS: Duration = Duration::from_secs(2);

/// The names of a file on its way.
#[derive(Clone, Debug)]
pub(super) struct Places {
    /// What it will be called.
    pub(super) into: PathBuf,
    /// Its bytes until then.
    pub(super) part: PathBuf,
    /// Which of them are there.
    pub(super) record: PathBuf,
}

impl Places {
    pub(super) fn of(into: &Path) -> Self {
        let beside = |end: &str| {
            let mut name = into.file_name().unwrap_or_default().to_owned();
            name.push(end);
            into.with_file_name(name)
        };
        Self { into: into.to_owned(), part: beside(".part"), record: beside(".part.record") }
    }

    /// Removes what is on its way. That it is gone, or cannot be, is no news to anybody.
    pub(super) fn discard(&self) {
        let _ = fs::remove_file(&self.record);
        let _ = fs::remove_file(&self.part);
    }

    /// Gives the file its name, for good: it is on the disk before, and the name is after.
    pub(super) fn publish(&self, file: &File) -> io::Result<()> {
        file.sync_all()?;
        fs::rename(&self.part, &self.into)?;
        let _ = fs::remove_file(&self.record);
        File::open(self.into.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")))?
            .sync_all()
    }

    /// The file on its way, which is nobody else's from then on.
    pub(super) fn open(&self) -> Result<File, FetchError> {
        let failed = |error| FetchError::disk(&self.part, 0, error);
        let until = Instant::now() + OTHERS;
        loop {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&self.part);
            let file = file.map_err(failed)?;
            match file.try_lock() {
                // Whoever had it may have given it its name meanwhile, or removed it.
                Ok(()) if is_at(&file, &self.part) => return Ok(file),
                Ok(()) => {}
                Err(TryLockError::WouldBlock) if Instant::now() >= until => {
                    return Err(FetchError::Busy(self.part.clone()));
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(20)), // between two looks
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
        }
    }

    /// What the record says; nothing where there is none.
    pub(super) fn recorded(&self) -> String {
        let read = || {
            let mut text = String::new();
            File::open(&self.record)?.take(MAX_RECORD).read_to_string(&mut text).map(|_| text)
        };
        read().unwrap_or_default()
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let print = |meta: fs::Metadata| (meta.dev(), meta.ino());
    let of_file = file.metadata().map(print);
    of_file.ok().zip(fs::metadata(path).map(print).ok()).is_some_and(|(one, other)| one == other)
}

/// Tells this start of the machine from others; empty where it cannot be told.
pub(super) fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// What is free where a file is to come. Unit: bytes.
pub(super) fn free(folder: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(folder)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}
