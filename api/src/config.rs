use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{GatewaySpec, ModelSpec, PoolSpec};

/// The whole of `tutti.yaml`. Every field has a default: without a file, tutti serves every model of the Ollama on this
/// machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// The gateway itself: where it listens, who may ask, what its limits are.
    pub gateway: GatewaySpec,
    /// The pools of replicas.
    pub pools: Vec<PoolSpec>,
    /// The models that clients name.
    pub models: Vec<ModelSpec>,
}
