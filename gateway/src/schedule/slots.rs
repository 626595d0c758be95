//! The slots of a runner on a replica, and those of all replicas that are equally good for a request.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::core::{Served, TargetId};
use super::word::{Busy, Rank, View, Word};
use crate::health::core::Force;
use crate::rendezvous;
use crate::replica::Replica;

/// Slots, by number.
pub type SlotsId = u64;

/// The slots for one name on one replica. Survives every swap of the table.
#[derive(Debug)]
pub struct Slots {
    id: SlotsId,
    pub(super) word: Word,
    /// How many there are, and how many of them may be in use, if not all.
    limits: Mutex<(u16, Option<u16>)>,
    /// Something is held against them or their replica that an answer would change.
    blamed: AtomicBool,
    /// An answer has begun or gone on since somebody looked.
    heard: AtomicBool,
    /// Requests had options that make the replica load the model anew, beyond those that a probe can have too.
    strange: AtomicBool,
    /// How many requests have ended since somebody asked, and for how many microseconds they had their slots.
    ended: AtomicU32,
    /// Those of them that were no bulk.
    awaited: AtomicU32,
    micros: AtomicU64,
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
            ended: AtomicU32::new(0),
            awaited: AtomicU32::new(0),
            micros: AtomicU64::new(0),
            name: name.into(),
            replica,
        })
    }

    /// Their number: other slots never get it.
    pub fn id(&self) -> SlotsId {
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

    /// A request had a slot for so long.
    pub(super) fn served(&self, time: Duration, is_awaited: bool) {
        self.ended.fetch_add(1, Relaxed);
        if is_awaited {
            self.awaited.fetch_add(1, Relaxed);
        }
        self.micros.fetch_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    /// What was served since this was asked before.
    pub(super) fn take_served(&self) -> Served {
        let time = Duration::from_micros(self.micros.swap(0, Relaxed));
        let awaited = self.awaited.swap(0, Relaxed);
        Served { count: self.ended.swap(0, Relaxed), awaited, time }
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
}

impl Target {
    /// A target of these slots.
    pub fn new(slots: Vec<Arc<Slots>>) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Arc::new(Self { id: NEXT.fetch_add(1, Relaxed), slots })
    }

    /// Its number: another target never gets it.
    pub fn id(&self) -> TargetId {
        self.id
    }

    /// The canonical engine name that its slots are for; `None` where it has none.
    pub(super) fn name(&self) -> Option<&str> {
        self.slots.first().map(|slots| &*slots.name)
    }

    /// Its slots.
    pub fn slots(&self) -> &[Arc<Slots>] {
        &self.slots
    }

    /// Those of its slots that are on this replica.
    pub(super) fn on(&self, replica: &Replica) -> Option<SlotsId> {
        self.slots.iter().find(|slots| std::ptr::eq(replica, &raw const *slots.replica)).map(|slots| slots.id)
    }

    /// The fast path: the best of the open slots. `exclude` are those that have just failed this request. Of equal ones who
    /// has something in common gets the same, as behind a gate (`core::lines`).
    pub(super) fn take(
        &self,
        generation: u32,
        exclude: Option<SlotsId>,
        session: Option<u64>,
    ) -> Result<Arc<Slots>, Busy> {
        let (later, first) = self.slots.split_at(turn() % self.slots.len().max(1));
        let allowed = || first.iter().chain(later).filter(|slots| exclude != Some(slots.id)).enumerate();
        let all_suspect = allowed().all(|(_, slots)| slots.view().suspect);
        for _ in 0..=self.slots.len() {
            let mut best: Option<((Rank, u64), &Arc<Slots>)> = None;
            for (at, slots) in allowed() {
                let view = slots.view();
                if view.closed {
                    return Err(Busy::Full); // others wait: nobody passes them
                }
                let rank = view.rank(at == 0, all_suspect).filter(|_| !view.away);
                let meant = || session.map_or(0, |session| u64::MAX - rendezvous::weight(session, slots.replica.key));
                let rank = rank.map(|rank| (rank, meant()));
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

#[cfg(test)]
mod tests {
    use tutti_api::PoolSpec;

    use super::*;

    #[test]
    fn of_equal_slots_who_has_something_in_common_gets_the_same() {
        let slots = |port: u16| {
            let url = format!("http://127.0.0.1:{port}").parse().unwrap();
            Slots::new(Replica::new(&PoolSpec::default(), &url, None).unwrap(), "m", 1, 2)
        };
        let target = Target::new((1..5).map(slots).collect());
        let take = |session| target.take(1, None, session).unwrap();
        let mut used = std::collections::BTreeSet::new();
        for session in 0..8 {
            let first = take(Some(session));
            used.insert(first.id());
            let other = take(Some(session));
            assert_ne!(other.id(), first.id(), "the less loaded goes first");
            first.word.release();
            other.word.release();
            take(None).word.release(); // others take turns
            let again = take(Some(session));
            assert_eq!(again.id(), first.id());
            again.word.release();
        }
        assert_eq!(used.len(), 4, "sessions are spread");
    }
}
