//! Which Pods are to be ended last when a Deployment gets smaller: those that work, and those that alone have weights in
//! memory which are in use. Kubernetes ends those first whose `pod-deletion-cost` is lowest (KEP-2255).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tutti_api::demand::Replica;

use crate::kubernetes;
use crate::scaler::Shared;

/// How often Pods are marked anew.
const EVERY: Duration = Duration::from_secs(10);
/// Most Pods that are looked at in a round; the others have their turn in the next. Unit: Pods.
const MAX_CHANGES: usize = 100;
/// What a replica that works costs.
const WORKS: i32 = 10;
/// What each group costs whose weights only this replica has in memory.
const SOLE: i32 = 1_000;
/// Most such groups that count.
const MAX_SOLE: u32 = 1_000;

/// What it costs to end each of these replicas, by its address; several gateways may tell of one.
pub fn costs<'r>(replicas: impl IntoIterator<Item = &'r Replica>) -> BTreeMap<IpAddr, i32> {
    let mut costs: BTreeMap<IpAddr, i32> = BTreeMap::new();
    for replica in replicas {
        let Ok(ip) = replica.ip.parse() else { continue };
        let sole = i32::try_from(replica.sole.min(MAX_SOLE)).unwrap_or(0) * SOLE;
        let cost = sole + if replica.in_flight > 0 { WORKS } else { 0 };
        let known = costs.entry(ip).or_insert(cost);
        *known = (*known).max(cost);
    }
    costs
}

/// Marks the Pods of this namespace, again and again.
pub(crate) async fn run(namespace: String, shared: Arc<Shared>) {
    let mut marked: BTreeMap<IpAddr, i32> = BTreeMap::new();
    let mut was_failing = false;
    loop {
        tokio::time::sleep(EVERY).await;
        let costs = costs(shared.fleet().replicas(Instant::now()));
        marked.retain(|ip, _| costs.contains_key(ip));
        let changed = costs.into_iter().filter(|(ip, cost)| marked.get(ip) != Some(cost));
        let mut failed = None;
        for (ip, cost) in changed.take(MAX_CHANGES).collect::<Vec<_>>() {
            match kubernetes::mark(&namespace, ip, cost).await {
                Ok(()) => drop(marked.insert(ip, cost)),
                Err(why) => failed = Some(why),
            }
        }
        if let Some(why) = failed.as_ref().filter(|_| !was_failing) {
            tracing::warn!(why, "Pods are not marked: any of them may be ended first");
        }
        was_failing = failed.is_some();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn replica(ip: &str, in_flight: u64, sole: u32) -> Replica {
        Replica { ip: ip.to_owned(), in_flight, sole }
    }

    #[test]
    fn the_idle_go_first_and_the_only_copy_last() {
        let replicas = [
            replica("10.0.0.1", 0, 0),
            replica("10.0.0.2", 3, 0),
            replica("10.0.0.3", 0, 1),
            replica("10.0.0.4", 1, 2),
            replica("a-name", 9, 9),
        ];
        let costs: Vec<i32> = costs(&replicas).into_values().collect();
        assert_eq!(costs, [0, 10, 1_000, 2_010]);
    }

    proptest! {
        /// However many gateways tell of it, and in whichever order: it costs what the most anxious says.
        #[test]
        fn the_order_of_words_is_no_matter(mut told in prop::collection::vec((0..3u8, 0..3u64, any::<u32>()), 0..9)) {
            let of = |told: &[(u8, u64, u32)]| {
                let replicas: Vec<Replica> = told.iter().map(|(ip, n, sole)| replica(&format!("10.0.0.{ip}"), *n, *sole)).collect();
                costs(&replicas)
            };
            let before = of(&told);
            told.reverse();
            prop_assert_eq!(&of(&told), &before);
            prop_assert!(before.values().all(|cost| *cost >= 0));
        }
    }
}
