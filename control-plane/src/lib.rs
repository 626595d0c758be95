//! How a model's requests come to go to another of its revisions: what is decided, from what, and why. No sockets, no
//! files, no clock: those who drive releases (a lone gateway, a process beside several, a controller) hand in what they
//! know and the time, and carry out what is said.

mod analysis;
mod command;
mod driver;
mod evidence;
mod fleet;
mod mark;
mod release;
mod report;
mod statistics;
mod step;

pub use analysis::{FALSE_ALARMS, Looks, Verdict, WINDOWS, judge};
pub use command::{Command, How, Refused, command};
pub use driver::{Driver, Floor, State};
pub use evidence::{BUCKETS, Evidence, Heard, Histogram, Ready, Recent, RevisionHeard, Seen, bucket};
pub use fleet::Fleet;
pub use release::{Candidate, Entry, Former, MAX_HISTORY, Millis, Release, Stage, observe, spec_hash};
pub use report::{Figures, Report, Standing};
pub use step::step;
