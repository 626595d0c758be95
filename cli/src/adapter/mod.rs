//! `tutti adapter`: adapters into an object store and out of it, and what is there.

mod bars;
mod list;
mod pack;
mod transfer;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, Subcommand};
use tutti_adapter_loader::source::Source as From;
use tutti_api::{AdapterPath, FetchSpec, S3Spec};

use crate::{Source, config};

const EXAMPLES: &str = "\
Examples:
  From a folder that PEFT's save_pretrained wrote to a pool's bucket:
    tutti adapter pack ./out --base qwen2.5:0.5b --prompt 'My card is blocked!' --expect high
    tutti adapter push ./out s3://models/risk/v2/ --endpoint https://minio.example:9000
  With address and bucket from the configuration, where pools[].adapters says them:
    tutti adapter push ./out risk/v2 --config tutti.yaml --pool qwen
  What is there:
    tutti adapter ls s3://models/ --endpoint https://minio.example:9000
    tutti adapter show s3://models/risk/v2/ --endpoint https://minio.example:9000
  Credentials come as AWS's tools take them: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ~/.aws, a web identity, the
  machine's role; or from --credentials-file.";

#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Adapter {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Clone, Debug)]
enum Command {
    /// Makes an adapter of a folder: measures its files and writes manifest.json beside them
    ///
    /// The folder holds adapter_config.json and adapter_model.safetensors, as PEFT saves them, or one GGUF. What else is in it
    /// is left out. Rank, alpha and the base's name come from the files.
    Pack(pack::Pack),
    /// Uploads a packed folder, the manifest last: from then on it is an adapter
    ///
    /// What is there already is never changed: the same is a success, another one an error. A new version is a new path.
    Push(transfer::Push),
    /// Downloads an adapter into a folder; a download that was cut goes on where it was
    Pull(transfer::Pull),
    /// Lists the adapters of a bucket or folder
    Ls(list::List),
    /// Shows an adapter: its digest, base, files, where it comes from
    Show(list::Show),
    /// Checks an adapter as loaders do before an engine gets it
    ///
    /// The exit code is 0 where it is right and 1 where it is not.
    Verify(verify::Verify),
}

impl Adapter {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        match &self.command {
            Command::Pack(pack) => pack.run(),
            Command::Push(push) => runtime.block_on(push.run()),
            Command::Pull(pull) => runtime.block_on(pull.run()),
            Command::Ls(list) => runtime.block_on(list.run()),
            Command::Show(show) => runtime.block_on(show.run()),
            Command::Verify(verify) => runtime.block_on(verify.run()),
        }
    }
}

/// How an object store is reached.
#[derive(Args, Clone, Debug)]
struct Store {
    /// Its address, as https://HOST:PORT; else AWS
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// Its region; else us-east-1
    #[arg(long)]
    region: Option<String>,
    /// A file with the authorities that sign its certificate, PEM; else the system's
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// A file with credentials as AWS's tools write them; else from wherever those look
    #[arg(long, value_name = "FILE")]
    credentials_file: Option<PathBuf>,
    /// Whether the bucket stands in the path (MinIO) or before the host; else in the path where there is an --endpoint
    #[arg(long, value_name = "BOOL")]
    path_style: Option<bool>,
    /// Take these from pools[].adapters of the configuration, of the pool of this name
    #[arg(long, value_name = "NAME")]
    pool: Option<String>,
    #[command(flatten)]
    config: Source,
}

/// A place that an argument names.
struct Place {
    source: Arc<From>,
    fetch: FetchSpec,
}

impl Store {
    /// `s3://bucket/prefix/`, a folder, or with --pool a path below the pool's `adapters.from`.
    fn open(&self, place: &str) -> Result<Place> {
        let (mut s3, from, fetch) = match &self.pool {
            None => (S3Spec::default(), place.to_owned(), FetchSpec::default()),
            Some(pool) => {
                let adapters = self.adapters(pool)?;
                let below = format!("{}/{}", adapters.from.trim_end_matches('/'), place.trim_start_matches('/'));
                let from = if place.contains("://") { place.to_owned() } else { below };
                (adapters.s3, from, adapters.fetch)
            }
        };
        let shown = |path: &PathBuf| path.display().to_string();
        s3.endpoint = self.endpoint.clone().or(s3.endpoint);
        s3.region = self.region.clone().unwrap_or(s3.region);
        s3.ca_file = self.ca_file.as_ref().map(shown).or(s3.ca_file);
        s3.credentials_file = self.credentials_file.as_ref().map(shown).or(s3.credentials_file);
        s3.path_style = self.path_style.or(s3.path_style);
        Ok(Place { source: Arc::new(From::at(&from, &s3)?), fetch })
    }

    fn adapters(&self, pool: &str) -> Result<tutti_api::AdaptersSpec> {
        let config = config::load(&self.config)?.config;
        let found = config.pools.into_iter().find(|own| own.name == pool);
        let found = found.with_context(|| format!("the configuration has no pool {pool:?}"))?;
        found.adapters.with_context(|| format!("the pool {pool:?} has no `adapters` in the configuration"))
    }
}

impl Place {
    /// The place as one of an adapter: its last two or three parts are a path that loaders take.
    fn check_path(&self) -> Result<()> {
        let place = self.source.place().trim_end_matches('/');
        let Some((_, below)) = place.split_once("://") else { return Ok(()) };
        let below = below.split_once('/').map_or("", |(_, below)| below);
        let parts: Vec<&str> = below.rsplitn(3, '/').collect();
        let [revision, model, ..] = parts[..] else {
            bail!("{place}: an adapter lies at [tenant/]model/revision: write s3://bucket/prefix/model/revision/");
        };
        let path = format!("{model}/{revision}").parse::<AdapterPath>().map_err(|error| anyhow!("{place}: {error}"));
        path.map(drop)
    }
}
