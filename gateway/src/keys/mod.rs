//! Keys: who may ask, for what, and how much.
//!
//! A key is a text that its holder has and nobody else: [`NewKey`]. The gateway keeps a file of hashes ([`Store`]
//! changes it, [`file`] reads it).

pub mod file;
mod secret;
mod store;

pub use secret::{NewKey, id_in};
pub use store::{Store, StoreError};
