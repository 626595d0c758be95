//! Which keys are in force, and the file they come from, followed.

use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use arc_swap::{ArcSwapOption, Guard};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tutti_api::{Auth, KeysFile, MAX_KEYS_TEXT};

use super::file::{Unusable, taken};
use super::{Counts, KeySet};
use crate::follow::{Followed, Text};
use crate::shared::Reloaded;

/// The keys of one gateway.
#[derive(Debug, Default)]
pub struct Keyring {
    /// `None`: anybody may ask.
    set: ArcSwapOption<KeySet>,
    source: Mutex<Option<Source>>,
}

/// Where the keys in force come from. Whoever it is dropped by has the file followed no longer.
#[derive(Debug)]
struct Source {
    /// Tells it from others: what is read of one that is gone changes nothing.
    number: u64,
    file: PathBuf,
    reload: Reloaded,
    asks: mpsc::Sender<Ask>,
}

/// Has the file looked at now, and is told what came of it.
type Ask = oneshot::Sender<Result<KeysStatus, String>>;

/// What a gateway says of its keys.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct KeysStatus {
    /// The file.
    pub file: PathBuf,
    /// How many keys are in force.
    pub keys: Counts,
    /// What came of the last time the file had changed.
    pub reload: Reloaded,
}

/// What the configuration says of who may ask, opened.
pub(crate) enum Opened {
    /// The file that is followed already.
    Same,
    /// Anybody.
    Anybody,
    /// Who has a key.
    Keys(Box<OpenedFile>),
}

/// A keys file that was read.
pub(crate) struct OpenedFile {
    followed: Followed,
    file: KeysFile,
    /// What should be mended about it.
    mend: Option<String>,
}

impl Keyring {
    /// The keys in force; `None` where anybody may ask.
    pub fn set(&self) -> Guard<Option<Arc<KeySet>>> {
        self.set.load()
    }

    /// What it says of itself, where there are keys.
    pub fn status(&self) -> Option<KeysStatus> {
        self.source.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|source| self.status_of(source))
    }

    fn status_of(&self, source: &Source) -> KeysStatus {
        let keys = self.set().as_ref().map(|set| set.counts()).unwrap_or_default();
        KeysStatus { file: source.file.clone(), keys, reload: source.reload.clone() }
    }

    /// Opens what the configuration names; nothing changes until [`Keyring::install`].
    ///
    /// # Errors
    /// Why its file cannot be gone by.
    pub(crate) async fn open(&self, auth: Option<&Auth>) -> Result<Opened, Unusable> {
        let Some(Auth::Keys { keys_file }) = auth else { return Ok(Opened::Anybody) };
        let path = std::path::absolute(keys_file).unwrap_or_else(|_| PathBuf::from(keys_file));
        if self.status().is_some_and(|status| status.file == path) {
            return Ok(Opened::Same);
        }
        let opened = tokio::task::spawn_blocking(move || {
            let (followed, text) = Followed::open(path.clone(), MAX_KEYS_TEXT as u64);
            let (file, mend) = taken(&path, text)?;
            Ok(Opened::Keys(Box::new(OpenedFile { followed, file, mend })))
        });
        opened.await.unwrap_or_else(|error| Err(Unusable::Unreadable(error.to_string())))
    }

    /// Puts in force what was opened, and follows its file from then on.
    pub(crate) fn install(self: &Arc<Self>, opened: Opened) {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        match opened {
            Opened::Same => {}
            Opened::Anybody => {
                *source = None;
                self.set.store(None);
            }
            Opened::Keys(opened) => {
                let OpenedFile { followed, file, mend } = *opened;
                self.put(&file);
                say_mend(mend);
                let (asks, inbox) = mpsc::channel(1);
                let number = NUMBER.fetch_add(1, Relaxed);
                let file = followed.path().to_owned();
                *source = Some(Source { number, file, reload: Reloaded::now(None), asks });
                tokio::spawn(follow(followed, number, Arc::downgrade(self), inbox));
            }
        }
    }

    fn put(&self, file: &KeysFile) {
        let set = KeySet::of(file, self.set().as_deref());
        self.set.store(Some(Arc::new(set)));
    }

    /// Has the file looked at now. `None` where there is none.
    pub(crate) async fn reload(&self) -> Option<Result<KeysStatus, String>> {
        let asks = self.source.lock().unwrap_or_else(PoisonError::into_inner).as_ref()?.asks.clone();
        let (reply, outcome) = oneshot::channel();
        asks.send(reply).await.ok()?;
        outcome.await.ok()
    }

    /// Puts in force what a file says, or says why not: then all stays as it was.
    fn take_up(&self, number: u64, read: Result<(KeysFile, Option<String>), Unusable>) -> Result<KeysStatus, String> {
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(source) = source.as_mut().filter(|source| source.number == number) else {
            return Err("the configuration names another keys file by now".to_owned());
        };
        match read {
            Ok((file, mend)) => {
                self.put(&file);
                say_mend(mend);
                source.reload = Reloaded::now(None);
                let status = self.status_of(source);
                let Counts { active, expired, revoked } = status.keys;
                tracing::info!(active, expired, revoked, "the keys are in force");
                Ok(status)
            }
            Err(why) => {
                let why = why.to_string();
                tracing::error!("the keys file is refused, and the keys stay as they were: {why}");
                source.reload = Reloaded::now(Some(why.clone()));
                Err(why)
            }
        }
    }
}

fn say_mend(mend: Option<String>) {
    if let Some(mend) = mend {
        tracing::warn!("{mend}");
    }
}

/// Takes up the file whenever it changes or somebody asks, until another one takes its place.
async fn follow(mut followed: Followed, number: u64, ring: Weak<Keyring>, mut asks: mpsc::Receiver<Ask>) {
    loop {
        let (text, reply) = tokio::select! {
            text = followed.changed(async || pending().await) => (text, None),
            ask = asks.recv() => match ask {
                Some(reply) => (followed.look().await, Some(reply)),
                None => return,
            },
        };
        let read = read(followed.path(), text).await;
        let Some(ring) = ring.upgrade() else { return };
        let outcome = ring.take_up(number, read);
        if let Some(reply) = reply {
            let _ = reply.send(outcome); // whoever asked may have given up
        }
    }
}

/// Ten thousand keys take a while to read: on a thread of its own, for this one has others to serve.
async fn read(path: &Path, text: Text) -> Result<(KeysFile, Option<String>), Unusable> {
    let path = path.to_owned();
    let read = tokio::task::spawn_blocking(move || taken(&path, text)).await;
    read.unwrap_or_else(|error| Err(Unusable::Unreadable(error.to_string())))
}
