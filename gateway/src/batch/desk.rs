//! What a pool keeps of its embeddings: who waits for whom, how long calls take, what is counted.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use tokio::sync::mpsc;

use super::cut::cut;
use super::gather::{Arrival, Charge, Gather, Key, Spot};
use super::pace::Pace;
use super::texts::Texts;
use crate::dialect::Usage;
use crate::errors::Failure;
use crate::metrics::{Bounds, Histogram, Sums, bounds};
use crate::replica::Replica;

/// Models whose pace a pool remembers; beyond, it learns anew.
const MODELS: usize = 1024;

/// Texts of a call.
static SIZES: Bounds<10> = bounds!(1.0; 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 1024.0);

/// A pool's. Whoever gathers takes its lock for a moment; it survives every swap of the table.
#[derive(Debug)]
pub(crate) struct Desk {
    inner: Mutex<Inner>,
    waiting: AtomicUsize,
}

#[derive(Debug)]
struct Inner {
    gather: Gather<Seat>,
    /// By the name that the replicas know a model by.
    paces: HashMap<Box<str>, Pace>,
    counts: Counts,
    /// Under the lock there is one writer at a time.
    sizes: Histogram<10>,
}

/// What is counted of a pool's embeddings.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Requests that shared a call with others.
    pub(crate) shared: u64,
    /// Calls that arrays were cut into.
    pub(crate) pieces: u64,
    /// Calls for several that failed, and were made again in halves.
    pub(crate) halved: u64,
    /// Requests that were refused because they would have come too late.
    pub(crate) late: u64,
}

/// What a caller who waits is told.
#[derive(Debug)]
pub(crate) enum Told {
    /// This replica is asked; or one of another gateway's that is not known here.
    Asked(Option<Arc<Replica>>),
    /// What came of it.
    Answer(Box<Result<Brought, Failure>>),
}

/// A replica's answer to one caller, in the API that it was asked by.
#[derive(Clone, Debug)]
pub(crate) struct Brought {
    pub(crate) status: StatusCode,
    /// The replica's.
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// Its tokens, where the gateway has printed it: then nobody reads it again who speaks that API.
    pub(crate) counted: Option<Usage>,
    /// The revision that answered; empty where the model has none.
    pub(crate) revision: Box<str>,
    /// Which of the callers' options were changed.
    pub(crate) adjusted: Option<HeaderValue>,
    /// How often it was sent again.
    pub(crate) retries: u8,
    /// How many callers had the call together.
    pub(crate) callers: usize,
}

/// A caller who leaves with others. He has left where nobody hears what he is told.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) texts: Texts,
    /// The `x-request-id`.
    pub(crate) id: HeaderValue,
    pub(crate) charge: Charge,
    /// When it must have been answered to be of use.
    pub(crate) deadline: Option<Instant>,
    since: Instant,
    pub(crate) tell: mpsc::UnboundedSender<Told>,
}

/// Those who leave together.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) key: Arc<Key>,
    pub(crate) seats: Vec<Seat>,
}

/// What becomes of who comes.
pub(crate) enum Arrived {
    /// Goes at once; a call is under way until [`Desk::ended`].
    Alone,
    /// Waits to go with others.
    Waits(Waiting),
    /// As many wait as may.
    Full,
    /// It would come too late, at least by so much.
    Late(Duration),
}

/// A place among those who wait; dropping it leaves.
pub(crate) struct Waiting {
    desk: Arc<Desk>,
    key: Arc<Key>,
    spot: Spot,
    /// What its call takes, where that is known and it matters.
    pub(crate) takes: Duration,
    /// Unbounded, and yet bounded: a try and an answer for each time that the call is made.
    pub(crate) inbox: mpsc::UnboundedReceiver<Told>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut inner = self.desk.lock();
        inner.gather.left(&self.key, self.spot);
        self.desk.waiting.store(inner.gather.waiting(), Relaxed);
    }
}

impl Default for Desk {
    fn default() -> Self {
        let (gather, paces, counts) = (Gather::default(), HashMap::new(), Counts::default());
        let inner = Inner { gather, paces, counts, sizes: Histogram::new(&SIZES) };
        Self { inner: Mutex::new(inner), waiting: AtomicUsize::new(0) }
    }
}

