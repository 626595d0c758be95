//! `tutti log-level`: how much a running gateway says of itself.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tutti_gateway::Filter;

use crate::admin::{Admin, Answer};
use crate::print;

#[derive(Args, Clone, Debug)]
pub(crate) struct Level {
    /// off, error, warn, info, debug or trace, or `MODULE=LEVEL`, with commas between; else the present filter is shown
    filter: Option<String>,
    /// The filter that the gateway was started with again (`TUTTI_LOG`)
    #[arg(long, conflicts_with = "filter")]
    reset: bool,
    #[command(flatten)]
    admin: Admin,
}

impl Level {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let (method, path) = match &self.filter {
            Some(filter) => ("PUT", format!("/log-level?filter={}", utf8_percent_encode(filter, NON_ALPHANUMERIC))),
            None if self.reset => ("DELETE", "/log-level".to_owned()),
            None => ("GET", "/log-level".to_owned()),
        };
        let Answer { admin, status, body } = self.admin.ask(method, &path)?;
        match status {
            200 => {}
            400 => bail!("the filter is refused: {}", body.trim()),
            _ => bail!("{admin} answered {status}: {}", body.trim()),
        }
        let Filter { filter, start } = serde_json::from_str(&body).context("the answer is not a gateway's filter")?;
        let since = if filter == start { String::new() } else { format!(" (at the start: {start})") };
        print::page(&format!("{filter}{since}\n"))
    }
}
