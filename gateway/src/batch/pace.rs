//! How long calls of each size take, and so how large they should be. Pure: sizes and times are told.
//!
//! Sizes are weights, in classes of powers of two; of each class the last few calls are kept, as seconds for a unit of
//! weight, and their median counts, so that a load or a pause in between changes nothing. A model that takes n times as
//! long for n texts (Ollama) costs the same in every class; one that batches is cheaper in the larger ones, up to
//! a size that is found by going on while it pays.

use std::time::Duration;

/// Bytes of text that are taken for a token. English has about four, Chinese in UTF-8 three.
const BYTES_OF_TOKEN: usize = 3;
/// What the shortest text weighs: no text is without a cost of its own.
const LEAST: usize = 8;
/// Most texts of a call that the gateway puts together or cuts. Unit: texts.
pub(super) const MOST_TEXTS: usize = 256;
/// Heaviest such call, but for one text that is heavier. Unit: tokens, as estimated.
pub(super) const MOST_WEIGHT: usize = (1 << 14) - 1;

/// Weights from 2^k to 2^(k+1) - 1 are class k.
const CLASSES: usize = 15;
/// Measurements that are kept: calls of a class, and arrays that were spread.
const KEPT: usize = 7;
/// Calls from which a class is known.
const ENOUGH: usize = 3;
/// How far above that of a single caller a class is looked at in any case: arrays of eight.
const LOOK: usize = 3;
/// Callers begin to wait for each other where that makes texts cheaper by this factor.
const JOIN_FROM: f64 = 1.5;
/// And go on their own again where it is less than this.
const JOIN_UNTIL: f64 = 1.2;
/// Arrays that are tried before it is known whether they gain.
const TRIES: u32 = 24;
/// How often one more is tried afterwards, and twice as many texts in a call after some were refused. Unit: calls.
const TRY_AGAIN: u32 = 256;
/// While callers wait for each other, each so many'th call is of another size than the best. Unit: calls.
const LOOK_BESIDE: u32 = 32;
/// Replicas are equally quick whose pieces end within this share of the longest's time: more is lost by another round.
const EVEN: f64 = 0.1;
/// Pieces of which the lightest weighs less than this share of the heaviest say nothing of replicas.
const EQUAL: f64 = 0.9;

/// What a text of so many bytes weighs: its tokens, as estimated.
pub(super) fn weight(bytes: usize) -> usize {
    (bytes / BYTES_OF_TOKEN).max(LEAST)
}

fn class(weight: usize) -> usize {
    (weight.max(1).ilog2() as usize).min(CLASSES - 1)
}

/// The heaviest of a class.
fn heaviest(class: usize) -> usize {
    (2 << class) - 1
}

/// How much may be in a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Most {
    pub(super) weight: usize,
    pub(super) texts: usize,
    /// One caller alone, to know what that costs.
    pub(super) alone: bool,
}

/// The last few of some measurements: one that is unlike the others changes nothing.
#[derive(Clone, Copy, Debug, Default)]
struct Last {
    kept: [f64; KEPT],
    seen: usize,
}

impl Last {
    fn observe(&mut self, one: f64) {
        self.kept[self.seen % KEPT] = one;
        self.seen += 1;
    }

    /// The median, the upper one of two, once there are so many.
    fn median(&self, enough: usize) -> Option<f64> {
        let mut kept = self.kept;
        let kept = kept.get_mut(..self.seen.min(KEPT)).filter(|kept| kept.len() >= enough)?;
        kept.sort_by(f64::total_cmp);
        kept.get(kept.len() / 2).copied()
    }
}

/// What is known of a model on a pool's replicas.
#[derive(Debug)]
pub(super) struct Pace {
    /// What a unit of weight takes in calls of each class. Unit: seconds.
    classes: [Last; CLASSES],
    joins: bool,
    tries: u32,
    /// Calls since the last try, or look beside.
    calls: u32,
    looks: u32,
    /// Most texts that the replicas take in a call, as far as was seen.
    texts: usize,
    /// Calls since some were refused, or more were allowed again.
    taken: u32,
    /// How far apart the first pieces of arrays ended. Unit: shares of the time of the one that took longest.
    apart: Last,
}

impl Default for Pace {
    fn default() -> Self {
        let (classes, apart) = ([Last::default(); CLASSES], Last::default());
        Self { classes, joins: false, tries: TRIES, calls: 0, looks: 0, texts: MOST_TEXTS, taken: 0, apart }
    }
}

