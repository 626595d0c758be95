//! How many replicas the work wants. Pure.

/// How a pool stands, over all gateways.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stand {
    /// Requests that wait now.
    pub queued: u64,
    /// Requests that replicas work on now.
    pub in_flight: u64,
    /// Requests that waited or were worked on, as the mean of the last seconds.
    pub work: f64,
    /// How long the one has waited who waits longest. Unit: milliseconds.
    pub oldest_ms: u64,
    /// Slots that a replica has.
    pub slots_each: u32,
    /// Replicas that are known.
    pub replicas: u32,
    /// Those of them that can be given requests.
    pub ready: u32,
    /// The share of slots that shall be in use.
    pub target: f64,
    /// Replicas that there shall be at least, whatever the work.
    pub floor: u32,
    /// Replicas that releases under way need at least.
    pub release: u32,
    /// Replicas that there may be; 0: nobody says.
    pub most: u32,
    /// The P99 of the time to the first token over its SLO, of the model for which it is largest.
    pub guard: Option<f64>,
}

impl Stand {
    /// Requests that wait or are worked on now. Gateways say any number: it ends at the largest there is.
    pub fn requests(&self) -> u64 {
        self.queued.saturating_add(self.in_flight)
    }
}

/// A wait that is more than the gap between two requests: from here on who waits counts at once. Unit: milliseconds.
pub const WAITS_MS: u64 = 1_000;
/// The guard asks for so many times the replicas at most.
pub const GUARD_MOST: f64 = 2.0;

/// The terms of the answer: the largest of them is what is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Terms {
    /// By the work.
    pub work: f64,
    /// By the guard.
    pub guard: f64,
    /// By the floor.
    pub floor: f64,
    /// By the releases that are under way.
    pub release: f64,
}

/// What each reason asks for. `work / (slots · target)`: replicas so that of their slots the wanted share is in use. The
/// mean is used, so that a burst which is over is not paid for; but who waits for long, or for a pool without replicas,
/// counts at once. `ready · min(P99/SLO, 2)`, only while requests wait: latency alone oscillates, for it is measured when
/// a request is over, and says nothing where there are none.
pub fn terms(stand: &Stand) -> Terms {
    let now = stand.requests() as f64;
    let at_once = stand.queued > 0 && (stand.ready == 0 || stand.oldest_ms >= WAITS_MS);
    let work = if at_once { stand.work.max(now) } else { stand.work };
    let each = f64::from(stand.slots_each.max(1)) * stand.target.clamp(0.01, 1.0);
    let guard = match stand.guard {
        Some(guard) if stand.queued > 0 && guard > 1.0 => f64::from(stand.ready) * guard.min(GUARD_MOST),
        _ => 0.0,
    };
    Terms { work: work / each, guard, floor: f64::from(stand.floor), release: f64::from(stand.release) }
}

/// Replicas wanted, in thousandths as KEDA rounds them; no more than there may be.
pub fn wanted(stand: &Stand) -> f64 {
    let Terms { work, guard, floor, release } = terms(stand);
    let most = if stand.most == 0 { f64::INFINITY } else { f64::from(stand.most) };
    let wanted = work.max(guard).max(floor).max(release).min(most);
    (wanted * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 4 slots a replica, 80 % of which shall be in use.
    fn stand() -> Stand {
        Stand { slots_each: 4, target: 0.8, ready: 2, replicas: 2, ..Stand::default() }
    }

    #[test]
    fn the_numbers_of_the_guide() {
        assert_eq!(wanted(&Stand { in_flight: 8, work: 8.0, ..stand() }), 2.5);
        assert_eq!(wanted(&Stand { queued: 12, in_flight: 8, work: 9.0, oldest_ms: 3_000, ..stand() }), 6.25);
        assert_eq!(wanted(&Stand { queued: 12, in_flight: 8, work: 9.0, oldest_ms: 200, ..stand() }), 2.813, "a burst");
        assert_eq!(wanted(&Stand { queued: 1, work: 0.1, ready: 0, ..stand() }), 0.313, "from zero it counts at once");
        assert_eq!(wanted(&Stand { queued: 1, in_flight: 4, work: 4.0, guard: Some(1.6), ..stand() }), 3.2);
        assert_eq!(wanted(&Stand { queued: 1, in_flight: 4, work: 4.0, guard: Some(9.0), ..stand() }), 4.0);
        assert_eq!(wanted(&Stand { in_flight: 4, work: 4.0, guard: Some(9.0), ..stand() }), 1.25, "nobody waits");
        assert_eq!(wanted(&Stand { floor: 1, ..stand() }), 1.0);
        assert_eq!(wanted(&Stand { floor: 1, release: 3, ..stand() }), 3.0);
        assert_eq!(wanted(&Stand { release: 5, most: 4, ..stand() }), 4.0, "no more than there may be");
        assert_eq!(wanted(&Stand { work: 100.0, most: 3, ..stand() }), 3.0);
    }

    proptest! {
        #[test]
        fn more_work_never_wants_less(queued in 0..1000u64, in_flight in 0..1000u64, work in 0.0..1000.0f64, more in 0.0..100.0f64) {
            let less = Stand { queued, in_flight, work, oldest_ms: 2_000, ..stand() };
            let more = Stand { queued: queued + 1, work: work + more, ..less.clone() };
            prop_assert!(wanted(&more) >= wanted(&less));
            prop_assert!(wanted(&less).is_finite() && wanted(&less) >= 0.0);
        }
    }
}
