//! The slots of a runner on a replica, and those of all replicas that are equally good for a request.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use super::core::{SlotId, TargetId};
use super::word::{Busy, Rank, View, Word};
use crate::health::core::Force;
use crate::replica::Replica;

/// The slots of one runner on one replica. Survives every swap of the table.
#[derive(Debug)]
pub struct Slots {
    id: SlotId,
    pub(super) word: Word,
    /// How many there are, and how many of them may be in use, if not all.
    limits: Mutex<(u16, Option<u16>)>,
    /// Something is held against them or their replica that an answer would change.
    blamed: AtomicBool,
    /// An answer has begun or gone on since somebody looked.
    heard: AtomicBool,
    /// Requests had options that make the replica load the model anew, beyond those that a probe can have too.
    strange: AtomicBool,
    /// The canonical engine name that they are for.
    pub name: Box<str>,
    /// Where they are.
    pub replica: Arc<Replica>,
}

impl Slots {
    /// New slots, all free.
    pub fn new(replica: Arc<Replica>, name: &str, generation: u32, limit: u16) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Arc::new(Self {
            id: NEXT.fetch_add(1, Relaxed),
            word: Word::new(generation, limit),
            limits: Mutex::new((limit, None)),
            blamed: AtomicBool::new(false),
            heard: AtomicBool::new(false),
            strange: AtomicBool::new(false),
            name: name.into(),
            replica,
        })
    }

    /// Their number: other slots never get it.
    pub fn id(&self) -> SlotId {
        self.id
    }

    /// How they stand.
    pub fn view(&self) -> View {
        self.word.view()
    }

    /// Whether an answer has begun or gone on since this was asked the last time.
    pub(crate) fn take_heard(&self) -> bool {
        self.heard.load(Relaxed) && self.heard.swap(false, Relaxed)
    }

    /// An answer begins, or goes on.
    pub(super) fn hear(&self) {
        if !self.heard.load(Relaxed) {
            self.heard.store(true, Relaxed); // most find it set, and leave its cache line alone
        }
    }

    /// Whether an answer would change what is held against them.
    pub(super) fn is_blamed(&self) -> bool {
        self.blamed.load(Relaxed)
    }

    /// How many there are, whether or not all may be used just now.
    pub(super) fn all(&self) -> u16 {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    /// Requests had options that make the replica load the model anew, beyond those that a probe can have too.
    pub(super) fn set_strange(&self) {
        self.strange.store(true, Relaxed);
    }

    /// Whether a probe might have the model loaded anew, for its options are not those that it was loaded with.
    pub(crate) fn is_strange(&self) -> bool {
        self.strange.load(Relaxed)
    }

    /// From now on only choices made from this table's generation take slots.
    pub fn set_table(&self, generation: u32, limit: u16) {
        let mut limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        limits.0 = limit;
        self.word.set_table(generation, limits.1.map_or(limit, |most| most.min(limit)));
    }

    /// From now on this holds; the pool's owner must hear of it.
    pub(crate) fn set_force(&self, force: Force) {
        let mut limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        limits.1 = force.cap;
        self.word.set_limit(force.cap.map_or(limits.0, |most| most.min(limits.0)));
        self.word.set_trust(force.suspect, force.kept);
        self.blamed.store(force.blamed, Relaxed);
    }
}

/// Slots that are equally good for a request: the same runner on every replica of a pool that has it.
#[derive(Debug)]
pub struct Target {
    id: TargetId,
    slots: Vec<Arc<Slots>>,
    pub(super) ids: Arc<[SlotId]>,
}

impl Target {
    /// A target of these slots.
    pub fn new(slots: Vec<Arc<Slots>>) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let ids = slots.iter().map(|slots| slots.id).collect();
        Arc::new(Self { id: NEXT.fetch_add(1, Relaxed), slots, ids })
    }

    /// Its number: another target never gets it.
    pub fn id(&self) -> TargetId {
        self.id
    }

    /// Its slots.
    pub fn slots(&self) -> &[Arc<Slots>] {
        &self.slots
    }

    /// Those of its slots that are on this replica.
    pub(super) fn on(&self, replica: &Replica) -> Option<SlotId> {
        self.slots.iter().find(|slots| std::ptr::eq(replica, &raw const *slots.replica)).map(|slots| slots.id)
    }

    /// The fast path: the best of the open slots. `exclude` are those that have just failed this request.
    pub(super) fn take(&self, generation: u32, exclude: Option<SlotId>) -> Result<Arc<Slots>, Busy> {
        let (later, first) = self.slots.split_at(turn() % self.slots.len().max(1));
        let allowed = || first.iter().chain(later).filter(|slots| exclude != Some(slots.id)).enumerate();
        let all_suspect = allowed().all(|(_, slots)| slots.view().suspect);
        for _ in 0..=self.slots.len() {
            let mut best: Option<(Rank, &Arc<Slots>)> = None;
            for (at, slots) in allowed() {
                let view = slots.view();
                if view.closed {
                    return Err(Busy::Full); // others wait: nobody passes them
                }
                let rank = view.rank(at == 0, all_suspect).filter(|_| !view.away);
                if let Some(rank) = rank.filter(|rank| best.is_none_or(|(other, _)| *rank < other)) {
                    best = Some((rank, slots));
                }
            }
            let Some((_, slots)) = best else { return Err(Busy::Full) };
            match slots.word.take(generation) {
                Ok(()) => return Ok(slots.clone()),
                Err(Busy::Stale) => return Err(Busy::Stale),
                Err(Busy::Full) => {} // somebody was faster: look again
            }
        }
        Err(Busy::Full)
    }
}

/// Where the search among slots begins: another number each time. Each core counts for itself, from one of its own.
fn turn() -> usize {
    static CORES: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static TURN: Cell<usize> = Cell::new(CORES.fetch_add(1, Relaxed));
    }
    TURN.replace(TURN.get().wrapping_add(1))
}
