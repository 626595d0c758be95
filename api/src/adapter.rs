//! Adapters: what their files say of themselves, what they are called, and what loaders and gateways tell each other.

mod manifest;
mod path;
mod state;

pub use manifest::{BaseRef, Digest, FileEntry, InvalidDigest, Kind, Manifest, ManifestProbe};
pub use path::{AdapterPath, InvalidPath};
pub use state::{AdapterList, AdapterState, Leases, Phase, ProbeRequest, ProbeResult, Quarantine, Reason};
