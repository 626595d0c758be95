//! Load generator, CPU accounting and peers side by side; `cargo xtask bench` calls it.
//!
//! Every number comes with its opponents of the same run: absolute times say little on a shared machine.

pub mod cpu;
pub mod gateway;
pub mod gone;
pub mod http;
pub mod load;
pub mod proxies;
pub mod report;
pub mod results;

pub use gateway::{GatewayBench, gateway};
pub use gone::{GoneBench, gone};
