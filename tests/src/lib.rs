//! What the end-to-end tests share: the binary `tutti` as a process, and a client that writes its bytes by hand.

mod certificate;
mod client;
mod clock;
mod disk;
mod dns;
mod driver;
mod faulty;
mod fleet;
mod grpc;
mod http2;
mod keyed;
mod lister;
mod load;
mod openid;
pub mod scaler;
pub mod scripts;
pub mod site;
mod store;
mod tutti;

pub use certificate::{Certificate, Files};
pub use client::{Answer, Client};
pub use clock::Clock;
pub use disk::{Disk, Full};
pub use dns::{Dns, Says};
pub use driver::Driver;
pub use faulty::{Fault, Faulty};
pub use fleet::{Authority, Fleet};
pub use grpc::{Called, Grpc};
pub use http2::Http2;
pub use keyed::{Keyed, id_of, with_keys};
pub use lister::Lister;
pub use load::{Load, Loaded, Where};
pub use openid::OpenId;
pub use site::{Loading, Site};
pub use store::{BUCKET, Store};
pub use tutti::{Finished, Tutti, binary, pool, run};

use std::time::{Duration, Instant};

use tutti_simulator::{Config, Model, Running, Seen, Simulator};

/// A simulated replica that takes no time, with the chat model `m` and the embedding model `e`.
pub fn simulator() -> Running {
    simulator_with(Config { models: vec![Model::chat("m", 1 << 20), Model::embedding("e", 1 << 20)], ..quick() })
}

/// What [`simulator`] is configured with, for tests that change some of it.
pub fn quick() -> Config {
    Config::quick(Model::chat("m", 1 << 20))
}

/// A simulated replica.
///
/// # Panics
/// Where it cannot listen.
pub fn simulator_with(config: Config) -> Running {
    Simulator::start(config).unwrap_or_else(|error| panic!("no simulated replica: {error}"))
}

/// What reached a replica at an inference path: not the gateway's own questions.
pub fn inference(seen: &[Seen]) -> Vec<Seen> {
    let is_own = |seen: &Seen| seen.path == "/api/show" && !seen.headers.iter().any(|(name, _)| name == "x-request-id");
    seen.iter().filter(|seen| seen.method == "POST" && !is_own(seen)).cloned().collect()
}

/// Waits until exactly `count` inference requests have reached the replica in full; yields them.
///
/// # Panics
/// Where they have not within [`PATIENCE`].
pub fn reached(replica: &Running, count: usize) -> Vec<Seen> {
    let found = replica.wait(PATIENCE, |seen| {
        let seen = inference(seen);
        let whole = seen.iter().all(|seen| seen.phase != tutti_simulator::Phase::Body);
        (seen.len() == count && whole).then_some(seen)
    });
    found.unwrap_or_else(|| panic!("{count} requests did not reach the replica: {:?}", replica.seen()))
}

/// Longest wait for something that must happen. A test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// Waits until `look` finds what it looks for.
///
/// # Panics
/// After [`PATIENCE`], naming what was waited for.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(2)); // between two looks: nothing tells us
    }
}
