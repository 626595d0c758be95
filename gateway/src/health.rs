//! A replica that could not be reached is tried again until it can be.

use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::fetch;
use crate::replica::Replica;
use crate::schedule::Owner;

/// First pause before it is tried again; doubled each time.
const FIRST: Duration = Duration::from_millis(50);
/// Longest pause.
const LONGEST: Duration = Duration::from_secs(5);
/// How long a try may take.
const TRY: Duration = Duration::from_secs(2);

/// Tries the replica until it answers, whatever it answers, or until no table knows it any more.
pub(crate) async fn recover(pool: String, owner: Arc<Owner>, replica: Weak<Replica>) {
    let mut pause = FIRST;
    loop {
        tokio::time::sleep(pause).await;
        let Some(replica) = replica.upgrade() else { return };
        if fetch::get(&replica, "/api/version", TRY).await.is_ok() {
            replica.set_suspect(false);
            owner.changed(&replica);
            tracing::info!(pool, replica = &*replica.url, "replica is back");
            return;
        }
        pause = LONGEST.min(pause * 2);
    }
}
