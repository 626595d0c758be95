//! One line of JSON a request, on standard output, written apart from the cores that serve.
//!
//! A core fills a buffer of its own and hands it over when it is full or a tenth of a second old; one thread writes.
//! Where nobody reads, lines are dropped and counted: a full pipe never holds up a request. Lines never hold a prompt,
//! an answer or a credential.

mod line;

use std::cell::RefCell;
use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use tutti_api::LoggedRequests;

pub use self::line::{field_names, reference_markdown};
use crate::record::{Outcome, Record};

/// A buffer that has grown to this is handed over. Unit: bytes.
const FULL: usize = 32 << 10;
/// Buffers that may wait for the writer. Unit: buffers.
const WAITING: usize = 64;

/// What the writing thread gets.
enum Message {
    Lines(Vec<u8>),
    /// All before this has been written: say so.
    Finish(SyncSender<()>),
}

static WRITER: OnceLock<SyncSender<Message>> = OnceLock::new();
static DROPPED: AtomicU64 = AtomicU64::new(0);
/// A [`LoggedRequests`].
static WHICH: AtomicU8 = AtomicU8::new(LoggedRequests::All as u8);

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::default();
}

/// Starts the writing thread. Until then, lines are dropped and not counted: a library's user may want none.
pub fn start(mut out: impl Write + Send + 'static) {
    let (sender, messages) = sync_channel(WAITING);
    let _ = WRITER.set(sender);
    std::thread::spawn(move || {
        for message in messages {
            let buffer = match message {
                Message::Lines(buffer) => buffer,
                Message::Finish(done) => {
                    let _ = done.send(()); // whoever asked may have given up
                    continue;
                }
            };
            if out.write_all(&buffer).and_then(|()| out.flush()).is_err() {
                DROPPED.fetch_add(lines_in(&buffer), Relaxed);
            }
        }
    });
}

/// Lines that were dropped because the writer could not keep up or could not write.
pub fn dropped() -> u64 {
    DROPPED.load(Relaxed)
}

/// Hands over what this core has written so far. Called now and then on each core, and at its end.
pub fn flush() {
    let Some(writer) = WRITER.get() else { return };
    BUFFER.with_borrow_mut(|buffer| {
        if buffer.is_empty() {
            return;
        }
        let full = std::mem::replace(buffer, Vec::with_capacity(FULL + 1024));
        if let Err(TrySendError::Full(Message::Lines(lost)) | TrySendError::Disconnected(Message::Lines(lost))) =
            writer.try_send(Message::Lines(full))
        {
            DROPPED.fetch_add(lines_in(&lost), Relaxed);
        }
    });
}

/// Waits until what was handed over has been written, or until `within` has passed: at the end of the process.
pub fn finish(within: Duration) {
    flush();
    let Some(writer) = WRITER.get() else { return };
    let (done, finished) = sync_channel(1);
    if writer.try_send(Message::Finish(done)).is_ok() {
        let _ = finished.recv_timeout(within); // nobody reads our output: ending matters more
    }
}

fn lines_in(buffer: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', buffer).count() as u64
}

/// Which requests have a line (`gateway.log.requests`), from now on.
pub(crate) fn set_requests(which: LoggedRequests) {
    WHICH.store(which as u8, Relaxed);
}

/// Whether a request that ended so has a line.
fn is_told(outcome: Outcome) -> bool {
    match WHICH.load(Relaxed) {
        all if all == LoggedRequests::All as u8 => true,
        errors if errors == LoggedRequests::Errors as u8 => outcome != Outcome::Ok,
        _ => false,
    }
}

/// Writes a request's line into this core's buffer.
pub(crate) fn line(record: &Record, took: Duration) {
    let outcome = record.outcome();
    if WRITER.get().is_none() || !is_told(outcome) {
        return;
    }
    let full = BUFFER.with_borrow_mut(|buffer| {
        line::write(record, outcome, took, buffer);
        buffer.len() >= FULL
    });
    if full {
        flush();
    }
}
