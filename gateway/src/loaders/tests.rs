//! A gateway's words and leases with a loader, in simulated time: whatever is delayed, lost or changed, no request is ever on its
//! way to a name that the loader has taken from its engine.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::json;
use tutti_api::{EngineName, PoolSpec};

use super::leases::{Lease, TTL};
use super::told::{List, Told, Word};
use super::{Leasing, Reach};
use crate::registry::Registry;

const NAME: &str = "risk:v1-aaaaaaaaaaaa";
/// What the loader waits before it takes what nobody wants: its default. Unit: steps.
const RETIRE_AFTER: u64 = 60;
/// How long a lease lasts. Unit: steps.
const TTL_STEPS: u64 = TTL.as_secs() * 2;
/// How long an answer that does not come is waited for. Unit: steps.
const LATE: u64 = 10;

fn at(begun: Instant, step: u64) -> Instant {
    begun + Duration::from_millis(500) * u32::try_from(step).unwrap()
}

/// The loader, as its own tests have it.
#[derive(Debug)]
struct Loader {
    wanted: bool,
    has: bool,
    stays_until: u64,
    /// Whether the last lease has the name, and until when it lasts.
    lease: (bool, u64),
    /// When it has it again, once it is wanted again.
    brings_at: Option<u64>,
}

impl Loader {
    fn want(&mut self, wanted: bool, now: u64) {
        if self.wanted != wanted {
            self.wanted = wanted;
            self.stays_until = now + RETIRE_AFTER;
            self.brings_at = (wanted && !self.has).then_some(now + 5);
        }
    }

    fn turn(&mut self, now: u64) {
        let leased = self.lease.0 && now < self.lease.1;
        if !self.wanted && self.has && now >= self.stays_until && !leased {
            self.has = false;
        }
        if self.brings_at.is_some_and(|at| at <= now) {
            (self.has, self.brings_at) = (true, None);
        }
    }

    fn says(&self, version: u64) -> List {
        let phase = match (self.wanted, self.has) {
            (true, true) => Some("Ready"),
            (false, true) => Some("Retiring"),
            (true, false) => Some("Pending"),
            (false, false) => None,
        };
        let adapters: Vec<_> =
            phase.iter().map(|phase| json!({ "path": "risk/v1", "phase": phase, "engineName": NAME })).collect();
        let list = json!({ "instance": "i", "version": version, "adapters": adapters });
        List::read(list.to_string().as_bytes()).unwrap()
    }
}

/// What is on its way to the loader: whether the name is in it, when it is there, when its answer is back; `None`: never.
#[derive(Debug)]
struct Put {
    names: BTreeSet<EngineName>,
    sent: u64,
    arrives: Option<u64>,
    answered: Option<u64>,
}

#[derive(Debug)]
struct Gateway {
    told: Told,
    lease: Lease,
    wants: bool,
    /// Whether its table leads to the name.
    routes: bool,
    in_flight: u32,
    put: Option<Put>,
}

impl Gateway {
    /// As the control task builds a table.
    fn build(&mut self) {
        let word = self.told.word(&"risk/v1".parse().unwrap());
        self.routes = self.wants && matches!(word, Word::Serves(Some(_)));
    }

    /// As the lease's task looks: then the table is built anew, if requests go elsewhere now.
    fn look(&mut self, begun: Instant, now: u64, (delay, fate): (u64, u8)) {
        if self.put.is_some() {
            return;
        }
        let is_used = self.routes || self.in_flight > 0;
        let used: BTreeSet<EngineName> = is_used.then(|| NAME.parse().unwrap()).into_iter().collect();
        let asked = self.lease.ask(used, at(begun, now));
        if self.told.keeps(self.lease.promised(at(begun, now))) {
            self.build();
        }
        if let Some(names) = asked {
            let arrives = (fate != 1).then_some(now + delay);
            let answered = (fate == 0).then_some(now + 2 * delay);
            self.put = Some(Put { names, sent: now, arrives, answered });
        }
    }
}

