//! `tutti drain` and `tutti undrain`: a replica out of service, and back.

use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tutti_api::HumanDuration;
use tutti_gateway::drain::Drained;
use tutti_gateway::status::Status;

use crate::admin::{Admin, Answer};
use crate::print::{self, say};

/// How often the gateway is asked what is still in flight.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Args, Clone, Debug)]
pub(crate) struct Drain {
    /// The replica, as http://HOST:PORT
    replica: String,
    #[command(flatten)]
    admin: Admin,
    /// Do not wait until nothing is in flight there
    #[arg(long)]
    no_wait: bool,
    /// Wait no longer than this, such as 30s; else as long as it takes
    #[arg(long, value_name = "DURATION", conflicts_with = "no_wait")]
    timeout: Option<HumanDuration>,
    /// Also where it is the last replica that serves a model
    #[arg(long)]
    force: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Undrain {
    /// The replica, as http://HOST:PORT
    replica: String,
    #[command(flatten)]
    admin: Admin,
}

impl Drain {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let Drained { replica, in_flight } = change(&self.admin, "drain", &self.replica, self.force)?;
        if self.no_wait {
            return print::page(&format!("{replica} gets nothing new; {} in flight there\n", requests(in_flight)));
        }
        let until = self.timeout.map(|timeout| Instant::now() + timeout.get());
        let mut last = in_flight;
        while last > 0 {
            if until.is_some_and(|until| Instant::now() >= until) {
                bail!("{} still in flight at {replica}; it gets nothing new until `tutti undrain`", requests(last));
            }
            sleep(LOOK);
            let now = in_flight_at(&self.admin, &replica)?;
            if now != last && now > 0 {
                say!("{} in flight at {replica}", requests(now));
            }
            last = now;
        }
        print::page(&format!("{replica} is drained: it gets nothing new, and nothing is in flight there\n"))
    }
}

impl Undrain {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let Drained { replica, .. } = change(&self.admin, "undrain", &self.replica, false)?;
        print::page(&format!("{replica} serves again\n"))
    }
}

/// Asks the gateway to take a replica out of service, or back.
fn change(admin: &Admin, what: &str, replica: &str, force: bool) -> Result<Drained> {
    let encoded = utf8_percent_encode(replica, NON_ALPHANUMERIC);
    let Answer { admin, status, body } = admin.ask("POST", &format!("/{what}?replica={encoded}&force={force}"))?;
    match status {
        200 => serde_json::from_str(&body).context("the answer is not a gateway's"),
        400 | 404 | 409 => bail!("{}", body.trim()),
        _ => bail!("{admin} answered {status}: {}", body.trim()),
    }
}

/// Requests that the replica works on, in whatever pools it is.
fn in_flight_at(admin: &Admin, replica: &str) -> Result<u32> {
    let Answer { admin, status, body } = admin.ask("GET", "/status")?;
    if status != 200 {
        bail!("{admin} answered {status}: {}", body.trim());
    }
    let status: Status = serde_json::from_str(&body).context("the answer is not a gateway's status")?;
    let at = status.pools.iter().flat_map(|pool| &pool.replicas).filter(|known| known.url == replica);
    Ok(at.map(|known| known.in_flight).sum())
}

fn requests(count: u32) -> String {
    if count == 1 { "1 request is".to_owned() } else { format!("{count} requests are") }
}
