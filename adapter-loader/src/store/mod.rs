//! The loader's folder: what is on the disk, and what is known of it.
//!
//! ```text
//! lock                    who works here
//! records/<path>.json     what is known of a path ('/' written '+')
//! source/<path>-<digest>/ files as they came
//! artefacts/<path>-<identity>  weights in the engine's form
//! temp/                   what is being written; emptied at start
//! ```

mod evict;
mod files;
mod lock;
mod record;

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use tutti_api::{AdapterPath, Digest};

pub(crate) use evict::{Held, Worth, evict};
pub use record::{Fetched, Judgement, Made, Record};

use crate::fault::{Point, point};

/// Largest record that is read. Unit: bytes.
const MAX_RECORD: u64 = 4 << 20;

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another loader works there.
    #[error("another loader works in {}, process {pid}: each engine's loader has a folder of its own (--state)", folder.display())]
    Taken {
        /// The folder.
        folder: PathBuf,
        /// The other's process id.
        pid: u32,
    },
    /// The system refuses.
    #[error("cannot {doing} {}: {}", path.display(), meaning(error))]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

impl StoreError {
    pub(crate) fn of(doing: &'static str, path: &Path, error: io::Error) -> Self {
        Self::Io { doing, path: path.to_owned(), error }
    }
}

/// What the system says, and what to do about it.
fn meaning(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "the disk is full: make room, or lower adapters.disk".to_owned()
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "the disk is read-only: mount it writable, or name another folder (--state)".to_owned()
        }
        _ => error.to_string(),
    }
}

/// The folder, held by this process alone.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    temps: AtomicU64,
    _lock: lock::Lock,
}

const FOLDERS: [&str; 4] = ["records", "source", "artefacts", "temp"];

impl Store {
    /// Takes the folder, makes it where it is not there, and removes what a crash has left half done.
    ///
    /// # Errors
    /// Another loader has it, or it cannot be written.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        std::fs::create_dir_all(folder).map_err(|error| StoreError::of("make", folder, error))?;
        let lock = lock::take(folder)?;
        point(Point::StartAfterLock);
        for name in FOLDERS {
            let path = folder.join(name);
            std::fs::create_dir_all(&path).map_err(|error| StoreError::of("make", &path, error))?;
        }
        let store = Self { folder: folder.to_owned(), temps: AtomicU64::new(0), _lock: lock };
        let temp = store.folder.join("temp");
        for name in files::names(&temp).map_err(|error| StoreError::of("read", &temp, error))? {
            // A disk that takes nothing, not even this, still has what serves.
            if let Err(error) = store.remove(&temp.join(name)) {
                tracing::warn!(%error, "what a crash has left stays");
            }
        }
        Ok(store)
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// All records. One that cannot be read is as if it were not there: what it knew is found out again.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn records(&self) -> Result<Vec<Record>, StoreError> {
        let folder = self.folder.join("records");
        let names = files::names(&folder).map_err(|error| StoreError::of("read", &folder, error))?;
        let mut records = Vec::new();
        for name in names {
            let path = folder.join(&name);
            match read_record(&path) {
                Ok(record) if record_name(&record.path) == name => records.push(record),
                Ok(record) => {
                    tracing::warn!(file = %path.display(), of = %record.path, "a record under another's name")
                }
                Err(error) => tracing::warn!(file = %path.display(), %error, "a record that cannot be read"),
            }
        }
        records.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(records)
    }

    /// Writes a record down; one that says nothing goes.
    ///
    /// # Errors
    /// The disk is full, or cannot be written.
    pub fn keep(&self, record: &Record) -> Result<(), StoreError> {
        let path = self.folder.join("records").join(record_name(&record.path));
        if record.is_empty() {
            return self.remove(&path);
        }
        let text = serde_json::to_vec_pretty(record).map_err(|error| StoreError::of("write", &path, error.into()))?;
        files::write(&self.temp("record"), &path, &text).map_err(|error| StoreError::of("write", &path, error))
    }

    /// A file of its own to write into.
    pub(crate) fn temp(&self, what: &str) -> PathBuf {
        let number = self.temps.fetch_add(1, Ordering::Relaxed);
        self.folder.join("temp").join(format!("{what}-{number}"))
    }

    /// Where files of this name lie as they came.
    pub(crate) fn source(&self, name: &str) -> PathBuf {
        self.folder.join("source").join(name)
    }

    /// Where weights of this identity lie.
    pub(crate) fn artefact(&self, path: &AdapterPath, identity: &Digest) -> PathBuf {
        self.folder.join("artefacts").join(file_name(path, identity))
    }

    /// Moves a finished file, which is on the disk already, to its place.
    ///
    /// # Errors
    /// The disk is full, or cannot be written.
    pub(crate) fn publish(&self, temp: &Path, path: &AdapterPath, identity: &Digest) -> Result<(), StoreError> {
        let path = self.artefact(path, identity);
        point(Point::PublishBeforeRename);
        let publish = std::fs::File::open(temp).and_then(|file| file.sync_all());
        let publish = publish.and_then(|()| std::fs::rename(temp, &path)).and_then(|()| files::sync_folder_of(&path));
        publish.map_err(|error| StoreError::of("write", &path, error))?;
        point(Point::PublishAfterRename);
        Ok(())
    }

    /// Removes a file or folder of the store's.
    ///
    /// # Errors
    /// The disk cannot be written.
    pub(crate) fn remove(&self, path: &Path) -> Result<(), StoreError> {
        files::remove(path).map_err(|error| StoreError::of("remove", path, error))
    }

    /// Removes what is left of a base other than the one in this folder.
    ///
    /// # Errors
    /// The disk cannot be read or written.
    pub(crate) fn keep_one_base(&self, path: &AdapterPath, folder: &Path) -> Result<(), StoreError> {
        let all = self.folder.join("source");
        let names = files::names(&all).map_err(|error| StoreError::of("read", &all, error))?;
        let olds = names.iter().filter(|name| is_of(path, name)).map(|name| all.join(name));
        olds.filter(|old| old != folder).try_for_each(|old| self.remove(&old))
    }

    /// Removes the files that no record and no wanted path tells of; what has come of the `base` stays.
    ///
    /// # Errors
    /// The disk cannot be read or written.
    pub(crate) fn sweep(&self, records: &[Record], base: Option<&AdapterPath>) -> Result<(), StoreError> {
        let sources: HashSet<String> =
            records.iter().filter_map(|record| record.fetched.as_ref()).map(|fetched| fetched.folder.clone()).collect();
        let artefacts: HashSet<String> = records
            .iter()
            .flat_map(|record| record.artefacts().map(|made| file_name(&record.path, &made.identity)))
            .collect();
        for (folder, known) in [("source", sources), ("artefacts", artefacts)] {
            let folder = self.folder.join(folder);
            for name in files::names(&folder).map_err(|error| StoreError::of("read", &folder, error))? {
                if !known.contains(&name) && !base.is_some_and(|base| is_of(base, &name)) {
                    self.remove(&folder.join(name))?;
                }
            }
        }
        point(Point::StartAfterSweep);
        Ok(())
    }
}

