//! Where an array is cut. Pure.

use std::ops::Range;

use super::pace::{MOST_WEIGHT, Pace};

/// Of what is left, what a round of pieces has, one for each replica: as much as this in sixteenths. What remains is cut
/// finer, so that all replicas end at about the same time, also one that is slower, or busy with others (factoring: Hummel,
/// Schonberg and Flynn 1992). A call costs an Ollama about as much as two short texts, so there are few rounds.
const ROUND: usize = 12;
/// All of it: where all replicas end together by themselves.
const ALL: usize = 16;
/// Fewest texts of a piece that is cut only to be spread.
const FEWEST: usize = 16;
/// And of one of the last round.
const LAST: usize = 8;

/// The pieces of an array whose texts weigh this, for so many replicas; one where it is better left whole.
pub(super) fn cut(weights: &[usize], replicas: usize, pace: &Pace) -> Vec<Range<usize>> {
    let total: usize = weights.iter().sum();
    let mean = total / weights.len().max(1);
    let texts = pace.texts();
    match pace.piece(mean) {
        None if replicas > 1 => rounds(weights, replicas, mean, (if pace.is_even() { ALL } else { ROUND }, texts)),
        best => {
            let most = best.unwrap_or(MOST_WEIGHT);
            let count = pieces(weights, |_| most, texts).len();
            // As many of about the same size: the last of them alone would be waited for.
            pieces(weights, |_| most, weights.len().div_ceil(count.max(1)).min(texts))
        }
    }
}

/// In rounds of as many equal pieces as there are replicas, each with so many sixteenths of what is left.
fn rounds(weights: &[usize], replicas: usize, mean: usize, (round, texts): (usize, usize)) -> Vec<Range<usize>> {
    let (mut given, mut share, mut is_last) = (0, 0, false);
    let piece = |left: usize| {
        if given % replicas == 0 {
            let even = left.div_ceil(replicas);
            let part = even * round / ALL;
            // A round that leaves too little for another is the last.
            is_last = part < FEWEST * mean || even - part < LAST * mean;
            let least = if given == 0 { FEWEST } else { LAST };
            share = if is_last { even.max(least * mean) } else { part };
        }
        given += 1;
        // And what its pieces left is no piece by itself.
        if is_last && given % replicas == 0 { MOST_WEIGHT } else { share.min(MOST_WEIGHT) }
    };
    pieces(weights, piece, texts)
}

/// From the front, as much as fits: `most` of what is left, and so many texts. A text that is heavier than a piece may be
/// is one by itself.
fn pieces(weights: &[usize], mut most: impl FnMut(usize) -> usize, texts: usize) -> Vec<Range<usize>> {
    let mut left: usize = weights.iter().sum();
    let (mut pieces, mut start, mut weight, mut limit) = (Vec::new(), 0, 0, most(left));
    for (at, one) in weights.iter().enumerate() {
        if at > start && (weight + one > limit || at - start >= texts) {
            pieces.push(start..at);
            left -= weight;
            (start, weight, limit) = (at, 0, most(left));
        }
        weight += one;
    }
    if start < weights.len() {
        pieces.push(start..weights.len());
    }
    pieces
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::pace::MOST_TEXTS;
    use super::*;

    proptest! {
        /// Every text is in one piece, in order, and no piece is too large.
        #[test]
        fn nothing_is_lost(weights in prop::collection::vec(8..40_000usize, 0..600), replicas in 1..9usize) {
            let pieces = cut(&weights, replicas, &Pace::default());
            let mut next = 0;
            for piece in &pieces {
                prop_assert!(piece.start == next && piece.end > next);
                next = piece.end;
                prop_assert!(piece.len() <= MOST_TEXTS);
                prop_assert!(piece.len() == 1 || weights[piece.clone()].iter().sum::<usize>() <= MOST_WEIGHT);
            }
            prop_assert_eq!(next, weights.len());
        }
    }

    #[test]
    fn a_small_array_stays_whole_and_a_large_one_has_pieces_for_all() {
        let pace = Pace::default();
        let sizes = |texts: usize, replicas| -> Vec<usize> {
            cut(&vec![10; texts], replicas, &pace).iter().map(ExactSizeIterator::len).collect()
        };
        assert_eq!((sizes(0, 2), sizes(1, 2), sizes(16, 2), sizes(256, 1)), (vec![], vec![1], vec![16], vec![256]));
        assert_eq!((sizes(32, 2), sizes(512, 1)), (vec![16, 16], vec![256, 256]));
        assert_eq!((sizes(48, 2), sizes(40, 3)), (vec![24, 24], vec![16, 16, 8]));
        assert_eq!(sizes(256, 2), [96, 96, 24, 24, 8, 8]);
        let mut pace = Pace::default();
        pace.ended(&[(128, Duration::from_secs(1)); 2]);
        let sizes = |texts: usize| -> Vec<usize> {
            cut(&vec![10; texts], 2, &pace).iter().map(ExactSizeIterator::len).collect()
        };
        assert_eq!((sizes(256), sizes(32), sizes(20)), (vec![128, 128], vec![16, 16], vec![16, 4]));
    }
}
