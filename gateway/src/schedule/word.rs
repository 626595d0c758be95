//! The slots of one runner on one replica, as one atomic word.
//!
//! A request whose choice of replica is still valid takes a slot by compare-and-swap, without asking anybody. The
//! pool's owner closes the gate while anything waits, so nobody passes the queue; a new table raises the generation,
//! so nobody acts on an old choice.

use std::sync::atomic::{AtomicU64, Ordering::AcqRel, Ordering::Acquire};

const CLOSED: u64 = 1 << 63;
const SUSPECT: u64 = 1 << 62;
const KEPT: u64 = 1 << 61;
const AWAY: u64 = 1 << 60;
const GENERATION: u64 = (1 << 28) - 1;
const COUNT: u64 = 0xffff;
const ONE: u64 = 1 << 16;

/// The word, read at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Something waits: only the owner hands out slots.
    pub closed: bool,
    /// The replica cannot be reached, or is ejected: others go before it.
    pub suspect: bool,
    /// It fails, and is used for want of others: no more than in its turn, however quickly it fails.
    pub kept: bool,
    /// Another group has the runner: only the owner brings their weights back.
    pub away: bool,
    /// Slots in use.
    pub in_flight: u16,
    /// Slots there are.
    pub limit: u16,
}

impl View {
    /// That of slots which are there no more.
    pub const NONE: Self = Self { closed: true, suspect: false, kept: false, away: true, in_flight: 0, limit: 0 };

    /// That of two words for the same weights on the same runner.
    pub(super) fn with(self, other: Self) -> Self {
        Self {
            closed: self.closed || other.closed,
            suspect: self.suspect && other.suspect,
            kept: self.kept && other.kept,
            away: self.away || other.away,
            in_flight: self.in_flight.saturating_add(other.in_flight),
            limit: self.limit.max(other.limit),
        }
    }

    /// Slots left.
    pub fn free(self) -> u16 {
        self.limit.saturating_sub(self.in_flight)
    }

    /// How good a choice it is for the next request; `None`: it is none. The least loaded is the best, and the first of
    /// those. `its_turn`: it stands first; others get their turn next. `all_suspect`: nothing better is to be had.
    pub(super) fn rank(self, its_turn: bool, all_suspect: bool) -> Option<Rank> {
        let usable = self.free() > 0 && (all_suspect || !self.suspect);
        usable.then_some((self.kept && !its_turn, self.in_flight))
    }
}

/// Lower is better.
pub(super) type Rank = (bool, u16);

/// Why a slot could not be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Busy {
    /// All in use, or others wait for them.
    Full,
    /// The choice was made from another table than the word's.
    Stale,
}

#[derive(Debug)]
pub(super) struct Word(AtomicU64);

impl Word {
    pub(super) fn new(generation: u32, limit: u16) -> Self {
        Self(AtomicU64::new((u64::from(generation) & GENERATION) << 32 | u64::from(limit)))
    }

    pub(super) fn view(&self) -> View {
        Self::read(self.0.load(Acquire))
    }

    fn read(word: u64) -> View {
        View {
            closed: word & CLOSED != 0,
            suspect: word & SUSPECT != 0,
            kept: word & KEPT != 0,
            away: word & AWAY != 0,
            in_flight: (word >> 16 & COUNT) as u16,
            limit: (word & COUNT) as u16,
        }
    }

    /// The fast path.
    pub(super) fn take(&self, generation: u32) -> Result<(), Busy> {
        let mut word = self.0.load(Acquire);
        loop {
            if word >> 32 & GENERATION != u64::from(generation) & GENERATION {
                return Err(Busy::Stale);
            }
            let view = Self::read(word);
            if view.closed || view.away || view.free() == 0 {
                return Err(Busy::Full);
            }
            match self.0.compare_exchange_weak(word, word + ONE, AcqRel, Acquire) {
                Ok(_) => return Ok(()),
                Err(now) => word = now,
            }
        }
    }

