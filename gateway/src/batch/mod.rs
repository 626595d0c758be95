//! Embeddings of several callers in one call, and one caller's array in several.
//!
//! What comes for the same model with the same options while a call of theirs is under way leaves together as the next
//! array; there is no timer, and a lone caller waits for nobody. Whether that gains anything, and how large an array
//! should be, is measured. An array that is worth it is cut and spread over the replicas. docs/batching.md has the rules.
//!
//! [`gather`] decides who leaves with whom, [`pace`] how much, [`cut`] where an array is cut; [`texts`] and [`share`] read
//! and print. All of these are pure. [`desk`] keeps them for a pool; `handle/embed.rs` makes the calls.

mod cut;
mod desk;
mod gather;
mod pace;
mod share;
mod texts;

pub(crate) use self::desk::{Arrived, Batch, Brought, Counts, Desk, Seat, Told, Waiting};
pub(crate) use self::gather::Key;
pub(crate) use self::share::{Rows, in_order, join, share};
pub(crate) use self::texts::Texts;