impl Pace {
    /// A call of this weight has taken so long of a replica's time.
    pub(super) fn observe(&mut self, weight: usize, took: Duration) {
        self.classes[class(weight)].observe(took.as_secs_f64() / weight.max(1) as f64);
        self.calls += 1;
        if !self.joins && self.calls >= TRY_AGAIN {
            (self.calls, self.tries) = (0, self.tries.max(1));
        }
        self.taken += 1;
        if self.taken >= TRY_AGAIN {
            // What was refused may have been bad luck: a runner that died says no more than one that is overtaxed.
            (self.taken, self.texts) = (0, (2 * self.texts).min(MOST_TEXTS));
        }
    }

    /// Replicas refused so many texts in a call, and took all of them in several.
    pub(super) fn refused(&mut self, texts: usize) {
        self.texts = self.texts.min(if texts > 2 { texts.div_ceil(2) } else { 1 });
        self.taken = 0;
    }

    /// What a unit of weight takes in calls of a class, once that is known. Unit: seconds.
    fn cost(&self, class: usize) -> Option<f64> {
        self.classes[class].median(ENOUGH)
    }

    /// The class from `one` on in which texts are cheapest, and by which factor cheaper than in `one`; nothing where that
    /// is not known yet.
    fn best(&self, one: usize) -> Option<(usize, f64)> {
        let alone = self.cost(one)?;
        let known = (one..CLASSES).filter_map(|class| Some((class, self.cost(class)?)));
        let (best, cost) = known.min_by(|a, b| a.1.total_cmp(&b.1))?;
        Some((best, alone / cost.max(f64::MIN_POSITIVE)))
    }

    /// The next larger class that is to be looked at, if any: each up to [`LOOK`] above a single caller's, then as long
    /// as the largest that is known is the best.
    fn unknown(&self, one: usize) -> Option<usize> {
        let first = (one + 1..CLASSES).find(|class| self.cost(*class).is_none())?;
        let (best, _) = self.best(one)?;
        (first <= one + LOOK || first <= best + 1).then_some(first)
    }

    /// Whether a caller of this weight who comes while calls are under way shall wait and go with others.
    pub(super) fn gathers(&mut self, weight: usize) -> bool {
        if self.texts < 2 {
            return false;
        }
        let one = class(weight);
        let Some((_, gain)) = self.best(one) else { return self.joins };
        self.joins = gain >= if self.joins { JOIN_UNTIL } else { JOIN_FROM };
        self.joins || self.tries > 0
    }

    /// How much may leave now, where a caller of this weight is the first.
    pub(super) fn most(&mut self, weight: usize) -> Most {
        let one = class(weight);
        let best = self.best(one).map_or(one, |(best, _)| best);
        let mut most = Most { weight: heaviest(best), texts: self.texts, alone: false };
        if let Some(next) = self.unknown(one).filter(|_| self.tries > 0) {
            self.tries -= 1;
            most.weight = heaviest(next);
        } else if !self.joins {
            self.tries = self.tries.saturating_sub(1);
            most.weight = heaviest(one + LOOK);
        } else if self.calls >= LOOK_BESIDE {
            (self.calls, self.looks) = (0, self.looks + 1);
            match self.looks % 3 {
                0 => most.alone = true,
                1 => most.weight = heaviest(best + 1),
                _ => most.weight = heaviest(best.saturating_sub(1).max(one)),
            }
        }
        most.weight = most.weight.min(MOST_WEIGHT);
        most
    }

    /// How much a piece of an array has that is cut: the cheapest size where arrays gain; `None` where any is as good.
    pub(super) fn piece(&self, weight: usize) -> Option<usize> {
        let (best, gain) = self.best(class(weight))?;
        (gain >= JOIN_UNTIL).then(|| heaviest(best).min(MOST_WEIGHT))
    }

    /// The first pieces of an array, one for each replica, weigh this and have taken so long from its beginning on.
    pub(super) fn ended(&mut self, pieces: &[(usize, Duration)]) {
        let weights = pieces.iter().map(|(weight, _)| *weight);
        let (Some(lightest), Some(heaviest)) = (weights.clone().min(), weights.max()) else { return };
        let took = pieces.iter().map(|(_, took)| took.as_secs_f64());
        let (first, last) = took.fold((f64::INFINITY, 0.0), |(first, last), took| (took.min(first), took.max(last)));
        if last > 0.0 && lightest as f64 >= EQUAL * heaviest as f64 {
            self.apart.observe((last - first) / last);
        }
    }

    /// Whether a piece for each replica is enough, for all will end together: those of most arrays did, lately.
    pub(super) fn is_even(&self) -> bool {
        self.apart.median(1).is_some_and(|apart| apart <= EVEN)
    }