    /// Takes a slot if fewer than `most` are in use, under whatever table. For the owner: behind a gate that is closed
    /// nobody else takes any.
    pub(super) fn take_spare(&self, most: u16) -> bool {
        let more = |word| (Self::read(word).in_flight < most).then_some(word + ONE);
        self.0.fetch_update(AcqRel, Acquire, more).is_ok()
    }

    /// The owner's way, behind the gate that it closed.
    pub(super) fn take_behind_gate(&self) {
        self.0.fetch_add(ONE, AcqRel);
    }

    /// Gives a slot back; true where the owner must hear of it.
    pub(super) fn release(&self) -> bool {
        let before = self.0.fetch_sub(ONE, AcqRel);
        debug_assert!(Self::read(before).in_flight > 0, "a slot given back that nobody took");
        before & CLOSED != 0
    }

    pub(super) fn close(&self) {
        self.0.fetch_or(CLOSED, AcqRel);
    }

    pub(super) fn open(&self) {
        self.0.fetch_and(!CLOSED, AcqRel);
    }

    /// Whether the weights are in memory.
    pub(super) fn set_home(&self, home: bool) {
        if home {
            self.0.fetch_and(!AWAY, AcqRel);
        } else {
            self.0.fetch_or(AWAY, AcqRel);
        }
    }

    pub(super) fn set_trust(&self, suspect: bool, kept: bool) {
        let new = if suspect { SUSPECT } else { 0 } | if kept { KEPT } else { 0 };
        let _ = self.0.fetch_update(AcqRel, Acquire, |word| Some(word & !(SUSPECT | KEPT) | new));
    }

    /// Another number of slots.
    pub(super) fn set_limit(&self, limit: u16) {
        let _ = self.0.fetch_update(AcqRel, Acquire, |word| Some(word & !COUNT | u64::from(limit)));
    }

    /// A new table, and with it perhaps another number of slots.
    pub(super) fn set_table(&self, generation: u32, limit: u16) {
        let keep = CLOSED | SUSPECT | KEPT | AWAY | COUNT << 16;
        let new = (u64::from(generation) & GENERATION) << 32 | u64::from(limit);
        let _ = self.0.fetch_update(AcqRel, Acquire, |word| Some(word & keep | new));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_taken_only_through_an_open_gate_under_the_right_table() {
        let word = Word::new(7, 2);
        assert_eq!(word.take(6), Err(Busy::Stale));
        assert_eq!(word.take(7), Ok(()));
        word.close();
        assert_eq!(word.take(7), Err(Busy::Full));
        word.take_behind_gate();
        assert_eq!(
            word.view(),
            View { closed: true, suspect: false, kept: false, away: false, in_flight: 2, limit: 2 }
        );
        assert!(word.release());
        word.open();
        word.set_trust(true, true);
        word.set_table(8, 1);
        assert_eq!(word.take(7), Err(Busy::Stale));
        assert_eq!(word.take(8), Err(Busy::Full));
        assert!(!word.release());
        assert_eq!(word.take(8), Ok(()));
        assert_eq!(word.view(), View { closed: false, suspect: true, kept: true, away: false, in_flight: 1, limit: 1 });
    }

    #[test]
    fn a_spare_slot_is_one_that_is_there() {
        let word = Word::new(1, 1);
        word.close();
        assert!(word.take_spare(2), "there are two, though only one may be used just now");
        assert!(word.take_spare(2) && !word.take_spare(2));
        assert_eq!(word.view().in_flight, 2);
    }

    #[test]
    fn the_limit_holds_between_threads() {
        let word = Word::new(1, 3);
        let most = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        if word.take(1).is_ok() {
                            most.fetch_max(u64::from(word.view().in_flight), AcqRel);
                            word.release();
                        }
                    }
                });
            }
        });
        assert!((1..=3).contains(&most.load(Acquire)));
        assert_eq!(word.view().in_flight, 0);
    }
}
