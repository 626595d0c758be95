//! One line of JSON a request, on standard output, written apart from the cores that serve.
//!
//! A core fills a buffer of its own and hands it over when it is full or a tenth of a second old; one thread writes.
//! Where nobody reads, lines are dropped and counted: a full pipe never holds up a request. Lines never hold a prompt,
//! an answer or a credential.

use std::cell::RefCell;
use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::record::{Outcome, Phase, Record};

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

#[derive(Serialize)]
struct Line<'a> {
    ts: f64,
    level: &'static str,
    msg: &'static str,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    api: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pool: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replica: Option<&'a str>,
    status: u16,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    phase: Option<&'static str>,
    received: usize,
    sent: usize,
    queued_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttft_ms: Option<f64>,
    duration_ms: f64,
    input_tokens: u64,
    output_tokens: u64,
    retries: u8,
}

/// Writes a request's line into this core's buffer.
pub(crate) fn line(record: &Record, took: Duration) {
    if WRITER.get().is_none() {
        return;
    }
    let outcome = record.outcome();
    let code = match outcome {
        Outcome::Failed(code) => Some(code.row().name),
        _ => None,
    };
    let served = record.served.as_deref();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let line = Line {
        ts: (now.as_secs_f64() * 1e3).round() / 1e3,
        level: match outcome {
            Outcome::Failed(code) if code.row().status >= 500 => "error",
            Outcome::ReplicaError => "error",
            _ => "info",
        },
        msg: "request",
        request_id: record.request_id.to_str().unwrap_or_default(),
        api: record.api.map(|api| api.path()),
        model: served.map(|served| &*served.model),
        revision: served.map(|served| &*served.revision),
        pool: served.map(|served| &*served.pool),
        replica: record.replica.as_deref().map(|replica| &*replica.url),
        status: record.status,
        outcome: match outcome {
            Outcome::Ok => "ok",
            Outcome::ReplicaError => "replica_error",
            Outcome::Failed(_) => "failed",
            Outcome::Cancelled => "cancelled",
        },
        code,
        error: record.failure.as_ref().filter(|failure| !failure.quotes).map(|failure| &*failure.message),
        phase: (outcome == Outcome::Cancelled).then_some(match record.phase {
            Phase::Reading => "reading",
            Phase::Queued => "queued",
            Phase::Waiting => "waiting",
            Phase::Answering | Phase::Finished => "answering",
        }),
        received: record.received,
        sent: record.sent,
        queued_ms: millis(record.queued),
        ttft_ms: record.first_byte.map(millis),
        duration_ms: millis(took),
        input_tokens: record.usage.input,
        output_tokens: record.usage.output,
        retries: record.retries,
    };
    let full = BUFFER.with_borrow_mut(|buffer| {
        if serde_json::to_writer(&mut *buffer, &line).is_ok() {
            buffer.push(b'\n');
        }
        buffer.len() >= FULL
    });
    if full {
        flush();
    }
}

/// Milliseconds with microseconds behind the point.
fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}
