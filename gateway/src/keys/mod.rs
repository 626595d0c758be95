//! Keys: who may ask, for what, and how much.
//!
//! A key is a text that its holder has and nobody else: [`NewKey`]. The gateway has a file of hashes ([`Store`] changes
//! it, [`file`] reads it). What is in force is a [`KeySet`], which every core reads without a lock; the [`Keyring`]
//! follows the file, and keeps what it had where the file says nothing that could be gone by.

pub mod file;
mod limits;
mod models;
mod rate;
mod ring;
mod secret;
mod set;
mod store;

pub(crate) use limits::AtOnce;
pub(crate) use ring::Opened;
pub use ring::{Keyring, KeysStatus};
pub use secret::{NewKey, id_in};
pub use set::{Counts, Key, KeySet};
pub use store::{Store, StoreError};
