//! Load generator, CPU accounting and peers side by side; `cargo xtask bench` calls it.
//!
//! Every number comes with its opponents of the same run: absolute times say little on a shared machine.

mod batching;
pub mod contender;
pub mod cpu;
mod deaths;
mod embeddings;
pub mod field;
mod fleet;
pub mod gateway;
mod gateways;
pub mod gone;
pub mod http;
pub mod load;
mod loader;
mod memory;
mod mix;
mod options;
mod own;
pub mod panels;
pub mod peers;
mod plot;
pub mod proxies;
mod release;
mod replica;
pub mod report;
pub mod results;
mod rounds;
mod signal;
mod soak;
mod streams;
mod target;
mod told;

pub use batching::{Adapters, BatchingBench, batching};
pub use deaths::{DeathsBench, deaths};
pub use embeddings::{EmbeddingsBench, Engines, embeddings};
pub use field::{FieldBench, field};
pub use fleet::{FleetBench, fleet};
pub use gateway::{GatewayBench, gateway};
pub use gateways::{GatewaysBench, gateways};
pub use gone::{GoneBench, gone};
pub use loader::{AWSCLI, Bucket, Engines as LoaderEngines, LoaderBench, Part as LoaderPart, loader};
pub use options::{Kept, ReplicaProgram, TuttiProgram};
pub use peers::Peer;
pub use release::{ReleaseBench, release};
pub use replica::Replica;
pub use results::print;
pub use rounds::{RoundsBench, rounds};
pub use signal::{SignalBench, signal};
pub use soak::{SoakBench, soak};
pub use streams::{StreamsBench, streams};
