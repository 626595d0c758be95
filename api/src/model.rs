//! Models: the names that clients use. Also the spec of the custom resource `Model`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{HumanDuration, TrafficSpec};

/// A model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "kube", derive(kube::CustomResource))]
#[cfg_attr(feature = "kube", kube(group = "tutti.dev", version = "v1alpha1", kind = "Model", namespaced))]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ModelSpec {
    /// The name that clients use, once among all names and aliases. A custom resource has it from its metadata.
    pub name: String,
    /// Other names for it.
    pub aliases: Vec<String>,
    /// What it can be served by.
    pub revisions: Vec<RevisionSpec>,
    /// Which revision serves; absent: the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traffic: Option<TrafficSpec>,
    /// What its clients may expect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slo: Option<SloSpec>,
}

/// An immutable version of a model on a pool: exactly one of `adapter` and `upstream`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct RevisionSpec {
    /// Its name, once in the model.
    pub name: String,
    /// The pool that serves it.
    pub pool: String,
    /// An adapter, by its path below the pool's `adapters.from`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
    /// What the engine already has, by the engine's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    /// The sha256 of the adapter's manifest, as `sha256:…`; another content is not served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// What a model's clients may expect.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct SloSpec {
    /// Time to the first token, for 99 of 100 requests. Where it is missed while requests wait, pools with a `scale` grow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttft: Option<HumanDuration>,
    /// Time of a whole request, for 99 of 100. It is for alerts; it scales nothing, for it is as long as the answers are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99: Option<HumanDuration>,
}
