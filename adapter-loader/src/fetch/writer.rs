//! The threads of a fetch that have to do with the disk: one writes what came, one has it put onto the disk part by part (at
//! the end all of it would be waited for at once), one reads it for its digest as soon as it is there without a gap. Whoever
//! reads from the network waits for none of them, but for the room of a short queue.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc as std_mpsc;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};
use tutti_api::Digest;

use super::Counts;
use super::disk::{Places, boot, free};
use super::error::FetchError;
use super::parts::{Part, Parts};
use crate::fault::{Point, point};

/// Bytes that are read at once for the digest.
const READ: usize = 1 << 20;

/// What comes to be written.
pub(super) enum Message {
    /// Bytes, and where they belong.
    Bytes(u64, Bytes),
    /// All bytes of this part were sent.
    Done(u64),
}

/// A file on its way, before anything comes.
pub(super) struct Writer {
    disk: Disk,
    counts: Arc<Counts>,
}

/// What is on the disk.
struct Disk {
    places: Places,
    file: Arc<File>,
    record: File,
    parts: Parts,
    there: BTreeSet<u64>,
}

impl Writer {
    /// Takes up what an earlier fetch left, where it was of the same; yields the parts that are missing.
    pub(super) async fn open(into: &Path, parts: Parts, counts: Arc<Counts>) -> Result<(Self, Vec<Part>), FetchError> {
        let places = Places::of(into);
        let opened = spawn_blocking(move || Disk::open(places, parts)).await;
        let disk = opened.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
        let missing = disk.parts.missing(&disk.there);
        let there: u64 = disk.there.iter().map(|number| disk.length(*number)).sum();
        counts.there.fetch_add(there, Ordering::Relaxed);
        Ok((Self { disk, counts }, missing))
    }

    /// Writes what comes, until nothing comes any more.
    pub(super) fn begin(self, messages: mpsc::Receiver<Message>) -> Writing {
        let stop = Arc::new(AtomicBool::new(false));
        let handle = spawn_blocking({
            let stop = stop.clone();
            move || self.write(messages, &stop)
        });
        Writing { handle, _stop: Stop(stop) }
    }

    fn write(self, mut messages: mpsc::Receiver<Message>, stop: &Arc<AtomicBool>) -> Result<Written, FetchError> {
        let Writer { mut disk, counts } = self;
        let (to_digest, whole_to) = std_mpsc::channel();
        let digesting = thread("digest", {
            let (file, stop) = (disk.file.clone(), stop.clone());
            move || digest(&file, &whole_to, &stop)
        });
        let digesting = digesting.map_err(|error| disk.failed(error))?;
        let (to_sync, whole) = std_mpsc::channel();
        let syncing = thread("sync", {
            let file = disk.file.clone();
            move || sync(&file, &whole)
        });
        let syncing = syncing.map_err(|error| disk.failed(error))?;
        let mut write = || {
            // Who ended already is told nothing: why is known below.
            let _ = to_digest.send(disk.parts.whole_to(&disk.there));
            while let Some(message) = messages.blocking_recv() {
                match message {
                    Message::Bytes(at, bytes) => {
                        point(Point::FetchInPart);
                        disk.file.write_all_at(&bytes, at)?;
                        counts.there.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    }
                    Message::Done(number) => {
                        disk.there.insert(number);
                        disk.record.write_all(Parts::line(number).as_bytes())?;
                        let _ = to_digest.send(disk.parts.whole_to(&disk.there));
                        let _ = to_sync.send(());
                    }
                }
            }
            io::Result::Ok(())
        };
        let written = write();
        drop(messages);
        drop((to_digest, to_sync));
        let synced = syncing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let digest = digesting.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match written.and(synced).and(digest) {
            Ok(digest) => Ok(Written { disk, digest }),
            Err(error) => {
                // What does not fit does not fit the next time either, and others may need the room.
                disk.places.discard();
                Err(disk.failed(error))
            }
        }
    }
}

fn thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<std::thread::JoinHandle<T>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work)
}

