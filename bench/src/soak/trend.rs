//! Whether a quantity grows.

use serde::{Deserialize, Serialize};

/// A look at a process: after so many requests it had so many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) requests: u64,
    pub(crate) bytes: u64,
}

/// The later half of the samples, by requests.
pub(super) fn later_half(samples: &[Sample]) -> &[Sample] {
    let half = samples.last().map_or(0, |last| last.requests / 2);
    &samples[samples.partition_point(|sample| sample.requests < half)..]
}

/// Bytes a request by which the samples grow: the slope of the straight line that lies closest (least squares). `None`
/// where they do not say.
pub(super) fn slope(samples: &[Sample]) -> Option<f64> {
    let count = samples.len() as f64;
    let mean = |of: &dyn Fn(&Sample) -> f64| samples.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(&|s| s.requests as f64), mean(&|s| s.bytes as f64));
    let (mut both, mut square) = (0.0, 0.0);
    for sample in samples {
        let (dx, dy) = (sample.requests as f64 - x, sample.bytes as f64 - y);
        both += dx * dy;
        square += dx * dx;
    }
    (square > 0.0).then(|| both / square)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(from: u64, each: u64) -> Vec<Sample> {
        (0..=100).map(|n| Sample { requests: n * 1000, bytes: from + each * n * 1000 }).collect()
    }

    #[test]
    fn a_leak_has_the_slope_of_its_bytes_a_request() {
        assert_eq!(slope(&line(1 << 20, 32)), Some(32.0));
        assert_eq!(slope(&line(1 << 20, 0)), Some(0.0));
        assert_eq!(slope(&[]), None);
        assert_eq!(slope(&line(0, 1)[..1]), None, "one look says nothing");
    }

    #[test]
    fn noise_is_not_a_slope() {
        let noisy: Vec<Sample> = line(50 << 20, 0)
            .into_iter()
            .enumerate()
            .map(|(n, sample)| Sample { bytes: sample.bytes + (n as u64 * 7919 % 13) * 4096, ..sample })
            .collect();
        assert!(slope(&noisy).unwrap().abs() < 0.2, "{:?}", slope(&noisy));
    }

    #[test]
    fn the_warm_up_is_in_the_earlier_half() {
        let mut samples = line(1 << 20, 0);
        samples.iter_mut().take(40).for_each(|sample| sample.bytes = sample.requests);
        let later = later_half(&samples);
        assert_eq!((later[0].requests, later.len()), (50_000, 51));
        assert_eq!(slope(later), Some(0.0));
    }
}
