//! What is simulated.

use std::time::Duration;

use tutti_gateway::schedule::core::Batching;

/// How many tenants share the adapters.
pub(crate) const TENANTS: usize = 20;

/// A fleet and what is asked of it.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// How many replicas, each with every adapter on its disk.
    pub(crate) replicas: usize,
    /// How many adapters of their one base.
    pub(crate) adapters: usize,
    /// How many tenants there are; adapters are theirs in turn.
    pub(crate) tenants: usize,
    /// Whether every replica has all adapters in memory at once; else one at a time.
    pub(crate) fixed: bool,
    /// Requests at once on a replica.
    pub(crate) slots: u16,
    /// What it takes to bring an adapter into memory.
    pub(crate) load: Duration,
    /// What a request takes, in the mean.
    pub(crate) service: Duration,
    /// Whether what requests take varies, evenly from a half of it to three halves, or is always the same.
    pub(crate) varies: bool,
    /// As many times as long as others take requests that nobody awaits.
    pub(crate) bulk: f64,
    /// How long a request may take in all to be of use.
    pub(crate) slo: Duration,
    /// Most requests that wait.
    pub(crate) queue: usize,
    /// How long a request waits at most.
    pub(crate) wait: Duration,
    /// Whether the gateway is told of the time that a request may take.
    pub(crate) deadlines: bool,
    /// Of so many clients one leaves while it waits, and when, in seconds after it asked.
    pub(crate) leaves: Option<(usize, f64)>,
    /// How groups take turns.
    pub(crate) batching: Batching,
    /// After how many seconds which replica dies, and for how long.
    pub(crate) deaths: Vec<(f64, u32, f64)>,
    /// So many clients ask again as soon as they have an answer, each for any adapter, until so many seconds are over.
    pub(crate) closed: Option<(usize, f64)>,
    /// For what is random beside the requests.
    pub(crate) seed: u64,
}

impl Plan {
    /// Whose an adapter is.
    pub(crate) fn tenant(&self, adapter: usize) -> usize {
        adapter % self.tenants.max(1)
    }

    /// Twenty replicas with two hundred adapters, of which a load takes more than two requests do.
    pub(crate) fn usual() -> Self {
        Self {
            replicas: 20,
            adapters: 200,
            tenants: TENANTS,
            fixed: false,
            slots: 1,
            load: Duration::from_secs(5),
            service: Duration::from_secs(2),
            varies: false,
            bulk: 1.0,
            slo: Duration::from_secs(15),
            queue: 100_000,
            wait: Duration::from_secs(30),
            deadlines: true,
            leaves: None,
            batching: Batching::default(),
            deaths: Vec::new(),
            closed: None,
            seed: 1,
        }
    }
}
