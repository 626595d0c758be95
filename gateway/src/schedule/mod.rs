//! Who goes to which replica, and when.
//!
//! [`core`] decides and is pure; [`word`] is the one atomic that lets a request pass without asking; [`owner`] is the
//! one task a pool that feeds events to the core and carries out its actions.

mod cells;
pub mod core;
mod explain;
mod memory;
mod owner;
mod permit;
mod place;
mod share;
mod slots;
mod word;

pub use explain::{DecisionExplained, Explained, GroupExplained, Known, RunnerExplained};
pub use owner::{Owner, Verdict};
pub use permit::Permit;
pub use place::{Place, Ticket};
pub use share::{Mixed, Shared, Sharing, Terms};
pub use slots::{Slots, SlotsId, Target};
pub use word::View;
