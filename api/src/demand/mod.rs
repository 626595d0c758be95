//! What gateways say of the work that they have: `GET /demand` on the ops port, as protobuf for machines and as JSON for
//! people.
//!
//! All times are of the gateway's own monotonic clock, counted from its start: whose clock is right does not matter.

mod sketch;
mod snapshot;
mod view;

pub use sketch::{BINS, Gathered, RELATIVE_ERROR, Sketch, bin, value};
pub use snapshot::{Misshapen, Name, Pool, Replica, Row, Slice, SliceRow, Snapshot};
pub use view::{FractionsView, PoolView, RowView, SnapshotView};

/// How a machine asks for it, and what it gets. Source: the media type that Prometheus and others have in use.
pub const PROTOBUF: &str = "application/x-protobuf";
/// The shape of a snapshot. One of another is refused.
pub const FORMAT: u32 = 1;
/// How long a slice is. Unit: milliseconds.
pub const SLICE_MS: u64 = 10_000;
/// Closed slices that a gateway keeps.
pub const SLICES: usize = 6;
/// The longest snapshot that is read. Unit: bytes.
pub const MAX_SNAPSHOT: usize = 32 << 20;
/// Most names in a snapshot: as many sets as a gateway's metrics have.
pub const MAX_NAMES: usize = 10_000;
