//! What the loader knows of a path, over every restart.

use serde::{Deserialize, Serialize};
use tutti_api::{AdapterPath, Digest, EngineName, Quarantine};

/// All that is known of a path.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The path.
    pub path: AdapterPath,
    /// Its files as they came, or as far as they have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetched: Option<Fetched>,
    /// What is on its way to the engine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<Made>,
    /// What the engine serves under its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served: Option<Made>,
    /// Why what lies there now does not serve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantine: Option<Judgement>,
    /// Names that served before, and go when no gateway has a lease on them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leaving: Vec<EngineName>,
    /// When it was last wanted or leased. Unit: seconds since 1970.
    #[serde(default)]
    pub used: u64,
}

/// Files of one content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fetched {
    /// Of the manifest.
    pub manifest: Digest,
    /// Of what was listed when they were fetched.
    pub seen: Digest,
    /// The folder that they lie in: a name in the store's `source`.
    pub folder: String,
    /// All files together. Unit: bytes.
    pub bytes: u64,
    /// Whether all are there, each proven to be what the manifest says.
    pub complete: bool,
}

/// Weights in the engine's form.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Made {
    /// Of all that makes them: the manifest, the base, how they are brought to the engine, and by which converter.
    pub identity: Digest,
    /// What the engine knows them by.
    pub engine_name: EngineName,
    /// Of the manifest.
    pub manifest: Digest,
    /// Of what was listed when they were made, or later found to say the same.
    pub seen: Digest,
    /// Of the base's weights.
    pub base: Digest,
    /// Whether they are a whole model, merged into the base.
    #[serde(default)]
    pub merged: bool,
    /// Of the artefact, which is also the name of its blob in an Ollama.
    pub blob: Digest,
    /// Of the artefact. Unit: bytes.
    pub bytes: u64,
    /// Whether the artefact is on the disk; else it went to make room, and the engine alone has it.
    pub on_disk: bool,
    /// What it must answer, from its manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<tutti_api::ManifestProbe>,
    /// The engine's digest of the model that answered its probe; absent before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proven: Option<String>,
    /// When they were made. Unit: seconds since 1970.
    #[serde(default)]
    pub made: u64,
}

/// A quarantine, and what it was judged on: nothing is fetched again until one of these is another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Judgement {
    /// Why.
    #[serde(flatten)]
    pub why: Quarantine,
    /// What was listed at the path.
    pub seen: Digest,
    /// The manifest's digest that was insisted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<Digest>,
    /// The base, where it was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Digest>,
    /// How it was to be brought to the engine, what it had to show, and by which converter.
    pub settings: Digest,
}

impl Record {
    /// A path of which nothing is known.
    pub fn new(path: AdapterPath) -> Self {
        Self { path, fetched: None, candidate: None, served: None, quarantine: None, leaving: Vec::new(), used: 0 }
    }

    /// Whether there is anything to remember.
    pub fn is_empty(&self) -> bool {
        *self == Self { used: self.used, ..Self::new(self.path.clone()) }
    }

    /// Gives the candidate up, and yields it. One that was proven may have its name in the engine: who is stopped between the copy
    /// and the record leaves it there, and nothing else tells of it. So it leaves as a name does that has served.
    pub(crate) fn give_up_candidate(&mut self) -> Option<Made> {
        let made = self.candidate.take()?;
        let serves = self.served.as_ref().is_some_and(|served| served.engine_name == made.engine_name);
        if made.proven.is_some() && !serves && !self.leaving.contains(&made.engine_name) {
            self.leaving.push(made.engine_name.clone());
        }
        Some(made)
    }

    /// The artefacts that it has on the disk.
    pub fn artefacts(&self) -> impl Iterator<Item = &Made> {
        self.served.iter().chain(&self.candidate).filter(|made| made.on_disk)
    }

    /// What it takes of the disk. Unit: bytes.
    pub fn bytes(&self) -> u64 {
        let mut artefacts: Vec<_> = self.artefacts().map(|made| (made.identity, made.bytes)).collect();
        artefacts.dedup(); // what is registered again is served and a candidate
        let fetched = self.fetched.as_ref().map_or(0, |fetched| fetched.bytes);
        artefacts.iter().map(|(_, bytes)| bytes).sum::<u64>() + fetched
    }
}
