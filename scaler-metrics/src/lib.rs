//! One truthful signal for a fleet of gateways.
//!
//! [`fleet`] merges what gateways say and is pure: what was heard, and the time, are handed in. [`wanted`] says how many
//! replicas that wants. Around them, [`discover`] finds the gateways, [`poll`] asks them, [`keda`] answers KEDA, and
//! [`server`] whoever asks by HTTP. It never answers 0 when it does not know.

mod discover;
pub mod fleet;
mod keda;
mod kubernetes;
pub mod metrics;
mod page;
mod poll;
mod scaler;
mod server;
pub mod spare;
pub mod wanted;

pub use discover::{InvalidService, Service, Where};
pub use scaler::{GrpcTls, Options, Scaler};
