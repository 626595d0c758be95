//! `tutti status`: what a running gateway does.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use tutti_gateway::status::Status;

use crate::admin::{Admin, Answer};
use crate::print::{self, plain};

#[derive(Args, Clone, Debug)]
pub(crate) struct Ask {
    #[command(flatten)]
    admin: Admin,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

impl Ask {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let Answer { admin, status, body } = self.admin.ask("GET", "/status")?;
        if status != 200 {
            bail!("{admin} answered {status}: {}", body.trim());
        }
        if self.json {
            return print::page(&format!("{body}\n"));
        }
        print::page(&render(&serde_json::from_str(&body).context("the answer is not a gateway's status")?))
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
