//! The adapter-loader: beside each engine, it makes `s3://…/risk/v2/` become `risk:v2-<digest12>` on that Ollama: verified,
//! atomic, and proven to have an effect.

mod architecture;
pub mod base;
mod board;
pub mod convert;
mod engine;
pub mod fault;
pub mod fetch;
pub mod gguf;
mod identity;
mod loader;
pub mod manifest;
pub mod merge;
pub mod metrics;
pub mod pack;
mod pipeline;
pub mod preflight;
mod probe;
pub mod quant;
mod reconcile;
mod retry;
pub mod safetensors;
pub mod server;
pub mod source;
pub mod store;
pub mod transfer;
pub mod verify;
pub mod wanted;

pub use loader::{Loader, Options, StartError};
