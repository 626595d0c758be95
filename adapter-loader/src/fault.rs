//! Places in the code where a test ends the process as `kill -9` does: at and inside every step, so that whoever starts next
//! has to make do with what is there. Or where it has the process wait, while the test does something to what is around it; or
//! where the code panics, as a bug of its own would have it.
//!
//! They are always compiled in, and cost a comparison of a pointer: a build for tests alone would be another program.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use rustix::process::{Signal, getpid, kill_process};

/// The environment variable that names one of [`Point::ALL`].
pub const VARIABLE: &str = "TUTTI_FAULT_POINT";
/// The environment variable that names one, a colon, and a FIFO: who comes by there waits until the FIFO was written to and
/// closed, or is gone.
pub const WAIT: &str = "TUTTI_FAULT_WAIT";
/// The environment variable that names one, a colon, and a number: so many of those who come by there first panic.
pub const PANIC: &str = "TUTTI_FAULT_PANIC";

macro_rules! points {
    ($($id:ident $name:literal)*) => {
        /// A place in the code.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Point {
            $(
                #[doc = concat!("`", $name, "`")]
                $id,
            )*
        }

        impl Point {
            /// All of them, in the order in which an adapter comes by.
            pub const ALL: &[Self] = &[$(Self::$id),*];

            /// What it is called.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$id => $name,)*
                }
            }
        }
    };
}

points! {
    StartAfterLock "start.after_lock"
    StartAfterSweep "start.after_sweep"
    RecordBeforeRename "record.before_rename"
    RecordAfterRename "record.after_rename"
    ListAfter "list.after"
    FetchAfterManifest "fetch.after_manifest"
    FetchInPart "fetch.in_part"
    FetchAfterFile "fetch.after_file"
    FetchBeforeManifest "fetch.before_manifest"
    FetchBeforeRecord "fetch.before_record"
    FetchAfterRecord "fetch.after_record"
    VerifyBefore "verify.before"
    VerifyAfter "verify.after"
    ConvertBefore "convert.before"
    ConvertInTemp "convert.in_temp"
    PublishBeforeRename "publish.before_rename"
    PublishAfterRename "publish.after_rename"
    PublishAfterRecord "publish.after_record"
    PublishAfterClean "publish.after_clean"
    RegisterBefore "register.before"
    RegisterAfterBlob "register.after_blob"
    RegisterAfterCreate "register.after_create"
    ProbeBefore "probe.before"
    ProbeAfterAnswer "probe.after_answer"
    ProbeAfterRecord "probe.after_record"
    CopyBefore "copy.before"
    CopyAfterCopy "copy.after_copy"
    CopyAfterRecord "copy.after_record"
    CopyAfterDelete "copy.after_delete"
    AnnounceBefore "announce.before"
    BaseAfterFetch "base.after_fetch"
    BaseAfterBlob "base.after_blob"
    BaseAfterCreate "base.after_create"
    RetireBefore "retire.before"
    RetireAfterDelete "retire.after_delete"
    RetireAfterRecord "retire.after_record"
    EvictAfterArtefact "evict.after_artefact"
    EvictAfterRecord "evict.after_record"
}

/// Ends the process at once where [`VARIABLE`] names this place; waits where [`WAIT`] does, panics where [`PANIC`] does.
pub(crate) fn point(point: Point) {
    static NAMED: OnceLock<[Option<String>; 3]> = OnceLock::new();
    static PANICKED: AtomicUsize = AtomicUsize::new(0);
    let [ends, waits, panics] = NAMED.get_or_init(|| [VARIABLE, WAIT, PANIC].map(|name| std::env::var(name).ok()));
    if ends.as_deref() == Some(point.name()) {
        let _ = kill_process(getpid(), Signal::KILL);
        // The signal is on its way to all threads; this one does nothing more.
        loop {
            std::thread::park();
        }
    }
    // What is said of this place, where something is.
    let here = |named: &'static Option<String>| {
        named.as_deref().and_then(|named| named.split_once(':')).filter(|(name, _)| *name == point.name())
    };
    if let Some((_, fifo)) = here(waits) {
        let _ = std::fs::read(fifo); // one that is gone is the sign to go on
    }
    if let Some((name, times)) = here(panics)
        && times.parse::<usize>().is_ok_and(|times| PANICKED.fetch_add(1, Relaxed) < times)
    {
        panic!("a test has {name} break off");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_places_have_one_name() {
        let mut names: Vec<&str> = Point::ALL.iter().map(|point| point.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Point::ALL.len());
    }
}
