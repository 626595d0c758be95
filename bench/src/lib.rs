//! Load generator, CPU accounting and peers side by side; `cargo xtask bench` calls it.
//!
//! Every number comes with its opponents of the same run: absolute times say little on a shared machine.

mod batching;
pub mod contender;
pub mod cpu;
mod deaths;
pub mod field;
pub mod gateway;
pub mod gone;
pub mod http;
pub mod load;
mod memory;
mod mix;
mod own;
pub mod peers;
mod plot;
pub mod proxies;
mod replica;
pub mod report;
pub mod results;
mod rounds;
mod soak;
mod streams;
mod target;
mod told;

pub use batching::{Adapters, BatchingBench, batching};
pub use deaths::{DeathsBench, deaths};
pub use field::{FieldBench, field};
pub use gateway::{GatewayBench, gateway};
pub use gone::{GoneBench, gone};
pub use peers::Peer;
pub use replica::Replica;
pub use results::print;
pub use rounds::{RoundsBench, rounds};
pub use soak::{SoakBench, soak};
pub use streams::{StreamsBench, streams};
