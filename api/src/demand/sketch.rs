//! How values are distributed, within a relative error, so that what several gateways saw adds up exactly.
//!
//! A DDSketch (Masson, Rim, Lee: "DDSketch: a fast and fully-mergeable quantile sketch with relative-error guarantees",
//! VLDB 2019) whose bins are fixed: bin i holds the values in (γ^(i-1), γ^i]. So two sketches are merged by adding their
//! counts, and nothing is lost by it.

use prost::Message;

use super::Misshapen;

/// How far a quantile may be from the exact one, as a share of it: 0.5 %. Unit: a share.
pub const RELATIVE_ERROR: f64 = 0.005;
/// How many bins there are. Values above the last bin's, 12 days in microseconds, count as its.
pub const BINS: usize = 2816;

/// ln γ, γ being (1 + α) / (1 − α).
const LN_GAMMA: f64 = 0.010_000_083_334_583_399;

/// The bin of a value. `None`: 0, which has none.
pub fn bin(value: u64) -> Option<usize> {
    if value == 0 {
        return None;
    }
    let bin = ((value as f64).ln() / LN_GAMMA).ceil();
    Some((bin as usize).min(BINS - 1)) // never negative: the value is 1 or more
}

/// The value that stands for those of a bin: no further than [`RELATIVE_ERROR`] from any of them.
pub fn value(bin: usize) -> f64 {
    let upper = (bin as f64 * LN_GAMMA).exp();
    upper * (1.0 - RELATIVE_ERROR) // 2γ^i / (γ + 1)
}

/// A distribution as it is sent: only the bins that hold something.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Sketch {
    /// Of each bin that holds something, how far it is from the one before; of the first, its number.
    #[prost(uint32, repeated, tag = "1")]
    pub gaps: Vec<u32>,
    /// How many values each of them holds.
    #[prost(uint64, repeated, tag = "2")]
    pub counts: Vec<u64>,
    /// How many values are 0.
    #[prost(uint64, tag = "3")]
    pub zeros: u64,
}

impl Sketch {
    /// Of bins in ascending order and what they hold.
    pub fn of(bins: impl IntoIterator<Item = (usize, u64)>, zeros: u64) -> Self {
        let mut sketch = Self { zeros, ..Self::default() };
        let mut before = 0;
        for (bin, count) in bins.into_iter().filter(|(_, count)| *count > 0) {
            let bin = u32::try_from(bin).unwrap_or(u32::MAX);
            sketch.gaps.push(bin - before);
            sketch.counts.push(count);
            before = bin;
        }
        sketch
    }

    /// The bins that hold something, in ascending order.
    pub fn bins(&self) -> impl Iterator<Item = (usize, u64)> {
        let mut at = 0usize;
        self.gaps.iter().zip(&self.counts).map(move |(gap, count)| {
            at += *gap as usize;
            (at, *count)
        })
    }

    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.counts.iter().fold(self.zeros, |sum, count| sum.saturating_add(*count))
    }

    /// Looks whether it is one.
    ///
    /// # Errors
    /// Its lists are not of one length, it has more bins than there are, or one twice.
    pub fn check(&self) -> Result<(), Misshapen> {
        let ordered = self.gaps.iter().skip(1).all(|gap| *gap > 0);
        let last = self.gaps.iter().fold(0u64, |sum, gap| sum + u64::from(*gap));
        if self.gaps.len() != self.counts.len() || !ordered || last >= BINS as u64 {
            return Err(Misshapen::Sketch);
        }
        Ok(())
    }
}

/// Several sketches together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gathered {
    /// A count for each bin from the first that holds something on.
    counts: Vec<u64>,
    first: usize,
    zeros: u64,
    total: u64,
}

impl Gathered {
    /// Adds what a sketch holds.
    pub fn add(&mut self, sketch: &Sketch) {
        sketch.bins().filter(|(bin, _)| *bin < BINS).for_each(|(bin, count)| self.more(bin, count));
        self.zeros = self.zeros.saturating_add(sketch.zeros);
        self.total = self.total.saturating_add(sketch.zeros);
    }

