//! `tutti check`, and what it asks with `--connect`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use tutti_adapter_loader::preflight::{Finding, Preflight};
use tutti_api::{Config, ReplicaUrl};

use crate::print::say;
use crate::{Source, config, print};

/// What is said where the configuration is right and does not work.
const WILL_NOT_WORK: u8 = 3;

#[derive(Args, Clone, Debug)]
pub(crate) struct Check {
    #[command(flatten)]
    source: Source,
    /// Also asks what it names, for pools that have adapters: the object store, the engines and their bases, the disk.
    /// Nothing is changed there. Without this nobody is contacted
    #[arg(long)]
    connect: bool,
    /// With --connect: the folder that a loader would keep adapters in; else that of `tutti up`
    #[arg(long, value_name = "DIR", requires = "connect")]
    state: Option<PathBuf>,
}

impl Check {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let (config, right) = config::check(&self.source)?;
        if !self.connect {
            return print::page(&right);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let found = runtime.block_on(self.ask(&config))?;
        found.iter().for_each(|found| say!("{found}"));
        let code = print::page(&right)?;
        Ok(if found.is_empty() { code } else { ExitCode::from(WILL_NOT_WORK) })
    }

    async fn ask(&self, config: &Config) -> Result<Vec<Finding>> {
        let state = self.state.clone().or_else(|| config::loaders_state().ok());
        let mut found = Vec::new();
        for pool in config.pools.iter().filter(|pool| pool.adapters.is_some()) {
            let urls = pool.endpoints.iter().filter_map(|endpoint| endpoint.url.as_deref());
            let engines: Vec<ReplicaUrl> = urls.filter_map(|url| url.parse().ok()).collect();
            if engines.len() < pool.endpoints.len() {
                say!("tutti: pool {}: engines that are found by a name or in a file are not asked", pool.name);
            }
            found.extend(Preflight::of(config, &pool.name, engines, state.clone())?.look().await);
        }
        Ok(found)
    }
}
