//! What a fleet is asked for: requests for adapters at times, the same for every policy of a seed.

use std::f64::consts::TAU;

use tutti_api::Priority;

/// A random sequence that a seed decides (xorshift64*, Vigna 2016).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// That of a seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Evenly from 0 to 1, without 1.
    pub(crate) fn share(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// One of so many.
    pub(crate) fn one_of(&mut self, many: usize) -> usize {
        (self.share() * many as f64) as usize
    }

    /// Until something that happens so often in a second happens the next time. Unit: seconds.
    pub(crate) fn gap(&mut self, rate: f64) -> f64 {
        -(1.0 - self.share()).ln() / rate
    }
}

/// How requests come over time, in the mean at one rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Shape {
    /// Each when it likes.
    Poisson,
    /// By day and night: from a fifth to nine fifths of the mean, in as many seconds.
    Diurnal(f64),
    /// A tenth of the time four times as many.
    Bursty,
}

impl Shape {
    /// How many times the mean rate, after so many seconds.
    fn factor(self, at: f64) -> f64 {
        match self {
            Self::Poisson => 1.0,
            Self::Diurnal(day) => 1.0 - 0.8 * (TAU * at / day).cos(),
            // 12 seconds of each 120 at four times the mean, the others at two thirds of it.
            Self::Bursty if at % 120.0 < 12.0 => 4.0,
            Self::Bursty => 2.0 / 3.0,
        }
    }

    fn most(self) -> f64 {
        match self {
            Self::Poisson => 1.0,
            Self::Diurnal(_) => 1.8,
            Self::Bursty => 4.0,
        }
    }
}

/// A request, before it has come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Wish {
    /// After how many seconds it comes.
    pub(crate) at: f64,
    /// For which adapter.
    pub(crate) adapter: usize,
    /// How soon it must be served among others.
    pub(crate) class: Priority,
}

/// The shares of adapters of which the nth is asked for as often as the first by a power of n.
pub(crate) fn zipf(adapters: usize, power: f64) -> Vec<f64> {
    let weights: Vec<f64> = (1..=adapters).map(|rank| (rank as f64).powf(-power)).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / sum).collect()
}

/// Requests for so many seconds, so many a second in the mean (a Poisson process, thinned where its rate changes).
pub(crate) fn wishes(shares: &[f64], shape: Shape, rate: f64, seconds: f64, seed: u64) -> Vec<Wish> {
    let mut random = Random::new(seed);
    let upto: Vec<f64> = shares
        .iter()
        .scan(0.0, |sum, share| {
            *sum += share;
            Some(*sum)
        })
        .collect();
    let mut wishes = Vec::new();
    let mut at = 0.0;
    loop {
        at += random.gap(rate * shape.most());
        if at >= seconds {
            return wishes;
        }
        if random.share() * shape.most() < shape.factor(at) {
            let pick = random.share();
            let adapter = upto.partition_point(|upto| *upto <= pick).min(shares.len() - 1);
            wishes.push(Wish { at, adapter, class: Priority::Normal });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_come_as_were_ordered_and_as_the_shares_say() {
        let shares = zipf(10, 1.0);
        for shape in [Shape::Poisson, Shape::Diurnal(600.0), Shape::Bursty] {
            let wishes = wishes(&shares, shape, 20.0, 1200.0, 3);
            let rate = wishes.len() as f64 / 1200.0;
            assert!((19.0..21.0).contains(&rate), "{shape:?}: {rate}");
            let first = wishes.iter().filter(|wish| wish.adapter == 0).count() as f64 / wishes.len() as f64;
            assert!((first - shares[0]).abs() < 0.02, "{shape:?}: {first}");
            assert!(wishes.is_sorted_by_key(|wish| wish.at));
        }
    }
}
