//! What the parts of tutti agree on: specs, names, shapes; no I/O.

mod check;
mod config;
#[cfg(all(test, feature = "kube"))]
mod crd;
mod engine_name;
mod gateway;
mod load;
mod model;
mod pool;
mod problem;
mod reference;
mod traffic;
mod units;
mod yaml;

pub use config::Config;
pub use engine_name::{EngineName, InvalidName};
pub use gateway::{AdminSpec, Auth, GatewaySpec, LimitsSpec, NoAuth, PeerSpec, PeerTlsSpec, TlsSpec};
pub use load::{ENV_PREFIX, load, search_path};
#[cfg(feature = "kube")]
pub use model::Model;
pub use model::{ModelSpec, RevisionSpec, SloSpec};
#[cfg(feature = "kube")]
pub use pool::Pool;
pub use pool::{
    AdaptersSpec, AutoOrDuration, BatchingSpec, Endpoint, Engine, Expose, KeepAlive, ManifestRule, MergeTo, PoolSpec,
    QueueSpec, RetriesSpec, RunnerSpec, ScaleSpec, Slots, Strategy, TimeoutsSpec,
};
pub use problem::Problem;
pub use reference::{json_schema, reference_markdown};
pub use traffic::{AnalysisSpec, BlueGreenSpec, CanarySpec, CanaryStep, Pause, StickySpec, StrategySpec, TrafficSpec};
pub use units::{ByteSize, HumanDuration, InvalidUnit, Share};
