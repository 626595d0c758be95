//! How many files this process may have open, and how many connections of clients they are enough for.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files that are not for clients: ports, runtimes, those who look at metrics.
const OWN: u64 = 64;
/// Fewest connections that are accepted, however few files there may be.
const LEAST: u64 = 16;

/// Raises the limit on open files as far as this process may; yields how many connections of clients it is enough for.
pub(super) fn connections() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    enough_for(if raised.is_ok() { maximum } else { current })
}

/// Each client may need one more file to its replica; a third is for connections that lie idle, to replicas too.
fn enough_for(files: Option<u64>) -> usize {
    files.map_or(usize::MAX, |files| usize::try_from((files.saturating_sub(OWN) / 3).max(LEAST)).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_for_clients_replicas_and_ourselves() {
        assert_eq!(enough_for(None), usize::MAX);
        assert_eq!(enough_for(Some(1024)), 320);
        assert_eq!(enough_for(Some(64)), 16);
        assert_eq!(enough_for(Some(0)), 16);
    }
}
