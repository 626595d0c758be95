//! Follows a file whose contents matter while the process runs: configuration, keys, certificates, lists of endpoints.
//!
//! Its contents are compared, not its time stamp, which says little on the mounted volumes that such files come from.

use std::fs;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How soon again once it is not as it was: a file that is being written is not as it will be.
const AGAIN: Duration = Duration::from_millis(100);

/// What a file holds; else why that cannot be read, with the file's name.
pub type Text = Result<String, String>;

/// A regular file that is followed. It may hold secrets, so nothing prints it.
pub struct Followed {
    path: PathBuf,
    max: u64,
    looks: Looks<Text>,
}

/// Files that mean something only together: a change counts once all have settled.
pub struct FollowedSet<const N: usize> {
    paths: [PathBuf; N],
    max: u64,
    looks: Looks<[Text; N]>,
}

impl<const N: usize> FollowedSet<N> {
    /// Reads the files and follows them from then on. Files of more than `max` bytes are not read.
    pub fn open(paths: [PathBuf; N], max: u64) -> (Self, [Text; N]) {
        let texts = paths.each_ref().map(|path| look(path, max));
        (Self { paths, max, looks: Looks { taken: texts.clone(), seen: texts.clone() } }, texts)
    }

    /// Waits until one of the files holds something else, and yields what all hold then.
    pub async fn changed(&mut self) -> [Text; N] {
        let (paths, max) = (self.paths.clone(), self.max);
        let look = move || paths.each_ref().map(|path| look(path, max));
        self.looks.next(look, async || std::future::pending().await).await
    }
}

impl Followed {
    /// A file that holds this now. Files of more than `max` bytes are not read.
    pub fn new(path: PathBuf, holds: Text, max: u64) -> Self {
        Self { path, max, looks: Looks { taken: holds.clone(), seen: holds } }
    }

    /// Reads the file and follows it from then on.
    pub fn open(path: PathBuf, max: u64) -> (Self, Text) {
        let text = look(&path, max);
        (Self::new(path, text.clone(), max), text)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the file holds now, which is taken from then on.
    pub async fn look(&mut self) -> Text {
        let (path, max) = (self.path.clone(), self.max);
        let text = tokio::task::spawn_blocking(move || look(&path, max)).await;
        let text = text.unwrap_or_else(|error| Err(error.to_string()));
        self.looks = Looks { taken: text.clone(), seen: text.clone() };
        text
    }

    /// Waits until the file holds something else, and yields that. `hurry` has it look at once.
    pub async fn changed(&mut self, hurry: impl AsyncFnMut()) -> Text {
        let (path, max) = (self.path.clone(), self.max);
        self.looks.next(move || look(&path, max), hurry).await
    }
}

fn look(path: &Path, max: u64) -> Text {
    let read = || {
        // Opening a pipe waits for who writes into it.
        if !fs::metadata(path)?.is_file() {
            return Err(io::Error::other("no regular file any more"));
        }
        read(path, max)
    };
    read().map(|(text, _)| text).map_err(|error| format!("{}: {error}", path.display()))
}

/// A file's text, and whether it is a regular one: what a pipe says can be read only once.
///
/// # Errors
/// What the system says, or that it holds more than `max` bytes.
pub fn read(path: &Path, max: u64) -> io::Result<(String, bool)> {
    let file = fs::File::open(path)?;
    let regular = file.metadata()?.is_file();
    let mut text = String::new();
    if file.take(max + 1).read_to_string(&mut text)? as u64 > max {
        return Err(io::Error::new(ErrorKind::FileTooLarge, format!("larger than {max} bytes")));
    }
    Ok((text, regular))
}

/// Tells a change from a half of one: a text counts once two looks in a row saw it.
struct Looks<T> {
    taken: T,
    seen: T,
}

impl<T: Clone + PartialEq + Send + 'static> Looks<T> {
    /// Waits for the next change.
    async fn next(&mut self, look: impl Fn() -> T + Clone + Send + 'static, mut hurry: impl AsyncFnMut()) -> T {
        loop {
            if self.settled() {
                tokio::select! {
                    () = hurry() => {}
                    () = tokio::time::sleep(LOOK) => {}
                }
            } else {
                tokio::time::sleep(AGAIN).await;
            }
            // On a thread of its own: a file system that does not answer holds up nothing else.
            let Ok(seen) = tokio::task::spawn_blocking(look.clone()).await else { continue };
            if let Some(changed) = self.at(seen) {
                return changed;
            }
        }
    }

    /// Whether there is nothing to wait for.
    fn settled(&self) -> bool {
        self.seen == self.taken
    }

    /// Hears what a look saw; yields it where it is a change.
    fn at(&mut self, now: T) -> Option<T> {
        let again = now == self.seen;
        self.seen = now;
        if !again || self.settled() {
            return None;
        }
        self.taken.clone_from(&self.seen);
        Some(self.taken.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_two_looks_saw_is_taken() {
        let text = |text: &str| Ok(text.to_owned());
        let mut looks = Looks { taken: text("old"), seen: text("old") };
        for (saw, taken) in [
            (text("old"), None),
            (text(""), None),
            (text("half"), None),
            (Err("gone".to_owned()), None),
            (text("new"), None),
            (text("new"), Some(text("new"))),
            (text("new"), None),
            (text("torn"), None),
            (text("new"), None),
            (text("new"), None),
            (Err("gone".to_owned()), None),
            (Err("gone".to_owned()), Some(Err("gone".to_owned()))),
        ] {
            assert_eq!(looks.at(saw.clone()), taken, "{saw:?}");
        }
    }
}
