//! Replicas that somebody has taken out of service by hand: they get nothing new, and what they work on goes on to its
//! end. It holds through every table, until it is taken back, the gateway ends, or nobody has named the replica for
//! [`REMEMBERED`].

use std::collections::{BTreeSet, HashMap};
use std::sync::Weak;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tutti_api::ReplicaUrl;

use crate::table::Table;

/// How long a replica that nobody names any more is remembered as drained: longer than a Pod that fails its readiness
/// for a while, or a line that was taken out of a list by mistake, is away; not for ever, for what comes to that address
/// later is another replica.
pub(crate) const REMEMBERED: Duration = Duration::from_secs(300);

/// Who is drained. Pure: time is passed in.
#[derive(Debug, Default)]
pub struct Drains {
    /// By URL, in its one form; since when nobody has named it, where nobody does.
    unnamed_since: HashMap<Box<str>, Option<Instant>>,
}

impl Drains {
    /// Takes a replica out; whether it was in.
    pub(crate) fn insert(&mut self, url: &str) -> bool {
        let known = self.contains(url);
        self.unnamed_since.entry(url.into()).or_default();
        !known
    }

    /// Takes a replica back; whether it was out.
    pub(crate) fn remove(&mut self, url: &str) -> bool {
        self.unnamed_since.remove(url).is_some()
    }

    /// Whether a replica is out.
    pub(crate) fn contains(&self, url: &str) -> bool {
        self.unnamed_since.contains_key(url)
    }

    /// All who are out.
    pub(crate) fn urls(&self) -> Vec<Box<str>> {
        self.unnamed_since.keys().cloned().collect()
    }

    /// Takes note of who is named from now on.
    pub(crate) fn name(&mut self, is_named: impl Fn(&str) -> bool, now: Instant) {
        for (url, since) in &mut self.unnamed_since {
            *since = if is_named(url) { None } else { since.or(Some(now)) };
        }
    }

    /// Forgets those whom nobody has named for long enough; yields them.
    pub(crate) fn forget(&mut self, now: Instant) -> Vec<Box<str>> {
        let is_old =
            |since: &Option<Instant>| since.is_some_and(|since| now.saturating_duration_since(since) >= REMEMBERED);
        self.unnamed_since.extract_if(|_, since| is_old(since)).map(|(url, _)| url).collect()
    }
}

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

/// The replica that is meant, in its one form: one of this table, or one that is drained and may come back.
pub(crate) fn meant(table: &Table, drains: &Drains, given: &str) -> Result<String, Refused> {
    let url: ReplicaUrl = given
        .parse()
        .map_err(|why: tutti_api::InvalidAddress| Refused::NoUrl { given: given.to_owned(), why: why.to_string() })?;
    let url = url.to_string();
    let known: BTreeSet<&str> = table.replicas().map(|replica| &*replica.url).collect();
    if known.contains(&*url) || drains.contains(&url) {
        return Ok(url);
    }
    Err(Refused::Unknown { url, known: known.into_iter().map(str::to_owned).collect() })
}

/// Refuses to take away the last replica that serves a model and can be reached.
pub(crate) fn not_the_last(table: &Table, url: &str) -> Result<(), Refused> {
    let last = table.routed().iter().filter(|route| {
        let slots = route.target.slots();
        let health = &route.pool.owner.health;
        slots.iter().any(|slots| &*slots.replica.url == url)
            && !slots.iter().any(|slots| &*slots.replica.url != url && health.is_reachable(&slots.replica))
    });
    let mut models: Vec<String> = last.map(|route| route.served.model.to_string()).collect();
    models.dedup(); // several revisions of one
    if models.is_empty() { Ok(()) } else { Err(Refused::Last { url: url.to_owned(), models }) }
}

/// What a replica still has to do, in whatever pools it is or was.
pub(crate) fn drained(table: &Table, url: String) -> Drained {
    let all = table.replicas().cloned().chain(table.left.iter().filter_map(Weak::upgrade));
    Drained {
        in_flight: all.filter(|replica| *replica.url == *url).map(|replica| replica.in_flight()).sum(),
        replica: url,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_away_for_a_while_is_remembered_and_who_is_gone_is_not() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut drains = Drains::default();
        assert!(drains.insert("http://a:1") && drains.insert("http://b:1"));
        assert!(!drains.insert("http://a:1"), "it is out already");
        let only_b = |url: &str| url == "http://b:1";
        drains.name(only_b, at(0));
        assert_eq!(drains.forget(at(299)), <[Box<str>; 0]>::default());
        drains.name(|_| true, at(299));
        drains.name(only_b, at(300));
        drains.name(only_b, at(500)); // the table changes, and it is still away
        assert_eq!(drains.forget(at(599)), <[Box<str>; 0]>::default(), "it was back meanwhile");
        assert!(drains.contains("http://a:1"));
        assert_eq!(drains.forget(at(600)), ["http://a:1".into()]);
        assert!(!drains.contains("http://a:1") && drains.contains("http://b:1"));
        assert_eq!(drains.forget(at(1_000_000)), <[Box<str>; 0]>::default(), "who is named is never forgotten");
        assert!(drains.remove("http://b:1") && !drains.remove("http://b:1"));
    }
}
