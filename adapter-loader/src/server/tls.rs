//! TLS of the port, by files that somebody else follows.

use std::fmt;
use std::sync::Arc;

use tokio_rustls::rustls::ServerConfig;

/// What new connections are served by: asked for each, so that changed files count for the next one.
#[derive(Clone)]
pub struct Tls(Arc<dyn Fn() -> Arc<ServerConfig> + Send + Sync>);

impl Tls {
    /// By whatever this yields. It asks for certificates and takes who has none: for them are health and metrics.
    pub fn new(current: impl Fn() -> Arc<ServerConfig> + Send + Sync + 'static) -> Self {
        Self(Arc::new(current))
    }

    pub(super) fn current(&self) -> Arc<ServerConfig> {
        (self.0)()
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}
