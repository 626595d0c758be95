//! The data plane: one request, from accepted socket to settled record.
//!
//! A request goes accept ([`serve`]) → classify ([`classify`]) → identify → admit → schedule ([`schedule`]) → exchange
//! ([`exchange`]) → settle ([`settle`]); [`handle`] calls the stages in this order. What they read is the [`table`],
//! which [`control`] builds and swaps.

mod adapters;
mod adjusted;
mod answers;
mod batch;
mod beginning;
mod budget;
mod calendar;
pub mod classify;
pub mod control;
mod credential;
mod crowding;
mod demand;
mod dialect;
pub mod discovery;
pub mod drain;
pub mod drive;
mod ending;
pub mod errors;
pub mod exchange;
mod fetch;
pub mod follow;
mod handle;
pub mod headers;
mod health;
mod identify;
mod intake;
mod inventory;
pub mod json;
pub mod keys;
pub mod limits;
pub mod loaders;
pub mod log;
pub mod metrics;
mod peer;
pub mod record;
pub mod registry;
mod releases;
mod rendezvous;
pub mod replica;
mod retry;
pub mod schedule;
pub mod serve;
pub mod settle;
pub mod shared;
pub mod status;
pub mod table;
pub mod tls;
mod traffic;
mod weights;

pub use serve::{Filter, Gateway, Levels, Options, Sockets, StartError};

/// A random number to start from.
pub(crate) fn random() -> u64 {
    getrandom::u64().unwrap_or_else(|_| u64::from(std::process::id()))
}
