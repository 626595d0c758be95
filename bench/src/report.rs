//! What was measured, kept as JSON and printed as `RESULTS.md`.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Context;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::accept::AcceptResults;
use crate::gateway::GatewayResults;
use crate::gone::GoneResults;

/// Where and how a measurement was taken.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Origin {
    /// The day, UTC.
    pub date: String,
    /// Cores, CPU model, kernel.
    pub machine: String,
    /// The command that makes it again.
    pub command: String,
    /// What each contender says its version is.
    pub versions: Vec<String>,
}

impl Origin {
    /// Here and today.
    pub fn here(command: String, versions: Vec<String>) -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or_default();
        let model = model.trim_start_matches([' ', '\t', ':']);
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let kernel = kernel.trim().split('-').next().unwrap_or_default().to_owned();
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let date = Command::new("date").args(["-u", "+%F"]).output().map(|o| o.stdout).unwrap_or_default();
        Origin {
            date: String::from_utf8_lossy(&date).trim().to_owned(),
            machine: format!("{cores} cores of {model}, Linux {kernel}, shared by load, replica and contender"),
            command,
            versions,
        }
    }
}

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
    if let Some(accept) = read::<AcceptResults>(&results_folder, "accept")? {
        text += &accept.markdown();
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

/// The section's head: title and origin.
pub(crate) fn heading(title: &str, origin: &Origin) -> String {
    let mut text = format!("\n## {title}\n\n`{}`, {}, {}.", origin.command, origin.date, origin.machine);
    if !origin.versions.is_empty() {
        let _ = write!(text, " Versions: {}.", origin.versions.join("; "));
    }
    text + "\n\n"
}

/// The middle value; of an even number the lower one of the two.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}

/// The median with the least and the greatest value.
pub(crate) fn spread(values: impl IntoIterator<Item = f64>) -> String {
    let all: Vec<f64> = values.into_iter().collect();
    let (least, most) = all.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, m), &v| (l.min(v), m.max(v)));
    format!("{} ({}–{})", short(median(all)), short(least), short(most))
}

/// Three digits or so.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        a if a >= 100.0 => format!("{value:.0}"),
        a if a >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0]), 1.0);
        assert!(median([]).is_nan());
        assert_eq!(spread([1.0, 123.4, 22.22]), "22.2 (1.00–123)");
    }
}
