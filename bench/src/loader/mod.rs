//! `cargo xtask bench loader`: how fast adapters come, beside the tools that people fetch them with. Each part is measured by
//! itself and kept beside the others.

mod arrival;
mod convert;
mod fetch;
mod site;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::ValueEnum as _;
use serde::{Deserialize, Serialize};

use crate::options::{Kept, TuttiProgram};
use crate::results::keep;
use arrival::Arrival;
pub use arrival::Engines;
use convert::Convert;
use fetch::Fetch;

/// Its figures' file.
const NAME: &str = "loader";

/// Options of the benchmark.
#[derive(Debug, Clone, clap::Args)]
pub struct LoaderBench {
    /// Size of the file that is fetched. Unit: MiB.
    #[arg(long, default_value_t = 1024)]
    pub mebibytes: u64,
    /// Width of the model that an adapter is converted for.
    #[arg(long, default_value_t = 4096)]
    pub width: u64,
    /// Its layers.
    #[arg(long, default_value_t = 32)]
    pub layers: u64,
    /// Rank of the large adapter that arrives: 25 KB each.
    #[arg(long, default_value_t = 4000)]
    pub rank: u64,
    /// Small adapters that arrive at once, of which three are broken.
    #[arg(long, default_value_t = 200)]
    pub adapters: usize,
    /// One part alone; the others' figures stay as they are.
    #[arg(long)]
    pub only: Option<Part>,
    /// Runs of each, in turn; the middle one counts.
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// The gateway.
    #[command(flatten)]
    pub tutti: TuttiProgram,
    /// Where its figures are kept.
    #[command(flatten)]
    pub kept: Kept,
}

/// What is measured by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// A large file from an object store.
    Fetch,
    /// An adapter verified, converted and merged.
    Convert,
    /// Adapters that arrive in the store, until they are served.
    Arrival,
}

/// An object store that is measured with, and who may use it.
#[derive(Debug, Clone)]
pub struct Bucket {
    /// Its address, `http://127.0.0.1:9000`.
    pub url: String,
    /// An empty bucket.
    pub name: String,
    /// The access key.
    pub key: String,
    /// Its secret.
    pub secret: String,
    /// What the store is.
    pub version: String,
    /// The folder that the packages of [`AWSCLI`] are installed in, where they are.
    pub awscli: Option<PathBuf>,
}

/// The packages that `aws s3 cp` is made of, for pip.
pub const AWSCLI: &str = include_str!("../../peers/awscli.txt");

/// What was measured, in parts.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct LoaderResults {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fetch: Option<Fetch>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    convert: Option<Convert>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    arrival: Option<Arrival>,
}

/// Runs the benchmark, prints its section and keeps it.
///
/// # Errors
/// The store does not take the file, or one of the tools does not fetch it whole.
pub fn loader(options: &LoaderBench, bucket: &Bucket, engines: &Engines) -> anyhow::Result<()> {
    let tutti = options.tutti.get()?;
    let mut results = kept(&options.kept.out)?;
    for part in Part::value_variants().iter().filter(|part| options.only.is_none_or(|only| only == **part)) {
        match part {
            Part::Fetch => results.fetch = Some(fetch::measure(options, bucket, &tutti)?),
            Part::Convert => results.convert = Some(convert::measure(options)?),
            Part::Arrival => results.arrival = Some(arrival::measure(options, bucket, engines, &tutti)?),
        }
        keep(&options.kept.out, NAME, &results)?; // also where the next one fails
    }
    println!("{}", results.markdown());
    Ok(())
}

/// What was kept of other parts.
fn kept(out: &Path) -> anyhow::Result<LoaderResults> {
    let file = out.join("results").join(NAME).with_extension("json");
    match fs::read(&file) {
        Ok(json) => serde_json::from_slice(&json).with_context(|| file.display().to_string()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(LoaderResults::default()),
        Err(error) => Err(error).with_context(|| file.display().to_string()),
    }
}

impl LoaderResults {
    /// The section of RESULTS.md.
    pub(crate) fn markdown(&self) -> String {
        let fetch = self.fetch.as_ref().map(Fetch::markdown);
        let (convert, arrival) =
            (self.convert.as_ref().map(Convert::markdown), self.arrival.as_ref().map(Arrival::markdown));
        fetch.into_iter().chain(convert).chain(arrival).collect()
    }
}
