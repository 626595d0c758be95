//! Files from a source to this machine's disk: whole, checked, and only then under their names.
//!
//! A file comes in parts, several at once, each asked for by the version that was listed, into `NAME.part`; a record beside it
//! says which are there, so that what was cut goes on where it was. While parts come, the file is read from its beginning, out
//! of the system's cache, for its SHA-256; when all are there it is on the disk (fsync), gets its name, and the name is on the
//! disk. Memory does not grow with the file.

mod disk;
mod error;
mod limits;
mod parts;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tutti_api::{Digest, FileEntry};

use crate::retry::Retry;
use crate::source::{Object, Source, SourceError, Trouble};
pub use error::FetchError;
pub use limits::Limits;
use parts::Parts;
use writer::{Message, Writer};

/// Chunks of bytes that wait to be written; each has at most half a megabyte. A slow disk stops the reading there.
const WAITING: usize = 16;

/// What fetches count as they go: read by whoever shows it.
#[derive(Debug, Default)]
pub struct Counts {
    /// Bytes of the files that are there, those of an earlier start included.
    pub there: AtomicU64,
    /// Bytes that came over the network, or from the folder.
    pub fetched: AtomicU64,
    /// Questions that were asked again.
    pub retries: AtomicU64,
}

/// Fetches what is at `key` (below the source) into the file `into`, whose folder is there. Where it was cut before, it goes
/// on from there; where `into` is there, it is replaced once the new one is whole.
///
/// `expected` is what the manifest says of it. Dropping the future stops the fetch; what came stays for the next one.
///
/// # Errors
/// The source does not answer or has something else by now, the file is not what was expected, or the disk does not take
/// it. What cannot be used again is removed.
pub async fn fetch(
    source: &Arc<Source>,
    key: &str,
    object: &Object,
    expected: Option<&FileEntry>,
    into: &Path,
    limits: &Limits,
    counts: &Arc<Counts>,
) -> Result<Digest, FetchError> {
    let place = || format!("{}{key}", source.place());
    if let Some(expected) = expected.filter(|expected| expected.size != object.size) {
        return Err(FetchError::Size { place: place(), listed: object.size, expected: expected.size });
    }
    let parts = Parts::new(key, object, limits.part());
    let (writer, missing) = Writer::open(into, parts, counts.clone()).await?;
    let (digest, written) = bring(source, (key, object), missing, limits, counts, writer).await?;
    if let Some(expected) = expected.filter(|expected| expected.sha256 != digest) {
        written.discard();
        return Err(FetchError::Digest { place: place(), found: digest, expected: expected.sha256 });
    }
    written.publish().await?;
    Ok(digest)
}

/// Brings the missing parts; yields the digest of the whole.
async fn bring(
    source: &Arc<Source>,
    (key, object): (&str, &Object),
    missing: Vec<parts::Part>,
    limits: &Limits,
    counts: &Arc<Counts>,
    writer: Writer,
) -> Result<(Digest, writer::Written), FetchError> {
    let (sender, receiver) = mpsc::channel(WAITING);
    let mut writing = writer.begin(receiver);
    let mut missing = missing.into_iter();
    let mut tasks = JoinSet::new();
    let mut outcome = Ok(());
    loop {
        while outcome.is_ok()
            && tasks.len() < limits.parallel()
            && let Some(part) = missing.next()
        {
            let one = One {
                source: source.clone(),
                key: key.to_owned(),
                object: object.clone(),
                limits: limits.clone(),
                counts: counts.clone(),
                sender: sender.clone(),
            };
            tasks.spawn(one.bring(part));
        }
        match tasks.join_next().await {
            None => break,
            Some(Ok(Ok(()))) => {}
            Some(Ok(Err(stopped))) => {
                outcome = Err(stopped);
                tasks.abort_all();
            }
            Some(Err(error)) if error.is_cancelled() => {}
            Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
        }
    }
    drop(sender);
    // The writer is asked first: where it fails, who brings parts only sees that nobody takes them.
    let written = writing.end().await;
    match (outcome, written) {
        (_, Err(error)) => Err(error),
        (Ok(()), Ok(written)) => written.whole(),
        (Err(Stopped::Writer), Ok(_)) => Err(FetchError::Stopped),
        (Err(Stopped::Source(error)), Ok(written)) => {
            // What was replaced is of no use to the next fetch; what was cut is.
            if matches!(error.trouble(), Trouble::Replaced | Trouble::NotFound) {
                written.discard();
            }
            Err(FetchError::Source(error))
        }
    }
}

/// Why a part was not brought.
enum Stopped {
    Source(SourceError),
    /// Nobody writes any more.
    Writer,
}

/// What a part is brought with.
struct One {
    source: Arc<Source>,
    key: String,
    object: Object,
    limits: Limits,
    counts: Arc<Counts>,
    sender: mpsc::Sender<Message>,
}

impl One {
    /// Brings a part; where it is cut it goes on from there. Tries count from the last byte that came.
    async fn bring(self, part: parts::Part) -> Result<(), Stopped> {
        let mut at = part.range.start;
        let mut retry = Retry::new(self.limits.tries());
        while at < part.range.end {
            let before = at;
            let outcome = {
                let _permit = self.limits.permit().await;
                self.read(&mut at, part.range.end).await
            };
            let Err(stopped) = outcome else { continue };
            let Stopped::Source(error) = stopped else { return Err(stopped) };
            if !error.is_passing() {
                return Err(Stopped::Source(error));
            }
            if at > before {
                retry.progressed();
            }
            let Some(wait) = retry.next() else { return Err(Stopped::Source(error)) };
            self.counts.retries.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(%error, ?wait, "a part is asked for again");
            tokio::time::sleep(wait).await;
        }
        self.send(Message::Done(part.number)).await
    }

    /// Reads from `at` to `end`, as far as it gets.
    async fn read(&self, at: &mut u64, end: u64) -> Result<(), Stopped> {
        let stall = self.limits.stall();
        let stalled = |_| {
            let place = format!("{}{}", self.source.place(), self.key);
            SourceError::new(Trouble::Cut, place, format!("nothing came for {} s", stall.as_secs()))
        };
        let asked = self.source.read(&self.key, &self.object, *at..end).await;
        let mut body = asked.map_err(Stopped::Source)?;
        while *at < end {
            let chunk = tokio::time::timeout(stall, body.chunk()).await.map_err(stalled).and_then(|chunk| chunk);
            let Some(bytes) = chunk.map_err(Stopped::Source)? else {
                let place = format!("{}{}", self.source.place(), self.key);
                let detail = format!("it ended {} bytes early", end - *at);
                return Err(Stopped::Source(SourceError::new(Trouble::Cut, place, detail)));
            };
            let count = bytes.len() as u64;
            self.limits.pace(count).await;
            self.counts.fetched.fetch_add(count, Ordering::Relaxed);
            self.send(Message::Bytes(*at, bytes)).await?;
            *at += count;
        }
        // A folder's file says at its end whether it is still the same; a store's answer lets its connection go.
        body.chunk().await.map_err(Stopped::Source).map(drop::<Option<Bytes>>)
    }

    async fn send(&self, message: Message) -> Result<(), Stopped> {
        self.sender.send(message).await.map_err(|_| Stopped::Writer)
    }
}