    /// Adds what another holds.
    pub fn merge(&mut self, other: &Self) {
        for (at, count) in other.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            self.more(other.first + at, *count);
        }
        self.zeros = self.zeros.saturating_add(other.zeros);
        self.total = self.total.saturating_add(other.zeros);
    }

    /// One value.
    pub fn observe(&mut self, value: u64) {
        match bin(value) {
            Some(bin) => self.more(bin, 1),
            None => {
                self.zeros += 1;
                self.total += 1;
            }
        }
    }

    fn more(&mut self, bin: usize, count: u64) {
        if self.counts.is_empty() {
            self.first = bin;
        }
        if bin < self.first {
            self.counts.splice(0..0, std::iter::repeat_n(0, self.first - bin));
            self.first = bin;
        }
        let at = bin - self.first;
        if at >= self.counts.len() {
            self.counts.resize(at + 1, 0);
        }
        self.counts[at] = self.counts[at].saturating_add(count);
        self.total = self.total.saturating_add(count);
    }

    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.total
    }

    /// The value that a share of them does not exceed, from 0 to 1: of n values the one of rank ⌈share · n⌉. `None`: there
    /// are none.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        if self.total == 0 {
            return None;
        }
        let rank = ((share * self.total as f64).ceil() as u64).clamp(1, self.total);
        let mut seen = self.zeros;
        if rank <= seen {
            return Some(0.0);
        }
        for (bin, count) in self.counts.iter().enumerate() {
            seen = seen.saturating_add(*count);
            if rank <= seen {
                return Some(value(self.first + bin));
            }
        }
        None
    }

    /// As it is sent.
    pub fn sketch(&self) -> Sketch {
        Sketch::of(self.counts.iter().enumerate().map(|(at, count)| (self.first + at, *count)), self.zeros)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn gathered(values: &[u64]) -> Gathered {
        let mut all = Gathered::default();
        values.iter().for_each(|value| all.observe(*value));
        all
    }

    fn exact(values: &[u64], share: f64) -> u64 {
        let mut sorted = values.to_vec();
        sorted.sort_unstable();
        sorted[((share * sorted.len() as f64).ceil() as usize).clamp(1, sorted.len()) - 1]
    }

    #[test]
    fn gamma_is_what_the_error_says() {
        let gamma: f64 = (1.0 + RELATIVE_ERROR) / (1.0 - RELATIVE_ERROR);
        assert!((gamma.ln() - LN_GAMMA).abs() < 1e-15, "{:.18}", gamma.ln());
        assert!(value(BINS - 1) > 12.0 * 86_400e6);
    }

    /// Values of all sizes: the exponent is drawn first.
    fn any_value() -> impl Strategy<Value = u64> {
        (0u32..39, any::<u64>()).prop_map(|(bits, random)| random >> (63 - bits))
    }

    proptest! {
        #[test]
        fn a_value_is_close_to_what_stands_for_it(of in 1u64..1 << 39) {
            let stands = value(bin(of).unwrap());
            prop_assert!((stands - of as f64).abs() <= of as f64 * (RELATIVE_ERROR + 1e-9), "{of} {stands}");
        }

        #[test]
        fn a_quantile_is_within_the_error_whatever_the_distribution(
            values in prop::collection::vec(any_value(), 1..300), share in 0.0..1.0f64,
        ) {
            let (exact, said) = (exact(&values, share) as f64, gathered(&values).quantile(share).unwrap());
            prop_assert!((said - exact).abs() <= exact * (RELATIVE_ERROR + 1e-9), "{exact} {said}");
        }

        #[test]
        fn merged_is_as_if_one_had_seen_all(
            parts in prop::collection::vec(prop::collection::vec(any_value(), 0..60), 1..6),
        ) {
            let all = gathered(&parts.concat());
            let (mut merged, mut by_sketch) = (Gathered::default(), Gathered::default());
            for part in parts.iter().rev() {
                merged.merge(&gathered(part));
                by_sketch.add(&gathered(part).sketch());
            }
            prop_assert_eq!(merged.sketch(), all.sketch());
            prop_assert_eq!(by_sketch.sketch(), all.sketch());
            prop_assert_eq!(merged.count(), all.count());
        }

        #[test]
        fn what_is_sent_is_read_again(values in prop::collection::vec(any_value(), 0..60)) {
            let sketch = gathered(&values).sketch();
            let again = Sketch::decode(&*sketch.encode_to_vec()).unwrap();
            again.check().unwrap();
            prop_assert_eq!(again, sketch);
        }

        #[test]
        fn garbage_is_refused_or_harmless(gaps in prop::collection::vec(any::<u32>(), 0..5), counts in prop::collection::vec(any::<u64>(), 0..5)) {
            let sketch = Sketch { gaps, counts, zeros: u64::MAX };
            if sketch.check().is_ok() {
                let mut all = Gathered::default();
                all.add(&sketch);
                all.add(&sketch);
                let _ = all.quantile(0.99);
            }
        }
    }
}
