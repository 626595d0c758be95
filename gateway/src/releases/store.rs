//! The file in which a driver keeps its releases. It is written whole beside the old one, and takes its place; the one
//! before is kept too. What is not whole is refused, and the one before is taken.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tutti_control_plane::State;

/// Which form the file has.
const VERSION: u32 = 1;
/// Largest file that is read. Unit: bytes.
const MAX_FILE: u64 = 64 << 20;

/// What is in the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Kept {
    version: u32,
    state: State,
}

/// Where a driver keeps its releases. One process has it at a time.
#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
    /// Held while it is ours.
    lock: Option<File>,
    /// There is no lock to be had: the folder takes nothing.
    is_open: bool,
}

impl Store {
    pub(crate) fn at(path: PathBuf) -> Self {
        Self { path, lock: None, is_open: false }
    }

    pub(crate) fn is_ours(&self) -> bool {
        self.lock.is_some() || self.is_open
    }

    fn beside(&self, ending: &str) -> PathBuf {
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(ending);
        self.path.with_file_name(name)
    }

    /// Takes it, if nobody has it. Where nothing can be written nobody keeps anything, and nobody is kept from driving: what
    /// writes says so.
    ///
    /// # Errors
    /// Who has it.
    pub(crate) fn take(&mut self) -> Result<(), String> {
        let lock = self.beside(".lock");
        let made = self.path.parent().map_or(Ok(()), fs::create_dir_all);
        let opened = made.and_then(|()| File::options().read(true).write(true).create(true).truncate(false).open(lock));
        let Ok(mut file) = opened else {
            self.is_open = true;
            return Ok(());
        };
        self.is_open = false;
        if file.try_lock().is_err() {
            let mut whose = String::new();
            let _ = (&file).take(64).read_to_string(&mut whose);
            return Err(format!("process {} has {}", whose.trim(), self.path.display()));
        }
        let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| write!(file, "{}", std::process::id()));
        self.lock = Some(file);
        Ok(())
    }

    /// What was kept; nothing where there is no file yet. What is said is what the operator should know.
    pub(crate) fn read(&self) -> (State, Option<String>) {
        let before = self.beside(".before");
        match (read(&self.path), read(&before)) {
            (Ok(Some(state)), _) => (state, None),
            (Ok(None), Ok(None)) => (State::default(), None),
            (Ok(None), Ok(Some(state))) => (state, None), // the process ended between two names
            (Err(why), Ok(Some(state))) => {
                let file = self.path.display();
                (
                    state,
                    Some(format!("{file} is refused ({why}): the one before it is taken, and the last change is lost")),
                )
            }
            (Err(why), _) | (Ok(None), Err(why)) => {
                let file = self.path.display();
                (
                    State::default(),
                    Some(format!("{file} is refused ({why}), and there is none before it: all is as configured")),
                )
            }
        }
    }

    /// Keeps this from now on.
    ///
    /// # Errors
    /// Why it is not kept; then what was kept before is.
    pub(crate) fn write(&self, state: &State) -> Result<(), String> {
        let write = || -> std::io::Result<()> {
            let new = self.beside(".new");
            let text = serde_json::to_vec(&Kept { version: VERSION, state: state.clone() })?;
            let mut file = File::create(&new)?;
            file.write_all(&text)?;
            file.sync_all()?;
            // What is damaged does not take the place of what is not.
            if matches!(read(&self.path), Ok(Some(_))) {
                fs::rename(&self.path, self.beside(".before"))?;
            }
            fs::rename(&new, &self.path)?;
            self.path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
        };
        write().map_err(|error| format!("{}: {error}", self.path.display()))
    }
}

/// What a file holds; `None` where there is none.
fn read(path: &Path) -> Result<Option<State>, String> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let mut text = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut text).map_err(|error| error.to_string())?;
    let kept: Kept = serde_json::from_slice(&text).map_err(|error| format!("it is not whole: {error}"))?;
    if kept.version != VERSION {
        return Err(format!("it is of version {}, and this tutti reads {VERSION}", kept.version));
    }
    Ok(Some(kept.state))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(term: u64) -> State {
        State { term, ..State::default() }
    }

    #[test]
    fn where_nothing_can_be_written_nobody_is_kept_from_driving() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut store = Store::at(file.path().join("releases.json"));
        assert_eq!((store.take(), store.is_ours()), (Ok(()), true));
        assert!(store.write(&of(1)).is_err(), "and that is told");
    }

    #[test]
    fn what_is_damaged_takes_no_place() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::at(folder.path().join("releases.json"));
        store.write(&of(1)).unwrap();
        store.write(&of(2)).unwrap();
        fs::write(&store.path, b"half").unwrap();
        store.write(&of(3)).unwrap();
        fs::remove_file(&store.path).unwrap();
        assert_eq!(store.read(), (of(1), None), "as if it had ended between two names");
    }

    #[test]
    fn what_is_half_written_is_refused_and_the_one_before_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::at(folder.path().join("releases.json"));
        assert_eq!(store.read(), (State::default(), None));
        store.write(&of(1)).unwrap();
        store.write(&of(2)).unwrap();
        assert_eq!(store.read(), (of(2), None));
        let whole = fs::read(&store.path).unwrap();
        for length in 0..whole.len() {
            fs::write(&store.path, &whole[..length]).unwrap();
            let (state, said) = store.read();
            assert_eq!(state, of(1), "{length} bytes");
            assert!(said.unwrap().contains("is refused"));
        }
        fs::remove_file(&store.path).unwrap();
        assert_eq!(store.read(), (of(1), None), "the process ended between two names");
        fs::write(&store.path, b"{}").unwrap();
        fs::write(store.beside(".before"), b"").unwrap();
        let (state, said) = store.read();
        assert!(state == State::default() && said.unwrap().contains("all is as configured"));
    }

    #[test]
    fn one_process_has_it_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/releases.json");
        let (mut one, mut other) = (Store::at(path.clone()), Store::at(path));
        one.take().unwrap();
        let why = other.take().unwrap_err();
        assert!(why.contains(&format!("process {}", std::process::id())), "{why}");
        drop(one);
        other.take().unwrap();
        assert!(other.is_ours());
    }
}
