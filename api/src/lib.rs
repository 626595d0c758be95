//! What the parts of tutti agree on: specs, names, shapes; no I/O.

mod adapter;
mod adapters;
mod address;
mod check;
mod config;
#[cfg(all(test, feature = "kube"))]
mod crd;
pub mod demand;
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
mod release;
mod schema;
mod shape;
mod time;
mod traffic;
mod units;
mod yaml;

pub use adapter::{
    AdapterList, AdapterPath, AdapterState, BaseRef, Digest, FileEntry, InvalidDigest, InvalidPath, Kind, Leases,
    Manifest, ManifestProbe, Phase, ProbeRequest, ProbeResult, Quarantine, Reason,
};
pub use adapters::{AdapterProbeSpec, AdaptersSpec, FetchSpec, ManifestRule, MergeTo, S3Spec, Strategy};
pub use address::{Address, InvalidAddress, LoaderAt, ReplicaUrl, name_server};
pub use config::Config;
pub use engine_name::{EngineName, InvalidName, canonical};
pub use gateway::{
    AdminSpec, Auth, GatewaySpec, LimitsSpec, LogSpec, LoggedRequests, MutualTlsSpec, NoAuth, PeerSpec, TlsSpec,
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
    AutoOrDuration, BatchingSpec, Endpoint, Engine, Expose, KeepAlive, PoolSpec, QueueSpec, RetriesSpec, RunnerSpec,
    ScaleSpec, Slots, TimeoutsSpec,
};
pub use problem::Problem;
pub use reference::{keys_reference_markdown, reference_markdown};
pub use release::{MirrorTo, ModelTraffic, RevisionWeight, TrafficWord, WHOLE};
pub use schema::{json_schema, keys_json_schema};
pub use time::{InvalidTime, Timestamp};
pub use traffic::{
    AnalysisSpec, BlueGreenSpec, CanarySpec, CanaryStep, OnLost, Pause, StickySpec, StrategySpec, TrafficSpec,
};
pub use units::{ByteSize, HumanDuration, InvalidUnit, Share};