impl Inner {
    fn pace(&mut self, model: &str) -> &mut Pace {
        if !self.paces.contains_key(model) {
            if self.paces.len() >= MODELS {
                self.paces.clear();
            }
            self.paces.insert(model.into(), Pace::default());
        }
        self.paces.entry(model.into()).or_default()
    }
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pieces that an array is cut into, if it is: for so many replicas, which know the model by this name.
    pub(crate) fn cut(&self, model: &str, texts: &Texts, replicas: usize) -> Option<Vec<Range<usize>>> {
        if texts.len() < 2 {
            return None;
        }
        let weights: Vec<usize> = texts.weights().collect();
        let mut inner = self.lock();
        let pieces = cut(&weights, replicas, inner.pace(model));
        if pieces.len() < 2 {
            return None;
        }
        inner.counts.pieces += pieces.len() as u64;
        Some(pieces)
    }

    /// Somebody comes with texts for a model, who is charged so much and must be answered by then. `limits`: how many replicas
    /// know the model by this name, and how many may wait.
    pub(crate) fn arrive(
        self: &Arc<Self>,
        key: &Arc<Key>,
        model: &str,
        (texts, id, charge): (Texts, &HeaderValue, Charge),
        limits: (usize, usize),
        deadline: Option<Instant>,
    ) -> Arrived {
        let (tell, inbox) = mpsc::unbounded_channel();
        let size = (texts.len(), texts.weight());
        let mut inner = self.lock();
        let inner = &mut *inner;
        inner.pace(model);
        let (gather, paces) = (&mut inner.gather, &mut inner.paces);
        let gathers = || paces.get_mut(model).is_some_and(|pace| pace.gathers(size.1));
        let seat = || Seat { texts, id: id.clone(), charge, deadline, since: Instant::now(), tell };
        let spot = match gather.arrive(key, (size, charge), limits, gathers, seat) {
            Arrival::Alone => return Arrived::Alone,
            Arrival::Full => return Arrived::Full,
            Arrival::Waits(spot) => spot,
        };
        let expected = deadline.and_then(|deadline| {
            let (before, at_once) = gather.before(key, spot);
            let (turn, takes) = paces.get(model)?.expected(size.1, before, at_once)?;
            let left = deadline.saturating_duration_since(Instant::now());
            Some((takes, turn.saturating_add(takes).saturating_sub(left)))
        });
        let (takes, late) = expected.unwrap_or_default();
        if !late.is_zero() {
            gather.left(key, spot);
            inner.counts.late += 1;
            return Arrived::Late(late);
        }
        self.waiting.store(gather.waiting(), Relaxed);
        Arrived::Waits(Waiting { desk: self.clone(), key: key.clone(), spot, takes, inbox })
    }

    /// A call has ended; yields those who leave now, if any wait.
    pub(crate) fn ended(&self, key: &Arc<Key>, model: &str) -> Option<Batch> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        inner.pace(model);
        let (gather, paces) = (&mut inner.gather, &mut inner.paces);
        let leaving = gather.ended(key, |weight| paces.entry(model.into()).or_default().most(weight));
        self.waiting.store(gather.waiting(), Relaxed);
        let seats: Vec<Seat> = leaving.into_iter().map(|waiter| waiter.who).collect();
        if seats.len() > 1 {
            inner.counts.shared += seats.len() as u64;
        }
        (!seats.is_empty()).then(|| Batch { key: key.clone(), seats })
    }

    /// A call of so many texts, of this weight, has taken so long of a replica's time.
    pub(crate) fn took(&self, model: &str, (texts, weight): (usize, usize), took: Duration) {
        let mut inner = self.lock();
        inner.sizes.observe(texts as u64);
        inner.pace(model).observe(weight, took);
    }

    /// The first pieces of an array, one for each replica, weigh this and have taken so long from its beginning on.
    pub(crate) fn spread(&self, model: &str, pieces: &[(usize, Duration)]) {
        self.lock().pace(model).ended(pieces);
    }

    /// A call for several failed, and is made again in halves.
    pub(crate) fn halved(&self) {
        self.lock().counts.halved += 1;
    }

    /// Replicas refused so many texts in a call, and took each of them alone.
    pub(crate) fn refused(&self, model: &str, texts: usize) {
        self.lock().pace(model).refused(texts);
    }

    /// How many wait to go with others.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    /// How many calls those who wait will make, and since when the first of them has waited.
    pub(crate) fn demand(&self) -> (usize, Option<Instant>) {
        if self.waiting() == 0 {
            return (0, None);
        }
        let inner = self.lock();
        (inner.gather.calls(), inner.gather.who().map(|seat| seat.since).min())
    }

    /// What was counted, and the texts of calls.
    pub(crate) fn told(&self) -> (Counts, Sums) {
        let inner = self.lock();
        (inner.counts, Sums::of([&inner.sizes]))
    }
}
