//! Logs: requests go to standard output, a line of JSON each; what the gateway says of itself goes to standard error,
//! through a filter that can be changed while it runs.

use std::fmt;
use std::io::IsTerminal;
use std::sync::{Arc, OnceLock};

use tracing_subscriber::EnvFilter;
use tutti_gateway::{Filter, Levels};

/// The filter where `TUTTI_LOG` says nothing.
const DEFAULT: &str = "info";

/// The log's filter.
struct Level {
    start: String,
    now: Box<dyn Fn() -> String + Send + Sync>,
    set: Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>,
}

static LEVEL: OnceLock<Arc<Level>> = OnceLock::new();

/// Starts both logs.
pub(crate) fn start() {
    tutti_gateway::log::start(std::io::stdout());
    let given = std::env::var("TUTTI_LOG").ok().filter(|given| !given.is_empty());
    let read = given.map(|given| parse(&given));
    let (filter, wrong) = match read {
        Some(Ok(filter)) => (filter, None),
        Some(Err(why)) => (EnvFilter::new(DEFAULT), Some(why)),
        None => (EnvFilter::new(DEFAULT), None),
    };
    let start = filter.to_string();
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Else it complains of a full disk on standard error, by a macro that panics where that is on the disk.
    let subscriber = subscriber.log_internal_errors(false);
    // Two formats are two types, so all of this stands here twice. Where a subscriber is set already, its owner wants it.
    macro_rules! install {
        ($subscriber:expr) => {{
            let subscriber = $subscriber.with_filter_reloading();
            let (now, set) = (subscriber.reload_handle(), subscriber.reload_handle());
            let level = Level {
                start,
                now: Box::new(move || now.with_current(EnvFilter::to_string).unwrap_or_default()),
                set: Box::new(move |filter| set.reload(filter).map_err(|error| error.to_string())),
            };
            if subscriber.try_init().is_ok() {
                let _ = LEVEL.set(Arc::new(level)); // the first, for there is one subscriber
            }
        }};
    }
    if std::io::stderr().is_terminal() {
        install!(subscriber.compact());
    } else {
        install!(subscriber.json());
    }
    if let Some(why) = wrong {
        tracing::warn!("TUTTI_LOG is no filter, so {DEFAULT} is in force: {why}");
    }
}

/// What changes the filter, once the logs are started.
pub(crate) fn levels() -> Option<Arc<dyn Levels>> {
    LEVEL.get().map(|level| level.clone() as Arc<dyn Levels>)
}

impl fmt::Debug for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Level").field("start", &self.start).finish_non_exhaustive()
    }
}

impl Levels for Level {
    fn filter(&self) -> Filter {
        Filter { filter: (self.now)(), start: self.start.clone() }
    }

    fn set(&self, filter: Option<&str>) -> Result<(), String> {
        (self.set)(parse(filter.unwrap_or(&self.start))?)?;
        tracing::info!(filter = (self.now)(), "the log's filter was changed");
        Ok(())
    }
}

/// Reads a filter. tracing takes a word that is no level for the name of a module of which all is wanted, and nothing
/// else: here that is a mistake in writing.
fn parse(filter: &str) -> Result<EnvFilter, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let directives: Vec<&str> = filter.split(',').map(str::trim).filter(|directive| !directive.is_empty()).collect();
    if directives.is_empty() {
        return Err(format!("it is empty: write one of {}", LEVELS.join(", ")));
    }
    for word in directives.iter().filter(|directive| !directive.contains(['=', '[', ':'])) {
        if !LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word)) {
            let levels = LEVELS.join(", ");
            return Err(format!("{word:?} is no level: write one of {levels}, or MODULE=LEVEL, with commas between"));
        }
    }
    EnvFilter::builder().parse(directives.join(",")).map_err(|error| format!("{filter:?}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read_as_they_are_meant() {
        for (given, kept) in [
            ("debug", "debug"),
            ("WARN", "warn"),
            (" info , tutti_gateway::serve=trace,", "tutti_gateway::serve=trace,info"),
            ("off,hyper=debug", "hyper=debug,off"),
        ] {
            assert_eq!(parse(given).map(|filter| filter.to_string()), Ok(kept.to_owned()), "{given}");
        }
        for (wrong, why) in [
            ("", "empty"),
            (" , ", "empty"),
            ("inof", "\"inof\" is no level: write one of off, error, warn, info, debug, trace"),
            ("info,tutti_gateway", "\"tutti_gateway\" is no level"),
            ("tutti_gateway=loud", "tutti_gateway=loud"),
        ] {
            let error = parse(wrong).err().unwrap_or_default();
            assert!(error.contains(why), "{wrong:?}: {error}");
        }
    }
}
