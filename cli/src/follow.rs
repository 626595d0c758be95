//! Follows the file that the configuration is in.

use std::path::PathBuf;

use tokio::signal::unix::Signal;
use tutti_api::Config;
use tutti_gateway::follow::Followed;

use crate::config::{self, MAX_FILE};

/// A regular file with a configuration.
pub(crate) struct File(Followed);

impl File {
    /// A file that held this text.
    pub(crate) fn new(path: PathBuf, text: String) -> Self {
        Self(Followed::new(path, Ok(text), MAX_FILE))
    }

    /// Waits until the file says something else; yields that, right or wrong. SIGHUP has it look at once.
    pub(crate) async fn changed(&mut self, hangup: &mut Signal) -> Result<Config, String> {
        let text = self.0.changed(async || _ = hangup.recv().await).await?;
        config::parse(&text, self.0.path()).map_err(|wrong| wrong.to_string())
    }
}
