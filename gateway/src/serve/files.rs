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

/// Each client may need one more file to its replica, and a sixteenth is to spare. Connections to replicas that lie idle
/// are closed when files run out, so they need none of their own.
fn enough_for(files: Option<u64>) -> usize {
    let clients = |files: u64| (files.saturating_sub(OWN) / 32).saturating_mul(15).max(LEAST);
    files.map_or(usize::MAX, |files| usize::try_from(clients(files)).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_for_clients_replicas_and_ourselves() {
        assert_eq!(enough_for(None), usize::MAX);
        assert_eq!(enough_for(Some(1024)), 450);
        assert_eq!(enough_for(Some(20_000)), 9345);
        assert_eq!(enough_for(Some(64)), 16);
        assert_eq!(enough_for(Some(0)), 16);
    }
}
