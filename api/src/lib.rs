//! What the parts of tutti agree on: specs, names, shapes; no I/O.

mod address;
mod check;
mod config;
#[cfg(all(test, feature = "kube"))]
mod crd;
mod engine_name;
mod gateway;
mod health;
mod keys;
mod load;
mod model;
mod overrides;
mod pool;
mod problem;
mod reference;
mod schema;
mod shape;
mod time;
mod traffic;
mod units;
mod yaml;

pub use address::{Address, InvalidAddress, ReplicaUrl, name_server};
pub use config::Config;
pub use engine_name::{EngineName, InvalidName, canonical};
pub use gateway::{
    AdminSpec, Auth, GatewaySpec, LimitsSpec, LogSpec, LoggedRequests, NoAuth, PeerSpec, PeerTlsSpec, TlsSpec,
};
pub use health::{HealthSpec, ProbeSpec};
pub use keys::{KeySpec, KeyState, KeysFile, Priority};
pub use load::{MAX_KEYS_TEXT, load, load_keys, search_path};
#[cfg(feature = "kube")]
pub use model::Model;
pub use model::{ModelSpec, RevisionSpec, SloSpec};
pub use overrides::ENV_PREFIX;
#[cfg(feature = "kube")]
pub use pool::Pool;
pub use pool::{
    AdaptersSpec, AutoOrDuration, BatchingSpec, Endpoint, Engine, Expose, KeepAlive, ManifestRule, MergeTo, PoolSpec,
    QueueSpec, RetriesSpec, RunnerSpec, ScaleSpec, Slots, Strategy, TimeoutsSpec,
};
pub use problem::Problem;
pub use reference::{keys_reference_markdown, reference_markdown};
pub use schema::{json_schema, keys_json_schema};
pub use time::{InvalidTime, Timestamp};
pub use traffic::{AnalysisSpec, BlueGreenSpec, CanarySpec, CanaryStep, Pause, StickySpec, StrategySpec, TrafficSpec};
pub use units::{ByteSize, HumanDuration, InvalidUnit, Share};
