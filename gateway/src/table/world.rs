//! What is known of the world, beside what the configuration says.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_json::Value;
use tutti_api::{Config, ModelTraffic};

use crate::classify::Api;
use crate::discovery::{self, Found};
use crate::drain::Drains;
use crate::weights::Weights;

/// What a replica said it has, by its number; a replica that has not answered yet is missing.
pub type Catalog = HashMap<u64, Vec<Available>>;

/// What is known of the world, beside what the configuration says: what a table is built from.
#[derive(Debug, Default)]
pub struct World {
    /// Where the replicas are that the configuration does not name itself.
    pub found: Found,
    /// What the replicas have.
    pub catalog: Catalog,
    /// Which APIs that not every replica has they have, by their numbers; who has not said is missing.
    pub apis: HashMap<u64, Apis>,
    /// Those that get nothing new.
    pub drains: Drains,
    /// What requests go by, by model, as the driver of releases says.
    pub traffic: HashMap<Box<str>, ModelTraffic>,
    /// URLs at which this gateway itself answers: no replicas.
    pub ourselves: HashSet<Box<str>>,
}

impl World {
    /// Takes in what a replica said it has; what it did not say stays. Yields whether any of it is new.
    pub(crate) fn learn(&mut self, replica: u64, models: Option<Vec<Available>>, apis: Option<Apis>) -> bool {
        let models = models.filter(|models| self.catalog.get(&replica) != Some(models));
        let apis = apis.filter(|apis| self.apis.get(&replica) != Some(apis));
        let new = models.is_some() || apis.is_some();
        self.catalog.extend(models.map(|models| (replica, models)));
        self.apis.extend(apis.map(|apis| (replica, apis)));
        new
    }

    /// Forgets all replicas but these.
    pub(crate) fn keep(&mut self, known: &[u64]) {
        self.catalog.retain(|id, _| known.contains(id));
        self.apis.retain(|id, _| known.contains(id));
    }

    /// Forgets that somewhere was this gateway itself where nobody says any more that a replica is there.
    pub(crate) fn forget_ourselves(&mut self, config: &Config) {
        let located = config.pools.iter().filter_map(|spec| discovery::endpoints(spec, &self.found).ok()).flatten();
        let urls: HashSet<String> = located.map(|located| located.url.to_string()).collect();
        self.ourselves.retain(|url| urls.contains(&**url));
    }
}

/// The APIs that came with later versions of the engines: whether a replica has each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Apis {
    /// `/v1/responses`
    pub responses: bool,
    /// `/v1/messages`
    pub messages: bool,
}

impl Apis {
    /// Whether it has this one; the others every replica has.
    pub(super) fn has(self, api: Api) -> bool {
        match api {
            Api::OpenAiResponses => self.responses,
            Api::AnthropicMessages => self.messages,
            _ => true,
        }
    }
}

/// A model that a replica has.
#[derive(Clone, Debug, PartialEq)]
pub struct Available {
    /// Its name at the replica.
    pub name: String,
    /// Its entry in the replica's `/api/tags`.
    pub entry: Value,
    /// What it is made of, where the replica says.
    pub weights: Option<Arc<Weights>>,
}
