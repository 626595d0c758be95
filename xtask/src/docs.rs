//! `cargo xtask docs`

use std::fs;

use anyhow::{Context, Result};

use crate::run::root;

/// The pages that are generated, and what of.
pub(crate) fn pages() -> Vec<(&'static str, String)> {
    vec![
        ("docs/reference/cli.md", tutti::reference_markdown()),
        ("docs/reference/config.md", tutti_api::reference_markdown()),
        ("docs/reference/keys.md", tutti_api::keys_reference_markdown()),
        ("docs/reference/errors.md", tutti_gateway::errors::reference_markdown()),
        ("docs/reference/headers.md", tutti_gateway::headers::reference_markdown()),
        ("docs/reference/log.md", tutti_gateway::log::reference_markdown()),
        ("docs/reference/metrics.md", metrics()),
    ]
}

/// The gateway's, the loader's and the scaler's.
fn metrics() -> String {
    [
        tutti_gateway::metrics::reference_markdown(),
        tutti_adapter_loader::metrics::reference_markdown(),
        tutti_scaler_metrics::metrics::reference_markdown(),
    ]
    .concat()
}

pub(crate) fn write() -> Result<()> {
    for (path, page) in pages() {
        let file = root().join(path);
        fs::create_dir_all(file.parent().unwrap_or(&file))?;
        fs::write(file, page).with_context(|| format!("cannot write {path}"))?;
        eprintln!("wrote {path}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generated_pages_are_current() {
        for (path, page) in pages() {
            let written = fs::read_to_string(root().join(path)).unwrap_or_default();
            assert!(written == page, "{path} is not current: run `cargo xtask docs`");
        }
    }
}
