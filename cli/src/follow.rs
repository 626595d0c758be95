//! Follows the file that the configuration is in.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::signal::unix::Signal;
use tutti_api::Config;

use crate::config;

/// How often the file is looked at. Its contents are compared: a time stamp says little on the mounted volumes that
/// configuration comes from.
const LOOK: Duration = Duration::from_secs(1);
/// How soon again once it is not as it was: a file that is being written is not as it will be.
const AGAIN: Duration = Duration::from_millis(100);

/// A regular file with a configuration.
pub(crate) struct File {
    path: PathBuf,
    looks: Looks,
}

impl File {
    /// A file that held this text.
    pub(crate) fn new(path: PathBuf, text: String) -> Self {
        let text = Ok(text);
        Self { path, looks: Looks { taken: text.clone(), seen: text } }
    }

    /// Waits until the file says something else; yields that, right or wrong. SIGHUP has it look at once.
    pub(crate) async fn changed(&mut self, hangup: &mut Signal) -> Result<Config, String> {
        loop {
            if self.looks.settled() {
                tokio::select! {
                    _ = hangup.recv() => {}
                    () = tokio::time::sleep(LOOK) => {}
                }
            } else {
                tokio::time::sleep(AGAIN).await;
            }
            let path = self.path.clone();
            // On a thread of its own: a file system that does not answer holds up nothing else.
            let Ok(text) = tokio::task::spawn_blocking(move || look(&path)).await else { continue };
            if let Some(text) = self.looks.at(text) {
                return text.and_then(|text| config::parse(&text, &self.path).map_err(|wrong| wrong.to_string()));
            }
        }
    }
}

/// What the file holds; else why that cannot be read.
fn look(path: &Path) -> Text {
    let read = || {
        // Opening a pipe waits for who writes into it.
        if !std::fs::metadata(path)?.is_file() {
            return Err(io::Error::other("no regular file any more"));
        }
        config::read(path)
    };
    read().map(|(text, _)| text).map_err(|error| format!("{}: {error}", path.display()))
}

type Text = Result<String, String>;

/// Tells a change from a half of one: a text counts once two looks in a row saw it.
struct Looks {
    taken: Text,
    seen: Text,
}

impl Looks {
    /// Whether there is nothing to wait for.
    fn settled(&self) -> bool {
        self.seen == self.taken
    }

    /// Hears what a look saw; yields it where it is a change.
    fn at(&mut self, now: Text) -> Option<Text> {
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