/// Has what is whole put onto the disk; what became whole meanwhile goes with the next time. An error of the disk's is told once
/// and then forgotten (fsync(2)), so who hears it ends.
fn sync(file: &File, whole: &std_mpsc::Receiver<()>) -> io::Result<()> {
    while whole.recv().is_ok() {
        while whole.try_recv().is_ok() {}
        file.sync_data()?;
    }
    Ok(())
}

/// Reads a file from its beginning, as far as it is said to be there; none where it was never whole.
fn digest(file: &File, whole_to: &std_mpsc::Receiver<u64>, stop: &AtomicBool) -> io::Result<Option<Digest>> {
    let (mut hash, mut at) = (Sha256::new(), 0);
    let mut bytes = vec![0; READ];
    let mut size = 0;
    while let Ok(end) = whole_to.recv() {
        while at < end && !stop.load(Ordering::Relaxed) {
            let want = usize::try_from(end - at).unwrap_or(READ).min(READ);
            file.read_exact_at(&mut bytes[..want], at)?;
            hash.update(&bytes[..want]);
            at += want as u64;
        }
        size = size.max(end);
    }
    Ok((at == size).then(|| Digest::new(hash.finalize().into())))
}

impl Disk {
    fn open(places: Places, parts: Parts) -> Result<Self, FetchError> {
        let file = places.open()?;
        let failed = |error| FetchError::disk(&places.part, parts.size, error);
        let (boot, length) = (boot(), file.metadata().map_err(failed)?.len());
        let whole = length == parts.size;
        let recorded = parts.recorded(&places.recorded(), &boot).filter(|_| whole);
        let there = recorded.clone().unwrap_or_default();
        let needed: u64 = parts.missing(&there).iter().map(|part| part.range.end - part.range.start).sum();
        let folder = places.part.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let free = free(folder).map_err(failed)?;
        if needed > free {
            places.discard();
            return Err(FetchError::NoSpace { folder: folder.to_owned(), needed, free: Some(free) });
        }
        let begin = || {
            let mut record = OpenOptions::new();
            if recorded.is_some() {
                return record.append(true).open(&places.record);
            }
            // The old record is gone before its bytes are.
            let mut record = record.create(true).write(true).truncate(true).open(&places.record)?;
            file.set_len(0)?;
            file.set_len(parts.size)?;
            record.write_all(parts.head(&boot).as_bytes())?;
            Ok(record)
        };
        let record = begin().map_err(|error| {
            places.discard();
            failed(error)
        })?;
        Ok(Self { places, file: Arc::new(file), record, parts, there })
    }

    fn length(&self, number: u64) -> u64 {
        let range = self.parts.range(number);
        range.end - range.start
    }

    fn failed(&self, error: io::Error) -> FetchError {
        FetchError::disk(&self.places.part, self.parts.size, error)
    }
}

/// A writer at work.
pub(super) struct Writing {
    handle: JoinHandle<Result<Written, FetchError>>,
    /// Dropped with the fetch: the digest of a file that nobody waits for is not read to its end.
    _stop: Stop,
}

struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Writing {
    /// Waits until all that was sent is written.
    pub(super) async fn end(&mut self) -> Result<Written, FetchError> {
        match (&mut self.handle).await {
            Ok(written) => written,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(FetchError::Stopped),
        }
    }
}

/// A file on its way, after all that came was written.
pub(super) struct Written {
    disk: Disk,
    digest: Option<Digest>,
}

impl Written {
    /// The digest, if all of the file is there.
    pub(super) fn whole(self) -> Result<(Digest, Self), FetchError> {
        let is_whole = self.disk.there.len() as u64 == self.disk.parts.count();
        match self.digest.filter(|_| is_whole) {
            Some(digest) => Ok((digest, self)),
            None => Err(FetchError::Stopped),
        }
    }

    /// Removes it.
    pub(super) fn discard(&self) {
        self.disk.places.discard();
    }

    /// Gives it its name.
    pub(super) async fn publish(self) -> Result<(), FetchError> {
        let publish = move || {
            self.disk.places.publish(&self.disk.file).map_err(|error| {
                self.disk.places.discard();
                self.disk.failed(error)
            })
        };
        spawn_blocking(publish).await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }
}
