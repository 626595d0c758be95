//! The talk with a replica: a request out, an answer back, watched on its way to the client.

mod body;
mod event;
mod line;
mod outgoing;
mod passing;
mod reach;
mod translate;
mod vectors;
mod watch;
mod wire;

mod held;

pub use body::ResponseBody;
pub(crate) use body::{Idle, MAX_WHOLE, Source, Streaming, collect};
pub use event::Framing;
pub(crate) use event::loading_of_vectors;
pub(crate) use held::{First, Held, Served, Waits, first};
pub(crate) use line::{Line, NoHead, sweep};
pub(crate) use outgoing::Outgoing;
pub(crate) use passing::{Passing, now};
pub(crate) use reach::{prepare, reach};
pub(crate) use translate::Translator;
pub(crate) use vectors::in_base64;
pub(crate) use watch::{Broken, Watch};