    /// How long it is, at least, until a caller of this weight is called for who comes now, and how long that call takes,
    /// where such a weight waits before him and so many calls are made at once. What is under way is not counted, for it is not
    /// known how soon it ends; nothing where it is not known what calls take.
    pub(super) fn expected(&self, weight: usize, before: usize, at_once: usize) -> Option<(Duration, Duration)> {
        let one = class(weight);
        let (best, _) = self.best(one)?;
        let (alone, cheapest) = (self.cost(one)?, self.cost(best)?);
        let call = heaviest(best).min(MOST_WEIGHT);
        let turns = before / call / at_once.max(1);
        // The rest of them goes along, and no call is quicker than his own would be.
        let own = (cheapest * (before % call + weight) as f64).max(alone * weight as f64);
        let turn = Duration::try_from_secs_f64(cheapest * (turns * call) as f64).ok()?;
        Some((turn, Duration::try_from_secs_f64(own).ok()?))
    }

    /// Most texts in a call.
    pub(super) fn texts(&self) -> usize {
        self.texts
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An engine that takes `fixed` and `each` for a unit of weight, and callers of this weight who always wait in plenty.
    fn driven(fixed: f64, each: f64, weight: usize, calls: usize) -> (Pace, Vec<usize>) {
        let (mut pace, mut sizes) = (Pace::default(), Vec::new());
        for _ in 0..calls {
            let most = if pace.gathers(weight) { pace.most(weight).weight } else { weight };
            let size = (most / weight).clamp(1, 64) * weight;
            pace.observe(size, Duration::from_secs_f64(fixed + each * size as f64));
            sizes.push(size / weight);
        }
        (pace, sizes)
    }

    proptest! {
        /// Whatever texts cost: n texts that take n times as long are not put together, but for the tries.
        #[test]
        fn what_gains_nothing_is_tried_seldom(each in 1e-6..1e-2f64, weight in 8..200usize) {
            let (mut pace, sizes) = driven(0.0, each, weight, 10_000);
            let arrays = sizes.iter().filter(|size| **size > 1).count();
            prop_assert!(arrays <= TRIES as usize + 10_000 / TRY_AGAIN as usize + 1, "{arrays}");
            prop_assert!(pace.tries > 0 || !pace.gathers(weight));
        }

        /// And where a call costs as much as sixteen callers' texts, nearly all go in arrays of which a text costs little
        /// more than it can.
        #[test]
        fn what_gains_is_put_together(each in 1e-6..1e-3f64, weight in 8..30usize) {
            let (mut pace, sizes) = driven(16.0 * each * weight as f64, each, weight, 2_000);
            prop_assert!(pace.gathers(weight));
            let late = &sizes[500..];
            let cost = |size: usize| 16.0 / size as f64 + 1.0;
            let mean = late.iter().map(|size| *size as f64 * cost(*size)).sum::<f64>() / late.iter().sum::<usize>() as f64;
            prop_assert!(mean <= 1.25 * cost(64), "{mean} against {}: {late:?}", cost(64));
        }

        /// Between the two thresholds it stays as it is.
        #[test]
        fn there_is_no_wavering(noise in prop::collection::vec(0.95..1.05f64, 400)) {
            let (mut pace, mut changes) = (Pace::default(), 0);
            for class in [3, 6] {
                (0..KEPT).for_each(|_| pace.classes[class].observe(if class == 3 { 1.35 } else { 1.0 }));
            }
            for joins in [false, true] {
                pace.joins = joins;
                for noise in &noise {
                    pace.classes[3].observe(1.35 * noise);
                    pace.classes[6].observe(1.0);
                    pace.gathers(8);
                    changes += usize::from(pace.joins != joins);
                }
            }
            prop_assert_eq!(changes, 0);
        }
    }

    #[test]
    fn a_refusal_is_not_believed_for_ever() {
        let mut pace = Pace::default();
        pace.refused(2);
        assert!(pace.texts() == 1 && !pace.gathers(8));
        for texts in [2, 4, 8] {
            (0..TRY_AGAIN).for_each(|_| pace.observe(8, Duration::from_millis(1)));
            assert_eq!(pace.texts(), texts);
        }
        (0..TRY_AGAIN - 1).for_each(|_| pace.observe(8, Duration::from_millis(1)));
        pace.refused(8);
        pace.observe(8, Duration::from_millis(1));
        assert_eq!(pace.texts(), 4, "it begins anew where it is right");
    }

    /// The pieces of an array that weigh the same and have taken so many milliseconds.
    fn spread(pace: &mut Pace, took: [u64; 2]) -> bool {
        pace.ended(&took.map(|millis| (100, Duration::from_millis(millis))));
        pace.is_even()
    }

    #[test]
    fn replicas_are_equally_quick_where_the_pieces_of_most_arrays_end_together() {
        let mut pace = Pace::default();
        assert!(!pace.is_even(), "that is not known yet");
        assert!(spread(&mut pace, [100, 91]));
        assert!(!spread(&mut pace, [100, 89]), "of two the worse counts");
        assert!(spread(&mut pace, [95, 100]));
        (0..4).for_each(|_| assert!(spread(&mut pace, [100, 100])));
        for _ in 0..20 {
            assert!(spread(&mut pace, [100, 900]), "one that is unlike the others changes nothing");
            (0..3).for_each(|_| assert!(spread(&mut pace, [100, 100])));
        }
        // Three of the last seven may have been so; a fourth is one too many.
        (0..5).for_each(|_| _ = spread(&mut pace, [100, 100]));
        let even: Vec<bool> = (0..5).map(|_| spread(&mut pace, [100, 50])).collect();
        assert_eq!(even, [true, true, true, false, false]);
        let even: Vec<bool> = (0..5).map(|_| spread(&mut pace, [100, 100])).collect();
        assert_eq!(even, [false, false, false, true, true]);
    }

    #[test]
    fn pieces_that_are_not_equal_say_nothing_of_replicas() {
        let mut pace = Pace::default();
        assert!(spread(&mut pace, [100, 100]));
        let (short, long) = (Duration::from_millis(20), Duration::from_millis(100));
        (0..9).for_each(|_| pace.ended(&[(160, long), (40, short)]));
        pace.ended(&[]);
        pace.ended(&[(100, Duration::ZERO); 2]);
        assert!(pace.is_even());
        (0..9).for_each(|_| pace.ended(&[(100, long), (95, short)]));
        assert!(!pace.is_even());
    }

    #[test]
    fn what_a_caller_must_wait_for_is_what_leaves_before_him() {
        let millis = |(turn, own): (Duration, Duration)| (turn.as_millis(), own.as_millis());
        let mut pace = Pace::default();
        assert_eq!(pace.expected(10, 0, 1), None, "nothing is known");
        // Of class 3: a text of ten, which takes 100 ms.
        (0..ENOUGH).for_each(|_| pace.observe(10, Duration::from_millis(100)));
        assert_eq!(pace.expected(10, 0, 1).map(millis), Some((0, 100)));
        assert_eq!(
            pace.expected(10, 30, 1).map(millis),
            Some((300, 100)),
            "two calls of fifteen, and of one he is a part"
        );
        assert_eq!(pace.expected(10, 30, 3).map(millis), Some((0, 100)), "three are made at once");
        // Of class 6: eight of them, which take 120 ms; as many as 127 may leave then.
        (0..ENOUGH).for_each(|_| pace.observe(80, Duration::from_millis(120)));
        assert_eq!(pace.expected(10, 0, 1).map(millis), Some((0, 100)), "not quicker than alone");
        assert_eq!(pace.expected(10, 110, 1).map(millis), Some((0, 180)), "he goes along");
        assert_eq!(pace.expected(10, 2 * 127 + 110, 1).map(millis), Some((381, 180)));
        assert_eq!(pace.expected(10, 2 * 127 + 110, 2).map(millis), Some((190, 180)));
        assert_eq!(pace.expected(1_000, 0, 1), None, "of such a weight nobody was alone yet");
    }

    #[test]
    fn a_load_in_between_changes_nothing() {
        let (mut pace, _) = driven(0.0, 1e-3, 10, 1_000);
        pace.tries = 0;
        (0..3).for_each(|_| pace.observe(10, Duration::from_secs(60)));
        assert!(!pace.gathers(10));
    }

    #[test]
    fn the_size_from_which_on_it_gets_dearer_is_not_gone_beyond() {
        // As llama.cpp on a processor: attention over all texts of a batch.
        let (mut pace, mut sizes) = (Pace::default(), Vec::new());
        for _ in 0..2_000 {
            let most = if pace.gathers(8) { pace.most(8).weight } else { 8 };
            let texts = (most / 8).clamp(1, 64);
            let took = 1e-3 + 1e-4 * texts as f64 + 1e-5 * (texts * texts) as f64;
            pace.observe(8 * texts, Duration::from_secs_f64(took));
            sizes.push(texts);
        }
        let best = sizes[500..].iter().filter(|texts| (7..=16).contains(*texts)).count();
        assert!(best > 1_400, "{best}: {:?}", &sizes[500..]);
    }

    #[test]
    fn what_is_refused_is_not_sent_again() {
        let mut pace = Pace::default();
        pace.refused(64);
        assert_eq!(pace.most(8).texts, 32);
        (0..9).for_each(|_| pace.refused(pace.texts()));
        assert!(pace.texts() == 1 && !pace.gathers(8));
    }
}
