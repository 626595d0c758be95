//! What was measured, kept as JSON and printed as `RESULTS.md`.

use std::fs;
use std::path::Path;

use anyhow::Context;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::gateway::GatewayResults;
use crate::gone::GoneResults;

/// Keeps a measurement in `folder/results/<name>.json` and prints `folder/RESULTS.md` from all that are there.
///
/// # Errors
/// A file cannot be read or written.
pub fn keep(folder: &Path, name: &str, results: &impl Serialize) -> anyhow::Result<()> {
    let results_folder = folder.join("results");
    fs::create_dir_all(&results_folder)?;
    let json = serde_json::to_string_pretty(results)? + "\n";
    fs::write(results_folder.join(name).with_extension("json"), json)?;
    let mut text = String::from(
        "# Results\n\nMade by the commands below and not edited by hand; the raw figures are in `results/`. Load, \
         replica and contenders share one machine, so only figures of one table can be compared.\n",
    );
    if let Some(gateway) = read::<GatewayResults>(&results_folder, "gateway")? {
        text += &gateway.markdown();
    }
    if let Some(gone) = read::<GoneResults>(&results_folder, "gone")? {
        text += &gone.markdown();
    }
    fs::write(folder.join("RESULTS.md"), text)?;
    Ok(())
}

fn read<T: DeserializeOwned>(folder: &Path, name: &str) -> anyhow::Result<Option<T>> {
    let file = folder.join(name).with_extension("json");
    match fs::read(&file) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).with_context(|| file.display().to_string())?)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| file.display().to_string()),
    }
}
