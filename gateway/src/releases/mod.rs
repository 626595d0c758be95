//! Who decides which revision serves: a lone gateway itself, through restarts; where there are several, a driver beside
//! them, whose word they keep. Decisions are [`tutti_control_plane`]'s.

mod keeper;
mod kept;
mod led;
mod lone;
mod store;

use std::collections::HashMap;

use tutti_api::{ModelTraffic, TrafficWord};
use tutti_control_plane::{Command, Heard, Refused, Report, RevisionHeard};

pub(crate) use self::keeper::Keeper;
pub(crate) use self::led::{Led, NotTaken};
pub(crate) use self::lone::Lone;
pub(crate) use self::store::Store;
use crate::table::Table;

/// Who decides.
#[derive(Debug)]
pub(crate) enum Releases {
    /// This gateway.
    Lone(Box<Lone>),
    /// Another process.
    Led(Led),
}

impl Releases {
    /// What tables go by.
    pub(crate) fn traffic(&self) -> HashMap<Box<str>, ModelTraffic> {
        match self {
            Self::Lone(lone) => by_model(lone.word()),
            Self::Led(led) => led.word().cloned().map(by_model).unwrap_or_default(),
        }
    }
}

fn by_model(word: TrafficWord) -> HashMap<Box<str>, ModelTraffic> {
    word.models.into_iter().map(|of| (of.model.as_str().into(), of)).collect()
}

/// What this gateway tells of its models' revisions.
pub(crate) fn heard(table: &Table) -> Heard {
    let revisions = table.splits().map(|(model, split)| {
        let told = split.all.iter().map(|route| {
            let seen = route.served.counted.as_ref().map(|counted| counted.seen()).unwrap_or_default();
            (route.served.revision.to_string(), RevisionHeard { seen, ready: route.ready() })
        });
        (model.to_owned(), told.collect())
    });
    revisions.collect()
}

/// What somebody wants of a model's release.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) model: String,
    pub(crate) command: Command,
    /// Who.
    pub(crate) by: String,
}

/// Who obeys.
pub(crate) trait Releasing {
    /// Changes a model's release; resolves once every queue goes by it.
    fn release(&self, wish: Wish) -> impl Future<Output = Result<Report, Disobeyed>> + Send;

    /// Tells of a model's release.
    fn report(&self, model: String) -> impl Future<Output = Result<Report, Disobeyed>> + Send;
}

/// Why a wish is not obeyed.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Disobeyed {
    /// It is wrong.
    #[error("{0}")]
    Refused(#[from] Refused),
    /// Somebody else drives.
    #[error("another driver is at work: {0}")]
    Another(String),
    /// It is decided, and not every gateway goes by it.
    #[error("{0}")]
    Unacknowledged(String),
    /// It came to nothing.
    #[error("{0}")]
    Failed(String),
}
