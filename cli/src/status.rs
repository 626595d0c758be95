//! `tutti status`: what a running gateway does.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use tutti_gateway::status::Status;

use crate::{Source, config, local};

#[derive(Args, Clone, Debug)]
pub(crate) struct Ask {
    #[command(flatten)]
    source: Source,
    /// The gateway's admin address, as http://HOST:PORT; else the configuration's
    #[arg(long, value_name = "URL")]
    admin: Option<String>,
    /// The file with the admin token; else the configuration's
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

impl Ask {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let config = match config::load(&self.source)? {
            Ok(loaded) => {
                loaded.map(|loaded| loaded.config).map_or_else(|| config::overridden(Default::default()), Ok)?
            }
            Err(code) => return Ok(code),
        };
        let admin = self.admin.clone().unwrap_or_else(|| format!("http://{}", config.gateway.admin.listen));
        let file = self.token_file.clone().unwrap_or_else(|| config::token_file(&config));
        let token = std::fs::read_to_string(&file)
            .with_context(|| format!("cannot read the admin token in {}", file.display()))?;
        let Some(answer) = local::get(&admin, "/status", Some(token.trim())) else {
            bail!("no gateway answers at {admin}: is it running, and is this its admin address?");
        };
        let (head, body) = answer.split_once("\r\n\r\n").context("the answer is no HTTP")?;
        if !head.lines().next().is_some_and(|line| line.contains(" 200 ")) {
            bail!("{admin} answered {:?}: {}", head.lines().next().unwrap_or_default(), body.trim());
        }
        if self.json {
            println!("{body}");
            return Ok(ExitCode::SUCCESS);
        }
        print!("{}", render(&serde_json::from_str(body).context("the answer is not a gateway's status")?));
        Ok(ExitCode::SUCCESS)
    }
}

/// A status as people read it.
fn render(status: &Status) -> String {
    let Status { version, pid, generation, connections, .. } = status;
    let mut page = format!("tutti {version}, process {pid}, {connections} connections, table {generation}");
    page.push_str(if status.draining { ", draining\n" } else { "\n" });
    if let Some(error) = &status.reload.error {
        page.push_str(&format!("the last change of the configuration was refused: {error}\n"));
    }
    for pool in &status.pools {
        page.push_str(&format!("\npool {}: {} waiting\n", pool.name, pool.queued));
        for replica in &pool.replicas {
            let state = if replica.reachable { "reachable" } else { "UNREACHABLE" };
            let version = replica.version.as_deref().unwrap_or("?");
            page.push_str(&format!(
                "  {:<40} {state:<12} version {version:<20} {} in flight\n",
                replica.url, replica.in_flight
            ));
        }
    }
    page.push_str("\nmodels\n");
    for (name, to) in &status.models {
        page.push_str(&format!("  {name:<40} {to}\n"));
    }
    page
}
