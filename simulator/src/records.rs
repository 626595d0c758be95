//! What reached the replica: raw facts a test can wait for without sleeping.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::watch;

/// How far a request has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Its head is there, its body not yet.
    Body,
    /// Queued, loading, reading the prompt, or held by a fault: the client has seen nothing.
    Waiting,
    /// The header is written, the body is under way.
    Answering,
    /// The whole answer was handed to the socket.
    Done,
}

/// One request, as it arrived.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Its number, from 0, in the order in which heads arrived.
    pub number: u64,
    /// The connection it came on, from 0.
    pub connection: u64,
    /// The method, as sent.
    pub method: String,
    /// Path and query, as sent.
    pub path: String,
    /// Header names in lower case, with their values, in the order of arrival.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body without its transfer coding; empty until all of it has arrived.
    pub body: Bytes,
    /// When its head arrived.
    pub arrived: Instant,
    /// How far it came.
    pub phase: Phase,
    /// The status that was answered.
    pub status: Option<u16>,
    /// When the whole answer was handed to the socket.
    pub finished: Option<Instant>,
    /// When the replica saw that the client had gone, or ended the connection itself.
    pub ended_early: Option<Instant>,
}

impl Seen {
    /// The values of a header, by its name in lower case.
    pub fn header<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.headers.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_slice())
    }
}

/// The shared record of one replica.
#[derive(Debug)]
pub(crate) struct Records {
    seen: Mutex<Vec<Seen>>,
    changed: Condvar,
    version: watch::Sender<u64>,
    max: usize,
    pub(crate) requests: AtomicU64,
    pub(crate) connections: AtomicU64,
    pub(crate) malformed: AtomicU64,
    pub(crate) in_flight: AtomicU64,
}

impl Records {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Records {
            seen: Mutex::default(),
            changed: Condvar::new(),
            version: watch::Sender::new(0),
            max,
            requests: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            malformed: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
        })
    }

    pub(crate) fn all(&self) -> Vec<Seen> {
        self.lock().clone()
    }

    /// Waits, blocking, until `found` finds something or the time is up.
    pub(crate) fn wait<T>(&self, bound: Duration, mut found: impl FnMut(&[Seen]) -> Option<T>) -> Option<T> {
        let until = Instant::now() + bound;
        let mut seen = self.lock();
        loop {
            if let Some(value) = found(&seen) {
                return Some(value);
            }
            let left = until.checked_duration_since(Instant::now())?;
            seen = self.changed.wait_timeout(seen, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The same for a task.
    pub(crate) async fn until<T>(&self, bound: Duration, mut found: impl FnMut(&[Seen]) -> Option<T>) -> Option<T> {
        let mut version = self.version.subscribe();
        let search = async {
            loop {
                version.borrow_and_update();
                if let Some(value) = found(&self.lock()) {
                    return Some(value);
                }
                version.changed().await.ok()?;
            }
        };
        tokio::time::timeout(bound, search).await.ok().flatten()
    }

    pub(crate) fn open(self: &Arc<Self>, connection: u64, head: &http::request::Parts) -> Entry {
        let number = self.requests.fetch_add(1, Relaxed);
        self.in_flight.fetch_add(1, Relaxed);
        let mut entry =
            Entry { records: self.clone(), at: None, done: false, bodiless: head.method == http::Method::HEAD };
        if self.max == 0 {
            return entry;
        }
        let mut seen = self.lock();
        if seen.len() < self.max {
            entry.at = Some(seen.len());
            seen.push(Seen {
                number,
                connection,
                method: head.method.to_string(),
                path: head.uri.to_string(),
                headers: head.headers.iter().map(|(n, v)| (n.to_string(), v.as_bytes().to_vec())).collect(),
                body: Bytes::new(),
                arrived: Instant::now(),
                phase: Phase::Body,
                status: None,
                finished: None,
                ended_early: None,
            });
        }
        drop(seen);
        self.announce();
        entry
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn announce(&self) {
        self.changed.notify_all();
        self.version.send_modify(|v| *v += 1);
    }
}

/// A request's place in the record; dropped before it was done, the client has gone.
#[derive(Debug)]
pub(crate) struct Entry {
    records: Arc<Records>,
    at: Option<usize>,
    done: bool,
    /// The answer to a HEAD is complete with its header.
    bodiless: bool,
}

impl Entry {
    pub(crate) fn body(&self, body: &Bytes) {
        self.update(|seen| {
            seen.body = body.clone();
            seen.phase = Phase::Waiting;
        });
    }

    pub(crate) fn answering(&mut self, status: u16, is_empty: bool) {
        self.update(|seen| {
            seen.status = Some(status);
            seen.phase = Phase::Answering;
        });
        if is_empty || self.bodiless {
            self.done();
        }
    }

    pub(crate) fn done(&mut self) {
        if !std::mem::replace(&mut self.done, true) {
            self.update(|seen| {
                seen.finished = Some(Instant::now());
                seen.phase = Phase::Done;
            });
        }
    }

    fn update(&self, change: impl FnOnce(&mut Seen)) {
        let Some(at) = self.at else { return };
        change(&mut self.records.lock()[at]);
        self.records.announce();
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.records.in_flight.fetch_sub(1, Relaxed);
        if !self.done {
            self.update(|seen| seen.ended_early = Some(Instant::now()));
        }
    }
}
