//! Where a lot falls. Pure.

use tutti_api::WHOLE;

/// 2^64 over the golden ratio: of its multiples the fractions of any run are spread as evenly as such a sequence can be
/// (Weyl; Knuth, The Art of Computer Programming 3, 6.4), and so are those of every second, third, n-th of them: a client
/// whose requests alternate does not have all of one kind fall on one side.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The lot of the `n`-th request.
pub(super) fn nth(n: u64) -> u64 {
    n.wrapping_add(1).wrapping_mul(GOLDEN)
}

/// The lot of a client in a release (the last steps of SplitMix64).
pub(super) fn salted(client: u64, salt: u64) -> u64 {
    let mixed = (client ^ salt).wrapping_add(GOLDEN);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// How a whole is parted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parts {
    weights: Vec<u32>,
    /// The last lot of each part.
    last: Vec<u64>,
}

impl Parts {
    /// Parts of [`WHOLE`], which they are together.
    pub(crate) fn of(weights: impl IntoIterator<Item = u32>) -> Self {
        let weights: Vec<u32> = weights.into_iter().collect();
        let mut sum = 0;
        let end = |weight: &u32| {
            sum += u128::from(*weight);
            let lots = (sum << 64) / u128::from(WHOLE);
            u64::try_from(lots.saturating_sub(1)).unwrap_or(u64::MAX)
        };
        Self { last: weights.iter().map(end).collect(), weights }
    }

    /// The part that a lot falls into.
    pub(crate) fn at(&self, lot: u64) -> usize {
        let has = |(at, last): &(usize, &u64)| lot <= **last && self.weights[*at] > 0;
        let found = self.last.iter().enumerate().find(has).map(|(at, _)| at);
        found.unwrap_or(self.last.len().saturating_sub(1))
    }

    /// A part.
    pub(crate) fn weight(&self, at: usize) -> u32 {
        self.weights.get(at).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        /// The bar: an error of at most 0.1 % over 10,000 requests, wherever the count stands, also of every n-th one.
        #[test]
        fn of_ten_thousand_each_gets_its_share_to_a_thousandth(
            start in any::<u64>(), stride in 1u64..50, a in 0u32..=WHOLE, b in 0u32..=WHOLE,
        ) {
            let (low, high) = (a.min(b), a.max(b));
            let weights = [low, high - low, WHOLE - high];
            let parts = Parts::of(weights);
            let mut got = [0u32; 3];
            for n in 0..10_000 {
                got[parts.at(nth(start.wrapping_add(n)))] += 1;
            }
            for (got, weight) in got.iter().zip(weights) {
                let error = f64::from(*got) / 1e4 - f64::from(weight) / f64::from(WHOLE);
                prop_assert!(error.abs() <= 0.001, "{:?} {:?}", got, weights);
            }
            let mut got = [0u32; 3];
            for n in 0..10_000 {
                got[parts.at(nth(start.wrapping_add(n * stride)))] += 1;
            }
            for (got, weight) in got.iter().zip(weights) {
                let error = f64::from(*got) / 1e4 - f64::from(weight) / f64::from(WHOLE);
                prop_assert!(error.abs() <= 0.01, "every {}th: {:?} {:?}", stride, got, weights);
            }
        }

        #[test]
        fn nobody_moves_back_while_weights_rise(client in any::<u64>(), salt in any::<u64>(), rises in prop::collection::vec(0u32..=WHOLE, 1..20)) {
            let mut rises = rises;
            rises.sort_unstable();
            let lot = salted(client, salt);
            let path: Vec<usize> = rises.iter().map(|weight| Parts::of([*weight, WHOLE - weight]).at(lot)).collect();
            prop_assert!(path.windows(2).all(|pair| pair[0] >= pair[1]), "{:?}", path);
        }

        #[test]
        fn what_has_nothing_gets_nothing(lot in any::<u64>(), at in 0usize..3) {
            let mut weights = [0; 3];
            weights[at] = WHOLE;
            prop_assert_eq!(Parts::of(weights).at(lot), at);
        }
    }

    #[test]
    fn clients_are_spread_by_weight_and_otherwise_in_each_release() {
        let parts = Parts::of([WHOLE / 10, WHOLE / 10 * 9]);
        let first =
            |salt: u64| (0..10_000u64).filter(|client| parts.at(salted(*client, salt)) == 0).collect::<Vec<_>>();
        let (one, other) = (first(1), first(2));
        assert!((900..1_100).contains(&one.len()) && (900..1_100).contains(&other.len()));
        let both = one.iter().filter(|client| other.contains(client)).count();
        assert!(both < 200, "{both} are the first in both releases");
    }
}
