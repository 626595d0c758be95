//! Changes a keys file so that it is whole at every moment and nobody's change is lost.
//!
//! A change is made under a lock on a file beside it, into a new file in the same folder, which takes the old one's
//! place once it is on the disk: a full disk or the end of the process at any step leaves the old file as it was.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tutti_api::{KeySpec, KeysFile, Problem, Timestamp, load_keys};

use super::file::{self, Unusable};

/// Longest wait for another command that changes the same file.
const LOCK_WITHIN: Duration = Duration::from_secs(10);
/// How often it is looked whether that has ended.
const LOOK: Duration = Duration::from_millis(20);

/// Why a keys file could not be changed; it is as it was.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file is wrong already.
    #[error(transparent)]
    Unusable(#[from] Unusable),
    /// The new key would be.
    #[error("{}", .0.iter().map(of_field).collect::<Vec<_>>().join("\n"))]
    Refused(Vec<Problem>),
    /// Nobody has this id.
    #[error("there is no key with the id {0}: `tutti key list` shows them")]
    Unknown(String),
    /// The system does not let us.
    #[error("cannot write the keys file {path}, which is as it was: {error}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// A problem of the key that is about to be made, without a place in a file that does not exist.
fn of_field(problem: &Problem) -> String {
    let field = problem.path.rsplit_once('.').map_or(&*problem.path, |(_, field)| field);
    let help = problem.help.as_deref().map(|help| format!("; {help}")).unwrap_or_default();
    format!("{field}: {}{help}", problem.message)
}

/// A keys file that nobody else changes while this is held.
#[derive(Debug)]
pub struct Store {
    /// Where it is, links resolved.
    path: PathBuf,
    file: KeysFile,
    /// The old file's owner and mode, which the new one keeps.
    found: Option<fs::Metadata>,
    _lock: File,
}

impl Store {
    /// Takes the lock and reads the file; a missing one is empty, and its folder is made.
    ///
    /// # Errors
    /// It is wrong, or cannot be reached.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |error| StoreError::Write { path: path.to_owned(), error };
        let path = resolved(path).map_err(failed)?;
        let _lock = lock(&beside(&path, ".lock")).map_err(failed)?;
        let (file, found) = match file::read(&path) {
            Ok((file, _)) => (file, Some(fs::metadata(&path).map_err(failed)?)),
            Err(Unusable::Missing(_)) => (KeysFile::default(), None),
            Err(unusable) => return Err(unusable.into()),
        };
        Ok(Self { path, file, found, _lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there was a file.
    pub fn is_new(&self) -> bool {
        self.found.is_none()
    }

    /// Whether a key has this id.
    pub fn has(&self, id: &str) -> bool {
        self.file.keys.iter().any(|key| key.id == id)
    }

    /// Adds a key.
    ///
    /// # Errors
    /// The key is none that a file may hold, or the file cannot be written.
    pub fn put(mut self, key: KeySpec) -> Result<(), StoreError> {
        self.file.keys.push(key);
        self.write()
    }

    /// Revokes the key with this id; yields it as it is now. One that was revoked stays so from when it first was.
    ///
    /// # Errors
    /// There is none, or the file cannot be written.
    pub fn revoke(mut self, id: &str, now: Timestamp) -> Result<KeySpec, StoreError> {
        let key = self.file.keys.iter_mut().find(|key| key.id == id);
        let key = key.ok_or_else(|| StoreError::Unknown(id.to_owned()))?;
        if key.revoked.is_some() {
            return Ok(key.clone());
        }
        key.revoked = Some(now);
        let key = key.clone();
        self.write()?;
        Ok(key)
    }

    fn write(&self) -> Result<(), StoreError> {
        let failed = |error| StoreError::Write { path: self.path.clone(), error };
        let text = file::render(&self.path, &self.file).map_err(failed)?;
        // Nothing is written that would not be read.
        match load_keys(&text, &self.path.display().to_string()) {
            Ok(read) if read == self.file => {}
            Ok(_) => return Err(failed(io::Error::other("it would read differently"))),
            Err(problems) => return Err(StoreError::Refused(problems)),
        }
        let new = Replacement::write(&self.path, &text, self.found.as_ref()).map_err(failed)?;
        new.take_its_place(&self.path).map_err(failed)
    }
}

/// The file that a path means: the one behind a link, so that the link stays one.
fn resolved(path: &Path) -> io::Result<PathBuf> {
    match fs::canonicalize(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        known => return known,
    }
    let name = path.file_name().ok_or_else(|| io::Error::other("this names no file"))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    Ok(fs::canonicalize(folder)?.join(name))
}

/// `.NAME` and an ending, in the same folder.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default();
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(ending);
    path.with_file_name(hidden)
}

/// Waits for the lock. The file stays: who removed it would lock another one than who waits for it.
fn lock(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    let until = Instant::now() + LOCK_WITHIN;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < until => std::thread::sleep(LOOK),
            Err(TryLockError::WouldBlock) => {
                let message = format!("another command has held {} for {LOCK_WITHIN:?}", path.display());
                return Err(io::Error::other(message));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

/// The whole new file, on the disk and not yet in the old one's place. Dropping it removes it.
struct Replacement(PathBuf);

impl Replacement {
    fn write(path: &Path, text: &str, like: Option<&fs::Metadata>) -> io::Result<Self> {
        let new = Self(beside(path, ".new"));
        // One that a killed command left; under the lock it is nobody's.
        match fs::remove_file(&new.0) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new.0)?;
        file.write_all(text.as_bytes())?;
        if let Some(like) = like {
            keep_owner(&file, like)?;
        }
        file.sync_all()?;
        Ok(new)
    }

    fn take_its_place(self, path: &Path) -> io::Result<()> {
        fs::rename(&self.0, path)?;
        // The folder remembers it from then on; not every file system can say so.
        match File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all() {
            Err(error) if error.kind() != ErrorKind::InvalidInput => Err(error),
            _ => Ok(()),
        }
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0); // gone already, where it took its place
    }
}

/// Whoever could read the old file can read the new one: the gateway may be another user than who makes keys.
fn keep_owner(file: &File, like: &fs::Metadata) -> io::Result<()> {
    let now = file.metadata()?;
    if (now.uid(), now.gid()) != (like.uid(), like.gid()) {
        fchown(file, Some(like.uid()), Some(like.gid())).map_err(|error| {
            let owner = format!("user {} and group {}", like.uid(), like.gid());
            io::Error::new(
                error.kind(),
                format!("it belongs to {owner}, and a new one cannot be given to them: {error}"),
            )
        })?;
    }
    file.set_permissions(fs::Permissions::from_mode(like.mode() & 0o777))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::keys::NewKey;

    fn key(name: &str) -> KeySpec {
        let new = NewKey::make().unwrap();
        let (id, sha256) = (new.id.clone(), new.sha256());
        let spec = format!("keys: [{{ id: {id}, name: n, tenant: t, sha256: \"{sha256}\" }}]");
        KeySpec { name: name.to_owned(), ..load_keys(&spec, "").unwrap().keys.remove(0) }
    }

    fn names(path: &Path) -> Vec<String> {
        file::read(path).unwrap().0.keys.into_iter().map(|key| key.name).collect()
    }

    #[test]
    fn a_file_is_made_for_its_owner_alone_and_keeps_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/keys.yaml");
        let store = Store::open(&path).unwrap();
        assert!(store.is_new());
        store.put(key("first")).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);

        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let link = folder.path().join("link.yaml");
        symlink(&path, &link).unwrap();
        Store::open(&link).unwrap().put(key("second")).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
        assert_eq!(names(&path), ["first", "second"]);
    }

    #[test]
    fn what_is_revoked_stays_and_stays_revoked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        let first = key("first");
        Store::open(&path).unwrap().put(first.clone()).unwrap();
        let at = Timestamp::from_unix(1_000_000_000);
        let open = || Store::open(&path).unwrap();
        assert_eq!(open().revoke(&first.id, at).unwrap().revoked, Some(at));
        assert_eq!(open().revoke(&first.id, Timestamp::now()).unwrap().revoked, Some(at), "from when it first was");
        assert!(open().has(&first.id));
        assert!(matches!(open().revoke("nobody", at), Err(StoreError::Unknown(_))));
    }

    #[test]
    fn what_would_not_be_read_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.yaml");
        Store::open(&path).unwrap().put(key("first")).unwrap();
        let wrong = KeySpec { tenant: "a b".to_owned(), ..key("second") };
        let error = Store::open(&path).unwrap().put(wrong).unwrap_err().to_string();
        assert_eq!(error, "tenant: this text does not fit; write 1 to 63 letters, digits, `.`, `_` and `-`");
        assert_eq!(names(&path), ["first"]);
        fs::write(&path, "keys: [").unwrap();
        assert!(matches!(Store::open(&path), Err(StoreError::Unusable(Unusable::Wrong(_)))));
    }

    #[test]
    fn one_that_ended_before_the_new_file_took_its_place_changed_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.yaml");
        Store::open(&path).unwrap().put(key("first")).unwrap();
        let killed = Replacement::write(&path, "keys: [half", None).unwrap();
        let _ = std::mem::ManuallyDrop::new(killed); // as a killed process leaves it
        assert_eq!(names(&path), ["first"]);
        Store::open(&path).unwrap().put(key("second")).unwrap();
        assert_eq!(names(&path), ["first", "second"]);
        let left = fs::read_dir(folder.path()).unwrap().flatten().map(|entry| entry.file_name());
        assert_eq!(left.filter(|name| name.to_string_lossy().ends_with(".new")).count(), 0);
    }

    #[test]
    fn two_at_once_lose_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.yaml");
        std::thread::scope(|scope| {
            for name in ["a", "b", "c", "d"] {
                let path = &path;
                scope.spawn(move || {
                    for _ in 0..10 {
                        Store::open(path).unwrap().put(key(name)).unwrap();
                    }
                });
            }
        });
        let all = names(&path);
        for name in ["a", "b", "c", "d"] {
            assert_eq!(all.iter().filter(|known| *known == name).count(), 10, "{name}");
        }
    }
}
