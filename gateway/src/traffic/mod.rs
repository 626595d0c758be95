//! Which of a model's revisions gets a request: by weight, by what keeps its client where it was, or by its own word.
//!
//! A request draws a *lot* once. Lots of a counter are spread so evenly that of any 10,000 in a row each revision gets its
//! share to 0.1 %, whatever else comes and goes with a period of its own; lots of clients are hashes, salted by the
//! release. The candidate's lots come first: as its weight rises, whoever was sent to it stays, and a request that
//! chooses again for a new table falls where it fell before.

mod choice;
mod parts;
mod seen;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use http::HeaderName;
use tutti_api::{ModelSpec, ModelTraffic, RevisionWeight, StickySpec, WHOLE};

pub(crate) use self::choice::Choice;
pub(crate) use self::parts::Parts;
use self::parts::{nth, salted};
pub(crate) use self::seen::{Counted, MIRRORED, Mirrored};
use crate::errors::{Code, Failure};
use crate::table::Route;

/// What keeps a client on one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sticky {
    /// The value of this header.
    Header(HeaderName),
    /// The client's key.
    Key,
    /// The client's tenant.
    Tenant,
}

impl Sticky {
    /// As it is configured.
    pub(crate) fn of(spec: &StickySpec) -> Option<Self> {
        if let Some(header) = &spec.header {
            return header.parse().ok().map(Self::Header);
        }
        let key = (spec.key == Some(true)).then_some(Self::Key);
        key.or_else(|| (spec.tenant == Some(true)).then_some(Self::Tenant))
    }
}

/// How many requests for a model have drawn a lot; survives every table.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    requests: AtomicU64,
    mirrored: AtomicU64,
}

/// A model's revisions, and who gets which requests.
#[derive(Debug)]
pub(crate) struct Split {
    /// Those that get some, with their parts.
    pub(crate) routed: Vec<Arc<Route>>,
    /// All that there are: whoever names one waits in a line of its own, which no change of weights ends.
    pub(crate) all: Vec<Arc<Route>>,
    /// Who also gets some, and what part of [`WHOLE`].
    pub(crate) mirror: Option<(Arc<Route>, u32)>,
    pub(crate) parts: Parts,
    pub(crate) salt: u64,
    /// Of the word that this is by; 0: by none.
    pub(crate) generation: u64,
    /// The configuration says something else.
    pub(crate) overridden: bool,
    pub(crate) sticky: Option<Sticky>,
    pub(crate) turns: Arc<Turns>,
}

impl Split {
    /// Where a request goes.
    ///
    /// # Errors
    /// It names a revision that there is not.
    pub(crate) fn choose(&self, choice: &Choice) -> Result<&Arc<Route>, Failure> {
        if let Some(pin) = &choice.pin {
            return self.all.iter().find(|route| route.served.revision == *pin).ok_or_else(|| no_revision(pin));
        }
        let prefers = choice.prefers.as_ref();
        let preferred = prefers.and_then(|name| self.routed.iter().find(|route| route.served.revision == *name));
        if let Some(route) = preferred {
            return Ok(route);
        }
        let sticky = self.sticky.as_ref().and_then(|sticky| choice.kept_by(sticky));
        let lot = choice.lot(|| match sticky {
            Some(client) => salted(client, self.salt),
            None => nth(self.turns.requests.fetch_add(1, Relaxed)),
        });
        let at = self.parts.at(lot);
        self.routed.get(at).ok_or_else(|| Failure::new(Code::NoReplica, "no revision of this model gets requests"))
    }

    /// Who also gets this request, without anybody seeing the answer, if somebody does.
    pub(crate) fn mirrored(&self) -> Option<&Arc<Route>> {
        let (route, share) = self.mirror.as_ref()?;
        let lot = nth(self.turns.mirrored.fetch_add(1, Relaxed));
        let gets = Parts::of([*share, WHOLE - *share]).at(lot) == 0;
        gets.then_some(route).filter(|_| *share > 0)
    }

    /// What part of [`WHOLE`] a revision gets.
    pub(crate) fn weight(&self, revision: &str) -> u32 {
        let at = self.routed.iter().position(|route| *route.served.revision == *revision);
        at.map_or(0, |at| self.parts.weight(at))
    }
}

/// The refusal of a revision that there is not.
pub(crate) fn no_revision(name: &str) -> Failure {
    Failure::quoting(Code::RevisionNotFound, format!("the model has no revision {name:?}"))
}

/// Which revisions get how much: as the driver says where that fits the model, else as its stanza has it.
pub(crate) fn weights(model: &ModelSpec, said: Option<&ModelTraffic>) -> Vec<RevisionWeight> {
    let is_there = |name: &str| model.revisions.iter().any(|revision| revision.name == name);
    if let Some(said) = said {
        let sum: u64 = said.revisions.iter().map(|part| u64::from(part.weight)).sum();
        let known = said.revisions.iter().filter(|part| part.weight > 0 && is_there(&part.revision));
        let mut known: Vec<RevisionWeight> = known.cloned().collect();
        let (sound, there) = (sum == u64::from(WHOLE), known.iter().map(|part| part.weight).sum::<u32>());
        if let Some(most) = known.iter_mut().max_by_key(|part| part.weight).filter(|_| sound) {
            // One that only a newer configuration has is left to others: nobody goes back to what the stanza says meanwhile.
            most.weight += WHOLE - there;
            return known;
        }
    }
    let wanted = model.traffic.as_ref().and_then(|traffic| traffic.revision.as_deref());
    let wanted = wanted.filter(|name| is_there(name));
    let first = wanted.or_else(|| model.revisions.first().map(|revision| revision.name.as_str()));
    first.map(|name| RevisionWeight { revision: name.to_owned(), weight: WHOLE }).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(all: &[(&str, u32)]) -> Vec<RevisionWeight> {
        let part = |(name, percent): &(&str, u32)| RevisionWeight {
            revision: (*name).to_owned(),
            weight: percent * (WHOLE / 100),
        };
        all.iter().map(part).collect()
    }

    #[test]
    fn what_only_a_newer_configuration_has_is_left_to_others() {
        let yaml = "pools: [{ name: p, endpoints: [{ url: \"http://h:1\" }] }]\nmodels: [{ name: m, revisions: [{ name: v1, pool: p, upstream: a }, { name: v2, pool: p, upstream: b }], traffic: { revision: v2 } }]";
        let model = tutti_api::load(yaml, "t", []).unwrap().models.remove(0);
        let by = |said: &[(&str, u32)]| {
            let (model_name, revisions) = ("m".to_owned(), parts(said));
            let said =
                ModelTraffic { model: model_name, generation: 1, revisions, mirror: None, salt: 0, overridden: true };
            weights(&model, Some(&said))
        };
        assert_eq!(weights(&model, None), parts(&[("v2", 100)]));
        assert_eq!(by(&[("v1", 75), ("v2", 25)]), parts(&[("v1", 75), ("v2", 25)]));
        assert_eq!(by(&[("v3", 10), ("v1", 90)]), parts(&[("v1", 100)]), "not what the stanza says");
        assert_eq!(by(&[("v3", 40), ("v1", 40), ("v2", 20)]), parts(&[("v1", 80), ("v2", 20)]));
        assert_eq!(by(&[("v3", 100)]), parts(&[("v2", 100)]), "nothing else is known");
        assert_eq!(by(&[("v1", 10)]), parts(&[("v2", 100)]), "that is no whole");
    }
}
