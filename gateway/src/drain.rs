//! Replicas that somebody has taken out of service by hand: they get nothing new, and what they work on goes on to its
//! end. It holds through every table, until it is taken back or the gateway ends.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use tutti_api::ReplicaUrl;

use crate::table::Table;

/// What is wanted of a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// To get nothing new. `force`: also where it is the last that serves a model.
    Drain { force: bool },
    /// To serve again.
    Undrain,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    /// The replica's URL, in its one form.
    pub replica: String,
    /// Requests it works on.
    pub in_flight: u32,
}

/// Why a wish is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("{given:?} is no replica's URL: {why}; write http://host:port")]
    NoUrl { given: String, why: String },
    #[error("no pool has a replica at {url}; there are {}", .known.join(", "))]
    Unknown { url: String, known: Vec<String> },
    #[error(
        "{url} is the last replica that can be reached for {}: without it these models are not served; `--force` drains \
         it all the same", .models.join(", ")
    )]
    Last { url: String, models: Vec<String> },
    #[error("{0}")]
    Failed(String),
}

/// The replica of this table that is meant, in its one form.
pub(crate) fn meant(table: &Table, given: &str) -> Result<String, Refused> {
    let url: ReplicaUrl = given
        .parse()
        .map_err(|why: tutti_api::InvalidAddress| Refused::NoUrl { given: given.to_owned(), why: why.to_string() })?;
    let url = url.to_string();
    let known: BTreeSet<&str> =
        table.pools.iter().flat_map(|pool| &pool.replicas).map(|replica| &*replica.url).collect();
    if known.contains(&*url) {
        return Ok(url);
    }
    Err(Refused::Unknown { url, known: known.into_iter().map(str::to_owned).collect() })
}

/// Refuses to take away the last replica that serves a model and can be reached.
pub(crate) fn not_the_last(table: &Table, url: &str) -> Result<(), Refused> {
    let last = table.listed().iter().filter(|route| {
        let slots = route.target.slots();
        let health = &route.pool.owner.health;
        slots.iter().any(|slots| &*slots.replica.url == url)
            && !slots.iter().any(|slots| &*slots.replica.url != url && health.is_reachable(&slots.replica))
    });
    let models: Vec<String> = last.map(|route| route.served.model.to_string()).collect();
    if models.is_empty() { Ok(()) } else { Err(Refused::Last { url: url.to_owned(), models }) }
}

/// What a replica still has to do, in whatever pools it is.
pub(crate) fn drained(table: &Table, url: String) -> Drained {
    let at = table.pools.iter().flat_map(|pool| &pool.replicas).filter(|replica| *replica.url == *url);
    Drained { in_flight: at.map(|replica| replica.in_flight()).sum(), replica: url }
}
