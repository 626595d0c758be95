//! `tutti status`: what a running gateway does.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use tutti_api::{Address, InvalidAddress};
use tutti_gateway::status::Status;

use crate::print::plain;
use crate::{Source, config, local, print};

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
        let (admin, file) = self.whom()?;
        let address = address(&admin)?;
        let token = std::fs::read_to_string(&file)
            .with_context(|| format!("cannot read the admin token in {}", file.display()))?;
        let answer = local::get(&address, "/status", Some(token.trim())).map_err(|error| {
            anyhow!(
                "no gateway answers at {admin} ({error}): is it running, and is this its admin address? One that was \
                 changed is taken at the next start"
            )
        })?;
        let (head, body) = answer.split_once("\r\n\r\n").context("the answer is no HTTP")?;
        if !head.lines().next().is_some_and(|line| line.contains(" 200 ")) {
            bail!("{admin} answered {:?}: {}", head.lines().next().unwrap_or_default(), body.trim());
        }
        if self.json {
            return print::page(&format!("{body}\n"));
        }
        print::page(&render(&serde_json::from_str(body).context("the answer is not a gateway's status")?))
    }

    /// Where to ask, and where the token is. The configuration is read only for what no argument says.
    fn whom(&self) -> Result<(String, PathBuf)> {
        if let (Some(admin), Some(file)) = (&self.admin, &self.token_file) {
            return Ok((admin.clone(), file.clone()));
        }
        let gateway = config::gateway_part(&self.source)?;
        let file = self.token_file.clone().map_or_else(|| config::token_file(&gateway), Ok)?;
        Ok((self.admin.clone().unwrap_or(gateway.admin.listen), file))
    }
}

/// The address in an URL, or one that stands for itself.
fn address(url: &str) -> Result<Address> {
    let address = url.strip_prefix("http://").unwrap_or(url);
    let parsed = address.strip_suffix('/').unwrap_or(address).parse();
    parsed.map_err(|error: InvalidAddress| anyhow!("the admin address is none ({error}): write http://host:port"))
}

/// A status as people read it.
fn render(status: &Status) -> String {
    let Status { version, pid, generation, connections, .. } = status;
    let mut page = format!("tutti {version}, process {pid}, {connections} connections, table {generation}");
    page.push_str(if status.draining { ", draining\n" } else { "\n" });
    if let Some(error) = &status.reload.error {
        page.push_str(&format!("the last change of the configuration was refused: {error}\n"));
    }
    if !status.at_next_start.is_empty() {
        page.push_str(&format!("changed, and taken at the next start: {}\n", status.at_next_start.join(", ")));
    }
    for pool in &status.pools {
        page.push_str(&format!("\npool {}: {} waiting\n", pool.name, pool.queued));
        for replica in &pool.replicas {
            let state = if replica.reachable { "reachable" } else { "UNREACHABLE" };
            let version = plain(replica.version.as_deref().unwrap_or("?"));
            page.push_str(&format!(
                "  {:<40} {state:<12} version {version:<20} {} in flight\n",
                replica.url, replica.in_flight
            ));
        }
    }
    page.push_str("\nmodels\n");
    for (name, to) in &status.models {
        page.push_str(&format!("  {:<40} {to}\n", plain(name)));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_admin_address_needs_no_scheme_and_takes_only_http() {
        for url in ["127.0.0.1:1", "http://127.0.0.1:1", "http://127.0.0.1:1/"] {
            assert_eq!(address(url).unwrap().to_string(), "127.0.0.1:1");
        }
        for wrong in ["https://h:1", "http://h:1/path", "u:p@h:1", "h"] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }
}
