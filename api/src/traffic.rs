//! Which revision serves a model, and how a change comes about. The words are those of Argo Rollouts.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::pool::word_or_duration;
use crate::{HumanDuration, Share};

/// Which revision serves.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct TrafficSpec {
    /// The revision that is wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// How the change to it comes about; absent: at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strategy: Option<StrategySpec>,
    /// The share of requests that the candidate also gets, without its answers going to anybody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror: Option<Share>,
    /// What keeps a client on one revision while weights change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sticky: Option<StickySpec>,
}

/// How a change of revision comes about: exactly one of `canary` and `blueGreen`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct StrategySpec {
    /// Step by step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanarySpec>,
    /// All at once, when the candidate has as many ready slots as the current revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blue_green: Option<BlueGreenSpec>,
    /// What becomes of the change where no replica serves the candidate any more. Until then its share goes to the
    /// current revision.
    pub on_lost_replicas: OnLost,
}

/// What becomes of a change whose candidate nobody serves any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum OnLost {
    /// It waits until somebody does.
    #[default]
    Pause,
    /// It ends, and the current revision stays.
    Rollback,
}

/// A change step by step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct CanarySpec {
    /// The steps, in order; after the last one the candidate has everything.
    pub steps: Vec<CanaryStep>,
    /// What ends the change where the candidate is worse.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub analysis: Option<AnalysisSpec>,
}

/// A step: exactly one of its fields.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct CanaryStep {
    /// The candidate gets this share of the requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set_weight: Option<Share>,
    /// Nothing changes for this long, or until somebody promotes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pause: Option<Pause>,
}

word_or_duration! {
    /// How long a step lasts.
    Pause, "until-promoted", UntilPromoted, /// Until somebody promotes the release.
}

/// A change all at once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct BlueGreenSpec {
    /// Whether the candidate takes over by itself once it is ready.
    pub auto_promotion_enabled: bool,
    /// How long the former revision stays ready after that.
    pub scale_down_delay: HumanDuration,
    /// What must hold before it takes over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pre_promotion_analysis: Option<AnalysisSpec>,
    /// What must hold after it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub post_promotion_analysis: Option<AnalysisSpec>,
}

impl Default for BlueGreenSpec {
    fn default() -> Self {
        Self {
            auto_promotion_enabled: true,
            scale_down_delay: HumanDuration::from_secs(30),
            pre_promotion_analysis: None,
            post_promotion_analysis: None,
        }
    }
}

/// The candidate beside the current revision, over the same time, by the engine's time alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct AnalysisSpec {
    /// How often it is judged.
    pub interval: HumanDuration,
    /// How often it must hold. Unit: judgements.
    pub count: u32,
    /// How often it may fail. Unit: judgements.
    pub failure_limit: u32,
    /// How often it may say neither; then the change waits until somebody decides. Unit: judgements.
    pub inconclusive_limit: u32,
    /// Fewer requests of either revision say nothing of times. Unit: requests.
    #[schemars(range(min = 1))]
    pub min_samples: u32,
    /// How much larger the candidate's share of errors may be.
    pub max_error_rate_increase: Share,
    /// How much longer the candidate's P99 may be, of the current one's.
    pub max_p99_increase: Share,
    /// The same of the P99 of the time to the first token, where answers are streams.
    pub max_ttft_increase: Share,
}

impl Default for AnalysisSpec {
    fn default() -> Self {
        Self {
            interval: HumanDuration::from_secs(30),
            count: 4,
            failure_limit: 0,
            inconclusive_limit: 10,
            min_samples: 500,
            max_error_rate_increase: Share::percent(1.0),
            max_p99_increase: Share::percent(20.0),
            max_ttft_increase: Share::percent(20.0),
        }
    }
}

/// What keeps a client on one revision: exactly one of its fields.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct StickySpec {
    /// The value of this header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// The client's key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<bool>,
    /// The client's tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<bool>,
}
