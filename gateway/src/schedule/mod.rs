//! Who goes to which replica, and when.
//!
//! [`core`] decides and is pure; [`word`] is the one atomic that lets a request pass without asking; [`owner`] is the
//! one task a pool that feeds events to the core and carries out its actions.

pub mod core;
mod owner;
mod share;
mod slots;
mod word;

pub use owner::{Owner, Permit, Place, Verdict};
pub use share::{Sharing, Terms};
pub use slots::{Slots, Target};
pub use word::View;
