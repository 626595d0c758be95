//! The file in which a gateway among several keeps the word that it goes by: what it begins with where no other says
//! anything. It is written whole beside the old one, and takes its place.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use tokio::sync::watch;
use tutti_api::TrafficWord;

/// Largest file that is read. Unit: bytes.
const MAX_FILE: u64 = 16 << 20;

/// Keeps words in a file, one after the other; of those that come while it is written the last. Nobody waits for it: the others
/// have the word too, and a disk that hangs holds up no rollback.
#[derive(Debug)]
pub(super) struct Kept(watch::Sender<Option<TrafficWord>>);

impl Kept {
    /// In this file, on the current runtime; yields what was kept, if anything that can be read.
    pub(super) fn open(path: PathBuf) -> (Self, Option<TrafficWord>) {
        let known = read(&path).unwrap_or_else(|why| {
            tracing::warn!(why, "what this gateway went by last is not known");
            None
        });
        let (sender, words) = watch::channel(None);
        tokio::spawn(keep(path, words));
        (Self(sender), known)
    }

    /// Keeps this from now on.
    pub(super) fn keep(&self, word: &TrafficWord) {
        self.0.send_replace(Some(word.clone()));
    }
}

async fn keep(path: PathBuf, mut words: watch::Receiver<Option<TrafficWord>>) {
    while words.changed().await.is_ok() {
        let Some(word) = words.borrow_and_update().clone() else { continue };
        let path = path.clone();
        let written = tokio::task::spawn_blocking(move || write(&path, &word));
        if let Ok(Err(why)) = written.await {
            tracing::warn!(why, "what this gateway goes by is not kept: a start at which no other answers lacks it");
        }
    }
}

/// What a file holds; `None` where there is none.
fn read(path: &Path) -> Result<Option<TrafficWord>, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut text = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut text).map_err(failed)?;
    let word = serde_json::from_slice(&text);
    word.map(Some).map_err(|error| format!("{} is not whole: {error}", path.display()))
}

fn write(path: &Path, word: &TrafficWord) -> Result<(), String> {
    let write = || -> std::io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let new = path.with_file_name(name);
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec(word)?)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_again_and_half_of_it_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/of.word");
        assert_eq!(read(&path), Ok(None));
        let word = |generation| TrafficWord { driver: "a".to_owned(), term: 3, generation, models: Vec::new() };
        write(&path, &word(1)).unwrap();
        write(&path, &word(2)).unwrap();
        assert_eq!(read(&path), Ok(Some(word(2))));
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        assert!(read(&path).unwrap_err().contains("is not whole"));
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(write(&file.path().join("word"), &word(3)).is_err(), "and that is told");
    }
}
