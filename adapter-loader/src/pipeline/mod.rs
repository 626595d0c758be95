//! How an adapter gets from an object store to an answer: a step a file. Each finds on the disk and in the engine what was
//! done already, also by a process that is gone, and does the rest.
//!
//! list → fetch → verify → convert (or merge) → publish → register under a staging name → probe → copy to the engine name;
//! and retire; and `base`, where the engine has none. Announced is what the records and the engine say, after each step.

pub(crate) mod base;
mod convert;
mod copy;
mod failure;
mod fetch;
pub(crate) mod list;
mod make;
mod manifest;
mod probe;
mod register;
pub(crate) mod retire;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tutti_api::{AdapterPath, Digest, EngineName, Phase, Reason};

pub(crate) use failure::{Failure, pause};

use crate::board::Board;
use crate::engine::{BaseFacts, Ollama};
use crate::fetch::Limits;
use crate::reconcile::plan::{EngineSeen, Need, Running, SourceSeen, need};
use crate::source::Source;
use crate::store::{Record, Store};
use crate::wanted::{Wanted, Wants};

/// Adapters whose files are on the way at once. Their parts go in parallel (`adapters.fetch.parallel`).
const FETCHES: usize = 2;
/// Adapters that are verified and converted at once: each takes a core.
const MAKES: usize = 2;
/// Most steps that lead from one state to the next: more are a circle.
const MAX_STEPS: usize = 8;

/// What all work shares.
#[derive(Debug)]
pub(crate) struct Tools {
    pub(crate) store: Store,
    pub(crate) board: Arc<Board>,
    pub(crate) engine: Ollama,
    fetches: Semaphore,
    makes: Semaphore,
    rooms: mpsc::Sender<Room>,
    /// What bases answered, by base and question.
    base_answers: Mutex<HashMap<(Digest, String), Value>>,
}

/// Most answers of bases that are kept: one for each question that manifests ask. Then they are asked again.
const BASE_ANSWERS: usize = 256;

/// Somebody needs room on the disk.
#[derive(Debug)]
pub(crate) struct Room {
    pub(crate) path: AdapterPath,
    /// Unit: bytes.
    pub(crate) bytes: u64,
    /// Whether there is.
    pub(crate) answer: oneshot::Sender<Result<(), Failure>>,
}

impl Tools {
    /// What work on this engine and in this folder needs; room is asked for on `rooms`.
    pub(crate) fn new(store: Store, board: Arc<Board>, engine: Ollama, rooms: mpsc::Sender<Room>) -> Self {
        let (fetches, makes) = (Semaphore::new(FETCHES), Semaphore::new(MAKES));
        Self { store, board, engine, fetches, makes, rooms, base_answers: Mutex::default() }
    }

    /// What a base has answered to a question.
    fn base_answer(&self, key: &(Digest, String)) -> Option<Value> {
        self.base_answers.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    fn keep_base_answer(&self, key: (Digest, String), answer: Value) {
        let mut answers = self.base_answers.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= BASE_ANSWERS {
            answers.clear();
        }
        answers.insert(key, answer);
    }
}

/// Work on a path, as it stands. Whoever looks at it sees what was last written to the disk.
#[derive(Debug)]
pub(crate) struct Progress {
    now: Mutex<(Record, Running)>,
    board: Arc<Board>,
}

impl Progress {
    fn now(&self) -> MutexGuard<'_, (Record, Running)> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It takes away what serves, by this name; or names of others.
    pub(crate) fn retires(&self, served: Option<EngineName>) {
        let running = &mut self.now().1;
        (running.phase, running.engine_name) = (Phase::Retiring, served);
    }

    /// The record and how far the work is.
    pub(crate) fn seen(&self) -> (Record, Running) {
        self.now().clone()
    }
}

/// Work on one path.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) tools: Arc<Tools>,
    pub(crate) wants: Arc<Wants>,
    pub(crate) wanted: Wanted,
    pub(crate) source: Arc<Source>,
    pub(crate) limits: Limits,
    /// What was listed.
    pub(crate) listed: SourceSeen,
    pub(crate) engine: EngineSeen,
    pub(crate) base: Option<Arc<BaseFacts>>,
    pub(crate) progress: Arc<Progress>,
}

impl Work {
    /// Where others see how far work on a record is.
    pub(crate) fn progress(record: Record, board: Arc<Board>) -> Arc<Progress> {
        let running = Running { phase: Phase::Pending, probe: None, engine_name: None, digest: None };
        Arc::new(Progress { now: Mutex::new((record, running)), board })
    }

    /// Brings it as far as it goes; yields the engine's digest of what serves now, by its name, where something came to.
    pub(crate) async fn bring(self) -> Result<Option<(EngineName, String)>, Failure> {
        for _ in 0..MAX_STEPS {
            match need(&self.record(), &self.listed, &self.engine) {
                Need::Nothing => return Ok(None),
                // As far as it goes without the engine.
                Need::Make | Need::Register if self.engine.making.is_none() => return Ok(None),
                Need::Source => fetch::step(&self).await?,
                Need::Make => make::step(&self).await?,
                Need::Register => {
                    let staged = register::step(&self).await?;
                    probe::step(&self, &staged).await?;
                    return copy::step(&self, &staged).await.map(Some);
                }
            }
        }
        Err(Failure::passing(Reason::EngineUnavailable, format!("{} goes in circles: this is a bug", self.wanted.path)))
    }

    fn record(&self) -> Record {
        self.progress.now().0.clone()
    }

    /// Changes the record, on the disk first. There is no await in between: whoever is stopped has said what it has done.
    fn keep(&self, change: impl FnOnce(&mut Record)) -> Result<(), Failure> {
        let mut record = self.record();
        change(&mut record);
        record.used = seconds();
        self.tools.store.keep(&record)?;
        self.progress.now().0 = record;
        self.progress.board.news.notify_one();
        Ok(())
    }

    /// Says how far it is.
    fn tell(&self, change: impl FnOnce(&mut Running)) {
        change(&mut self.progress.now().1);
        self.progress.board.news.notify_one();
    }

    fn phase(&self, phase: Phase) {
        tracing::debug!(path = %self.wanted.path, %phase, "an adapter is on its way");
        self.tell(|running| running.phase = phase);
    }

    /// Waits until there is room for so many bytes more.
    async fn room(&self, bytes: u64) -> Result<(), Failure> {
        let (answer, answered) = oneshot::channel();
        let gone = || Failure::passing(Reason::NoSpace, "the loader is ending");
        let room = Room { path: self.wanted.path.clone(), bytes, answer };
        self.tools.rooms.send(room).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    /// How adapters are made for the engine, and the base they are for.
    fn making(&self) -> Result<(crate::identity::Making, Arc<BaseFacts>), Failure> {
        let known = self.engine.making.clone().zip(self.base.clone());
        known.ok_or_else(|| match self.engine.down.clone() {
            Some(why) => Failure::Passing(why),
            None => Failure::passing(Reason::EngineUnavailable, "the engine has not told of its base yet"),
        })
    }

    /// The folder of the files as they came.
    fn folder(&self, name: &str) -> PathBuf {
        self.tools.store.source(name)
    }
}

/// Seconds since 1970.
pub(crate) fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Does what blocks on a thread of its own; a panic there is one here.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(error) => Failure::passing(Reason::NoSpace, format!("a step broke off: {error}")),
    })
}
