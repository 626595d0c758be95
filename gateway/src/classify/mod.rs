//! What a request asks for, from its head and one pass over its body.
//!
//! Pure: bytes in, [`Facts`] and [`Edits`] out. Nothing here knows which models exist.

mod api;
mod body;
mod edits;
mod pins;
mod rewrite;

pub use api::{Api, Ask, Dialect, ask, methods};
pub use body::{Facts, Reading, read};
pub use edits::Edits;
pub use pins::Pins;
pub(crate) use rewrite::LoadWith;
pub use rewrite::{Rewrite, Wanted};