/// What files of a path, with one content, are called. Two paths may have one content, and each its own files.
pub(crate) fn file_name(path: &AdapterPath, content: &Digest) -> String {
    format!("{}-{}", path.as_str().replace('/', "+"), content.hex())
}

/// Whether files are called so that are of a path, whatever their content.
fn is_of(path: &AdapterPath, name: &str) -> bool {
    let content = name.rsplit_once('-').filter(|(own, _)| *own == path.as_str().replace('/', "+"));
    content.is_some_and(|(_, digest)| digest.len() == 64)
}

/// Bytes of a file.
pub(crate) fn size(path: &Path) -> u64 {
    files::size(path)
}

/// The sha256 of a file.
pub(crate) fn digest(path: &Path) -> io::Result<Digest> {
    use sha2::Digest as _;
    use std::io::Read;
    let (mut file, mut sha256) = (std::fs::File::open(path)?, sha2::Sha256::new());
    let mut chunk = vec![0; 1 << 20];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(Digest::new(sha256.finalize().into())),
            read => sha256.update(&chunk[..read]),
        }
    }
}

/// Writes a small file that nobody reads before the record tells of it.
pub(crate) fn write_new(path: &Path, text: &[u8]) -> Result<(), StoreError> {
    use std::io::Write;
    let write = std::fs::File::create(path).and_then(|mut file| file.write_all(text).and_then(|()| file.sync_all()));
    write.map_err(|error| StoreError::of("write", path, error))
}

fn record_name(path: &AdapterPath) -> String {
    format!("{}.json", path.as_str().replace('/', "+"))
}

fn read_record(path: &Path) -> io::Result<Record> {
    use std::io::Read;
    let mut text = Vec::new();
    std::fs::File::open(path)?.take(MAX_RECORD).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(identity: u8) -> Made {
        let digest = |byte| Digest::new([byte; 32]);
        Made {
            identity: digest(identity),
            engine_name: "risk:v1-0".parse().unwrap(),
            manifest: digest(1),
            seen: digest(2),
            base: digest(3),
            merged: false,
            blob: digest(4),
            bytes: 5,
            on_disk: true,
            probe: None,
            proven: None,
            made: 6,
        }
    }

    #[test]
    fn a_second_loader_is_refused_by_the_firsts_pid() {
        let folder = tempfile::tempdir().unwrap();
        let first = Store::open(folder.path()).unwrap();
        let refused = Store::open(folder.path()).unwrap_err().to_string();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        drop(first);
        Store::open(folder.path()).unwrap();
    }

    #[test]
    fn records_outlive_the_process_and_orphans_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let mut record = Record::new("acme/risk.2/v1".parse().unwrap());
        record.served = Some(made(7));
        store.keep(&record).unwrap();
        for file in [
            store.temp("x"),
            store.artefact(&record.path, &made(7).identity),
            store.artefact(&record.path, &made(8).identity),
        ] {
            std::fs::write(file, "bytes").unwrap();
        }
        std::fs::create_dir(store.source("orphan")).unwrap();
        std::fs::write(folder.path().join("records/broken+v1.json"), "{").unwrap();
        drop(store);

        let store = Store::open(folder.path()).unwrap();
        let records = store.records().unwrap();
        assert_eq!(records, [record.clone()]);
        store.sweep(&records, None).unwrap();
        assert!(files::names(&folder.path().join("temp")).unwrap().is_empty());
        assert!(store.artefact(&record.path, &made(7).identity).exists(), "a record tells of it");

        store.keep(&Record::new(record.path)).unwrap();
        assert!(store.records().unwrap().is_empty());
    }

    #[test]
    fn a_finished_file_is_there_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let temp = store.temp("artefact");
        std::fs::write(&temp, "weights").unwrap();
        let path = "risk/v1".parse().unwrap();
        store.publish(&temp, &path, &Digest::new([1; 32])).unwrap();
        assert!(!temp.exists());
        assert_eq!(std::fs::read(store.artefact(&path, &Digest::new([1; 32]))).unwrap(), b"weights");
    }
}