/// What happens in a step: whether the loader, and the gateway, get another configuration; whether a request begins, and one
/// ends; how long words take, and what becomes of a lease: 0 it is taken, 1 it is lost, 2 its answer is.
type Step = (bool, bool, bool, bool, u64, u8);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let rarely = |weight: f64| proptest::bool::weighted(weight);
    let fate = prop_oneof![4 => Just(0_u8), 1 => Just(1), 1 => Just(2)];
    let step = (rarely(0.02), rarely(0.03), rarely(0.2), rarely(0.15), 0..6_u64, fate);
    proptest::collection::vec(step, 1..600)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, ..ProptestConfig::default() })]
    #[test]
    fn no_request_is_on_its_way_to_a_name_that_is_gone(steps in steps()) {
        let begun = Instant::now();
        let mut loader = Loader { wanted: true, has: true, stays_until: 0, lease: (false, 0), brings_at: None };
        let (told, lease) = (Told::default(), Lease::default());
        let mut gateway = Gateway { told, lease, wants: true, routes: false, in_flight: 0, put: None };
        let mut words: VecDeque<(u64, List)> = VecDeque::new();
        let mut lost = 0;
        for (now, (other, another, begins, ends, delay, fate)) in steps.into_iter().enumerate() {
            let now = now as u64;
            if other {
                loader.want(!loader.wanted, now);
            }
            loader.turn(now);
            // No more than two of its questions in a row come to nothing.
            let fate = if lost >= 2 { 0 } else { fate };
            let last = words.back().map_or(now, |(at, _)| *at);
            words.push_back((last.max(now + delay), loader.says(now + 2)));
            while let Some((_, list)) = words.pop_front_if(|(at, _)| *at <= now) {
                let Gateway { told, lease, .. } = &mut gateway;
                if told.hear(list, lease.promised(at(begun, now))) {
                    gateway.build();
                }
            }
            if another {
                gateway.wants = !gateway.wants;
                gateway.build();
            }
            if ends && gateway.in_flight > 0 {
                gateway.in_flight -= 1;
            }
            if begins && gateway.routes {
                gateway.in_flight += 1;
            }
            let was_put = gateway.put.is_some();
            gateway.look(begun, now, (delay, fate));
            if !was_put && gateway.put.is_some() {
                lost = if fate == 0 { 0 } else { lost + 1 };
            }
            if let Some(put) = &mut gateway.put {
                if put.arrives.take_if(|arrives| *arrives <= now).is_some() {
                    loader.lease = (!put.names.is_empty(), now + TTL_STEPS);
                }
                if put.answered.is_some_and(|answered| answered <= now) {
                    let Put { names, sent, .. } = gateway.put.take().unwrap();
                    gateway.lease.granted(names, at(begun, sent));
                } else if now >= put.sent + LATE.max(12) {
                    gateway.put = None;
                }
            }
            prop_assert!(loader.has || (!gateway.routes && gateway.in_flight == 0), "at {now}: {loader:?} {gateway:?}");
        }
    }

    #[test]
    fn what_nobody_uses_goes(requests in 0..5_u64) {
        let begun = Instant::now();
        let mut gateway = Gateway {
            told: Told::default(), lease: Lease::default(), wants: true, routes: false, in_flight: 0, put: None,
        };
        let mut loader = Loader { wanted: true, has: true, stays_until: 0, lease: (false, 0), brings_at: None };
        for now in 0..600 {
            if now == 10 {
                gateway.in_flight = 1;
                loader.want(false, now);
            }
            if now == 20 {
                gateway.wants = false;
            }
            if now == 100 + requests * 20 {
                prop_assert!(loader.has, "a request runs");
                gateway.in_flight = 0;
            }
            loader.turn(now);
            gateway.told.hear(loader.says(now + 2), gateway.lease.promised(at(begun, now)));
            gateway.build();
            gateway.look(begun, now, (0, 0));
            if let Some(Put { names, sent, .. }) = gateway.put.take() {
                loader.lease = (!names.is_empty(), now + TTL_STEPS);
                gateway.lease.granted(names, at(begun, sent));
            }
            if now == 105 + requests * 20 {
                prop_assert!(!loader.has, "the lease has ended");
            }
        }
    }
}

#[test]
fn a_loader_is_asked_for_what_all_pools_use_of_its_engine() {
    const HERE: &str = "http://127.0.0.1:1";
    let mut registry = Registry::default();
    let mut uses = |pool: &str, url: &str, name: &str| {
        let spec = PoolSpec { name: pool.to_owned(), ..PoolSpec::default() };
        let replica = registry.replica(&spec, url.parse().unwrap(), None).unwrap();
        (registry.target((pool, ""), std::slice::from_ref(&replica), name, 1, 1), replica)
    };
    let (_target, own) = uses("p", HERE, NAME);
    let _others = [
        uses("q", "http://127.0.0.1:1/", "risk:v2-bbbbbbbbbbbb"),
        uses("q", HERE, "base"),
        uses("q", "http://127.0.0.1:2", "risk:v3-cccccccccccc"),
    ];
    let leasing = Leasing {
        holder: "g".to_owned(),
        named: Weak::new(),
        replica: Arc::downgrade(&own),
        neighbours: registry.neighbours(&own.url),
        reach: Arc::new(Reach::new(HERE.parse().unwrap(), None, None).unwrap()),
        heard: Arc::default(),
        look: Arc::default(),
        news: Arc::default(),
    };
    let both: BTreeSet<EngineName> = BTreeSet::from([NAME, "risk:v2-bbbbbbbbbbbb"].map(|name| name.parse().unwrap()));
    assert_eq!(leasing.used(true), both);
    assert_eq!(leasing.used(false), BTreeSet::new(), "no request runs, and no table names it");
}
