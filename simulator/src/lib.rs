//! A simulated Ollama: the scheduling, the wire shapes and the failures of version 0.11.4, without a model.
//!
//! It never pretends to be the real thing: its answers begin with "simulated answer from tutti" and its version
//! ends in `-simulated`. The [`engine`] decides with virtual time and does no I/O; [`wire`] reads and prints the two
//! dialects; [`Simulator::start`] puts sockets and a clock around them.

pub mod config;
pub mod engine;
pub mod faults;
pub mod records;
mod server;
mod store;
pub mod wire;

pub use config::{Config, Model, ModelKind};
pub use faults::{Fault, Scope};
pub use records::{Phase, Seen};
pub use server::{Running, Simulator};

/// What `GET /api/version` answers.
pub const VERSION: &str = "0.11.4-simulated";
/// The same of a replica that takes no adapters.
pub const LATER_VERSION: &str = "0.34.2-simulated";
