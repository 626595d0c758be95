//! What gateways say to each other of themselves.

use serde::{Deserialize, Serialize};

/// Longest hello that is read. Unit: bytes.
pub(super) const MAX_HELLO: usize = 1 << 20;

/// A gateway's answer to a peer that looks whether it is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Hello {
    /// What it says of itself.
    pub(crate) own: Standing,
    /// What those say of themselves that it has heard itself within the last seconds.
    pub(crate) sees: Vec<Standing>,
}

/// How a gateway stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Standing {
    /// Its number: another at each start.
    pub(crate) id: Box<str>,
    /// It is about to end, and holds nothing where somebody else can.
    pub(crate) leaving: bool,
    /// It knows who is there. Before, it is nobody's candidate, and says nothing of pools.
    pub(crate) settled: bool,
    /// The pools that it has in its table and that one gateway schedules.
    pub(crate) pools: Vec<Claim>,
}

/// How a gateway stands to a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Claim {
    /// The pool's name.
    pub(crate) pool: Box<str>,
    /// It schedules the pool.
    pub(crate) holds: bool,
    /// The highest number of an ownership that it has heard of.
    pub(crate) epoch: u64,
    /// Requests that it has on the pool's replicas.
    pub(crate) in_flight: u32,
}

impl Standing {
    pub(super) fn claim(&self, pool: &str) -> Option<&Claim> {
        self.pools.iter().find(|claim| &*claim.pool == pool)
    }
}
