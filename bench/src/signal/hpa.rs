//! The arithmetic of Kubernetes' HorizontalPodAutoscaler (kubernetes/pkg/controller/podautoscaler, 1.35), for one external
//! metric and the behaviour that it has where nobody writes one.

use std::collections::VecDeque;

/// How often it looks. Unit: seconds.
pub(super) const SYNC: f64 = 15.0;
/// Within so much of the target nothing changes. Unit: a share.
const TOLERANCE: f64 = 0.1;
/// The highest of what was wanted for so long is what it goes down to. Unit: seconds.
const DOWN_WINDOW: f64 = 300.0;
/// It goes up by so many at once, or to twice as many, whichever is more. Unit: replicas.
const UP_PODS: u32 = 4;

/// What a metric says.
#[derive(Clone, Copy, Debug)]
pub(super) enum Metric {
    /// Of the whole: so much a replica is wanted (`AverageValue`).
    AverageValue {
        /// What it is.
        value: f64,
        /// Of one replica.
        target: f64,
    },
    /// It is what it shall be, or more replicas are needed in proportion (`Value`, `Utilization`).
    Value {
        /// What it is.
        value: f64,
        /// What it shall be.
        target: f64,
    },
}

/// One autoscaler.
#[derive(Debug)]
pub(super) struct Hpa {
    least: u32,
    most: u32,
    wanted: VecDeque<(f64, u32)>,
}

impl Hpa {
    pub(super) fn new(least: u32, most: u32) -> Self {
        Self { least, most, wanted: VecDeque::new() }
    }

    /// How many replicas there shall be. `metric`: `None` is not known, and changes nothing.
    pub(super) fn decide(&mut self, now: f64, replicas: u32, metric: Option<Metric>) -> u32 {
        let Some(metric) = metric else { return replicas };
        let (ratio, proposed) = match metric {
            Metric::AverageValue { value, target } => (value / (target * f64::from(replicas)), value / target),
            Metric::Value { value, target } => (value / target, f64::from(replicas) * value / target),
        };
        let proposed = if (ratio - 1.0).abs() <= TOLERANCE { f64::from(replicas) } else { proposed.ceil() };
        let proposed = (proposed.min(f64::from(self.most)) as u32).max(self.least);
        self.wanted.push_back((now, proposed));
        while self.wanted.front().is_some_and(|(at, _)| *at <= now - DOWN_WINDOW) {
            self.wanted.pop_front();
        }
        let highest = self.wanted.iter().map(|(_, wanted)| *wanted).max().unwrap_or(proposed);
        let up = (replicas + UP_PODS).max(replicas * 2);
        if proposed > replicas { proposed.min(up) } else { highest.min(replicas) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_kubernetes_arithmetic() {
        let average = |value| Some(Metric::AverageValue { value, target: 1.0 });
        let mut hpa = Hpa::new(1, 100);
        assert_eq!(hpa.decide(0.0, 10, average(10.9)), 10, "within the tolerance");
        assert_eq!(hpa.decide(15.0, 10, average(11.1)), 12);
        assert_eq!(hpa.decide(30.0, 2, average(50.0)), 6, "by four at once");
        assert_eq!(hpa.decide(45.0, 10, average(50.0)), 20, "or to twice as many");
        assert_eq!(hpa.decide(60.0, 20, average(3.0)), 20, "50 were wanted within five minutes");
        assert_eq!(hpa.decide(400.0, 20, average(3.0)), 3);
        assert_eq!(hpa.decide(415.0, 20, None), 20);
        let mut hpa = Hpa::new(1, 100);
        assert_eq!(hpa.decide(0.0, 4, Some(Metric::Value { value: 3.0, target: 2.0 })), 6);
    }
}
