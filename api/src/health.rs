//! When a replica is left alone, and how it comes back. The words are those of Envoy's outlier detection.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{HumanDuration, Share};

/// When a replica is ejected, that is, when the others of its pool go before it, and how it comes back. A replica that
/// cannot be reached is behind the others anyway, until it answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HealthSpec {
    /// Failures in a row that eject: of a replica that closes, is silent for too long, or answers 503, 429 or 401; of one
    /// model on it, where that answers another 5xx (a load that fails) or is not there.
    #[schemars(range(min = 1, max = 1000))]
    pub consecutive_failures: u32,
    /// How long it is ejected; doubled each time it fails again, up to a minute.
    pub base_ejection_time: HumanDuration,
    /// The share of the replicas of a model that may be ejected at once: one at least, unless it is `0%`, and never the
    /// last that can be reached. Where all fail, all are tried.
    pub max_ejection_percent: Share,
    /// A replica that is back gets one request at a time until one is answered; within this time it gets its other
    /// slots back, while others are well.
    pub slow_start: HumanDuration,
    /// A question of the gateway's own: can it still generate?
    pub probe: ProbeSpec,
}

/// A request for one token, where a replica has been silent: an Ollama can hang while its lists are as green as ever. It
/// takes a slot as any request, and is left out where none is free. Only a model that the replica holds in memory is
/// asked (Ollama's `/api/ps`), with the context length that it is loaded with, so that nothing is loaded for it; a model
/// for which clients set further options that make Ollama load it anew is not. Never where a pool has one replica.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ProbeSpec {
    /// How long a replica that has requests, or is ejected, may answer nothing before it is asked; `0s`: for ever.
    pub interval: HumanDuration,
    /// How long the token may take; then the replica is ejected until one comes, or it answers anything else.
    pub timeout: HumanDuration,
}

impl Default for HealthSpec {
    fn default() -> Self {
        Self {
            consecutive_failures: 3,
            base_ejection_time: HumanDuration::from_secs(1),
            max_ejection_percent: Share::percent(50.0),
            slow_start: HumanDuration::from_secs(10),
            probe: ProbeSpec::default(),
        }
    }
}

impl Default for ProbeSpec {
    fn default() -> Self {
        Self { interval: HumanDuration::from_secs(60), timeout: HumanDuration::from_secs(60) }
    }
}
