//! What a loader and a gateway say to each other: one direction, the gateway asks.
//!
//! `GET /v1/adapters?since=<version>&wait=<seconds>` → [`AdapterList`], at once where its version is another, else when it
//! changes or the wait is over; whoever writes `wait` is taken for a gateway, which runs the probes that the list asks for. `PUT /v1/leases` ← [`Leases`]. `PUT /v1/probes/{engineName}` ← [`ProbeResult`].

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{AdapterPath, Digest, EngineName};

/// All that a loader has to say of its engine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AdapterList {
    /// Tells one run of the loader from the next.
    pub instance: String,
    /// Rises with every change within one run.
    pub version: u64,
    /// Those that models refer to, and those still there that no model refers to any more.
    pub adapters: Vec<AdapterState>,
}

/// An adapter, as one loader has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AdapterState {
    /// Its path below the pool's `adapters.from`.
    pub path: AdapterPath,
    /// What its engine knows it by; absent before its digest is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine_name: Option<String>,
    /// Of its manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// How far it is.
    pub phase: Phase,
    /// Why it is where it is, where there is something to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Quarantine>,
    /// On an engine that serves, what the pool's owner asks for the loader: in phase `Probing`, or in `Ready`, where weights
    /// that were made anew are to take the place of those that serve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<ProbeRequest>,
}

/// How far an adapter is. The words of Kubernetes: one of a Pod's phases, in its case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Phase {
    /// It waits for its turn, or for the object store.
    #[default]
    Pending,
    /// Its files are on the way.
    Fetching,
    /// Its files are looked at.
    Verifying,
    /// It is brought into the engine's form.
    Converting,
    /// The engine takes it, under a staging name.
    Registering,
    /// It must answer.
    Probing,
    /// It serves under its engine name.
    Ready,
    /// It does not serve, and will not as it is.
    Quarantined,
    /// No model wants it any more; it goes when the leases on it have ended.
    Retiring,
}

impl Phase {
    /// All of them, in order.
    pub const ALL: [Self; 9] = [
        Self::Pending,
        Self::Fetching,
        Self::Verifying,
        Self::Converting,
        Self::Registering,
        Self::Probing,
        Self::Ready,
        Self::Quarantined,
        Self::Retiring,
    ];
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Why an adapter is quarantined, or what it waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Quarantine {
    /// One word for programs.
    pub reason: Reason,
    /// For people: what, where, and what to do. Never a credential.
    pub message: String,
}

/// Why an adapter does not serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Reason {
    /// There is nothing at its path.
    NotFound,
    /// The object store does not answer, or refuses; it is asked again.
    SourceUnavailable,
    /// It has no manifest, or one that is none.
    InvalidManifest,
    /// A file is not what the manifest says.
    DigestMismatch,
    /// A spec names another digest than the manifest has.
    DigestRefused,
    /// Other content lies under a path that has served: a new version is a new path.
    RevisionChanged,
    /// A file is no such file: cut off, or its header lies.
    InvalidFile,
    /// It is for another base.
    WrongBase,
    /// It is more, or other, than a LoRA over linear layers: DoRA, `modules_to_save`, embeddings.
    Unsupported,
    /// A number in it is none (NaN), or infinite.
    NotFinite,
    /// It does not fit on the disk.
    NoSpace,
    /// The engine does not take it.
    EngineRefused,
    /// The engine does not answer; it is asked again.
    EngineUnavailable,
    /// It answers as its base does, or not at all.
    NoEffect,
    /// It does not answer what its manifest says.
    ProbeFailed,
    /// A step of the loader broke off, which is a bug of the loader's; it is tried again.
    LoaderBroke,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What to ask an engine for the loader beside it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProbeRequest {
    /// The name that the candidate gets once it is proven: the answer goes to `/v1/probes/{engineName}`.
    pub engine_name: EngineName,
    /// The name under which the engine has the candidate until it is proven.
    pub staging_name: EngineName,
    /// The base to ask the same, where its answer is not known yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// A body for `POST /api/chat` without `model`.
    pub request: Value,
}

/// What came of a probe.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProbeResult {
    /// The body of the candidate's answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<Value>,
    /// The body of the base's answer, where it was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Value>,
    /// What went wrong, where an answer is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Whether that is the engine's word: it refuses, and may again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub refused: bool,
    /// Whether it has refused more than once, at different times.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub again: bool,
}

/// The names that a gateway may still send requests for: they stay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Leases {
    /// Which gateway says so; its next lease takes the place of this one.
    pub holder: String,
    /// Engine names.
    pub names: Vec<EngineName>,
    /// How long they stay from now. Unit: milliseconds, at most 10 minutes.
    pub ttl_ms: u64,
}
