//! Which failures a death explains.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;

/// When a replica was not there: from its kill until it listened again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Death {
    pub(super) replica: SocketAddr,
    pub(super) killed: Duration,
    pub(super) back: Duration,
}

/// A request that failed: when it began and ended, on the clock of the deaths.
#[derive(Debug, Clone, Copy)]
pub(super) struct Failed {
    pub(super) number: u64,
    pub(super) began: Duration,
    pub(super) ended: Duration,
}

/// What the gateway's log says of requests: the last replica each was sent to.
pub(super) fn replicas(log: &str) -> HashMap<u64, SocketAddr> {
    let of = |line: &str| {
        let line: Value = serde_json::from_str(line).ok()?;
        let number = line["request_id"].as_str()?.strip_prefix("bench-")?.parse().ok()?;
        Some((number, line["replica"].as_str()?.strip_prefix("http://")?.parse().ok()?))
    };
    log.lines().filter_map(of).collect()
}

/// Whether it failed on a replica that was killed, or was away, while it ran.
pub(super) fn explained(failed: &Failed, on: &HashMap<u64, SocketAddr>, deaths: &[Death]) -> bool {
    let Some(replica) = on.get(&failed.number) else { return false };
    deaths.iter().any(|death| death.replica == *replica && death.killed <= failed.ended && failed.began <= death.back)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_failure_is_explained_by_the_death_of_its_own_replica_in_its_own_time() {
        let (a, b) = ("127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap());
        let deaths = [Death { replica: a, killed: at(1000), back: at(1300) }];
        let on = HashMap::from([(1, a), (2, b)]);
        let explains =
            |number, began, ended| explained(&Failed { number, began: at(began), ended: at(ended) }, &on, &deaths);
        assert!(explains(1, 500, 1000), "it was there when it was killed");
        assert!(explains(1, 1200, 1250), "it came while it was away");
        assert!(!explains(1, 500, 900), "it failed before");
        assert!(!explains(1, 1400, 1500), "it came when it was back");
        assert!(!explains(2, 500, 1000), "it was on another");
        assert!(!explains(3, 500, 1000), "it was on none");
    }

    #[test]
    fn the_log_says_where_a_request_was() {
        let log = "{\"request_id\":\"bench-7\",\"replica\":\"http://127.0.0.1:9\"}\nnot json\n\
                   {\"request_id\":\"bench-8\"}\n{\"request_id\":\"other\",\"replica\":\"http://127.0.0.1:9\"}\n";
        assert_eq!(replicas(log), HashMap::from([(7, "127.0.0.1:9".parse().unwrap())]));
    }
}
