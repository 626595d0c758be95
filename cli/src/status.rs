//! `tutti status`: what a running gateway does.

mod adapters;

use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use clap::Args;
use tutti_api::Timestamp;
use tutti_gateway::keys::Counts;
use tutti_gateway::status::{
    Cause, HeldState, HeldStatus, Known, OwnerStatus, PeersStatus, ReplicaStatus, RunnerStatus, SourceStatus, Status,
    Waits,
};

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
        let status = serde_json::from_str(&body).context("the answer is not a gateway's status")?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        print::page(&render(&status, i64::try_from(now).unwrap_or(i64::MAX)))
    }
}

/// A status as people read it.
fn render(status: &Status, now: i64) -> String {
    let Status { version, pid, generation, connections, .. } = status;
    let mut page = format!("tutti {version}, process {pid}, {connections} connections, table {generation}");
    page.push_str(if status.draining { ", draining\n" } else { "\n" });
    if let Some(error) = &status.reload.error {
        page.push_str(&format!("the last change of the configuration was refused: {error}\n"));
    }
    if let Some(certificate) = &status.certificate {
        page.push_str(&format!("certificate: {}\n", expires(certificate.expires, now)));
        if let Some(error) = &certificate.reload.error {
            page.push_str(&format!("the last change of the certificate was refused: {error}\n"));
        }
    }
    if let Some(keys) = &status.keys {
        let Counts { active, expired, revoked } = keys.keys;
        let (file, at) = (keys.file.display(), Timestamp::from_unix(keys.reload.at));
        page.push_str(&format!("keys: {active} active, {expired} expired, {revoked} revoked, of {file}; "));
        page.push_str(&match &keys.reload.error {
            None => format!("taken up at {at}\n"),
            Some(error) => format!("its change at {at} was refused: {}\n", plain(error)),
        });
    }
    if !status.at_next_start.is_empty() {
        page.push_str(&format!("changed, and taken at the next start: {}\n", status.at_next_start.join(", ")));
    }
    if let Some(peers) = &status.peers {
        page.push_str(&others(peers, now));
    }
    for pool in &status.pools {
        let whose = status.peers.as_ref().map(|peers| whose(peers, &pool.name)).unwrap_or_default();
        page.push_str(&format!("\npool {}: {} waiting{whose}\n", pool.name, pool.queued));
        for waits in &pool.waits {
            page.push_str(&format!("  {}\n", who(waits)));
        }
        for replica in &pool.replicas {
            let ejected = replica.held.iter().any(|held| held.model.is_none() && held.state == HeldState::Ejected);
            let state = match replica {
                ReplicaStatus { leaving: true, .. } => "LEAVING",
                ReplicaStatus { drained: true, in_flight: 0, .. } => "DRAINED",
                ReplicaStatus { drained: true, .. } => "DRAINING",
                ReplicaStatus { reachable: false, .. } => "UNREACHABLE",
                _ if ejected => "EJECTED",
                _ => "reachable",
            };
            let version = plain(replica.version.as_deref().unwrap_or("?"));
            page.push_str(&format!(
                "  {:<40} {state:<12} version {version:<20} {} in flight, from {}\n",
                replica.url,
                replica.in_flight,
                plain(&replica.from)
            ));
            for runner in &replica.runners {
                page.push_str(&format!("      {}\n", has(runner)));
            }
            for held in &replica.held {
                page.push_str(&format!("      {}\n", told(held, now)));
            }
            for line in replica.loader.iter().flat_map(|loader| adapters::told(loader, now)) {
                page.push_str(&format!("      {line}\n"));
            }
        }
    }
    if !status.discovery.is_empty() {
        page.push_str("\ndiscovery\n");
    }
    for source in &status.discovery {
        page.push_str(&format!("  {:<40} {}\n", format!("{} {}", source.kind, plain(&source.name)), how(source, now)));
    }
    page.push_str("\nmodels\n");
    for (name, to) in &status.models {
        page.push_str(&format!("  {:<40} {to}\n", plain(name)));
    }
    page
}

/// The other gateways, a line each.
fn others(peers: &PeersStatus, now: i64) -> String {
    let mut page =
        format!("gateway {}, certificate for peers: {}\n", peers.id, expires(peers.certificate.expires, now));
    if let Some(error) = &peers.certificate.reload.error {
        page.push_str(&format!("the last change of the certificate for peers was refused: {error}\n"));
    }
    for other in &peers.others {
        let how = if other.through_another { "reached through" } else { "reached at" };
        let leaving = if other.leaving { ", LEAVING" } else { "" };
        page.push_str(&format!("gateway {}: {how} {}{leaving}\n", plain(&other.id), other.address));
    }
    page
}

/// Who waits for what, in a line.
fn who(waits: &Waits) -> String {
    let models: Vec<String> =
        waits.models.iter().map(|name| plain(name.trim_end_matches(":latest")).to_string()).collect();
    let (count, models) = (waits.waiting, models.join(", "));
    let since = waits.oldest_ms as f64 / 1000.0;
    match &*waits.waits_for {
        "load" => format!("{count} wait for {models} to be loaded, the first for {since:.1} s"),
        _ => format!("{count} wait for a slot of {models}, the first for {since:.1} s"),
    }
}

/// What a runner has, and how that is known, in a line.
fn has(runner: &RunnerStatus) -> String {
    let models: Vec<String> =
        runner.loaded.iter().map(|name| plain(name.trim_end_matches(":latest")).to_string()).collect();
    let since = runner.known_ms.unwrap_or_default() as f64 / 1000.0;
    let how = match runner.known {
        Known::Told => format!("as the replica said {since:.1} s ago"),
        Known::Assumed => format!("assumed: it was loaded, or asked for, {since:.1} s ago"),
        Known::Unknown => "by nobody's word".to_owned(),
    };
    match (models.is_empty(), runner.known) {
        (false, _) => format!("model {} has its base's runner, {how}", models.join(", ")),
        (true, Known::Told) => format!("no model has its base's runner, {how}"),
        (true, _) => "it is not known which model has a base's runner: the replica has not said so yet".to_owned(),
    }
}

/// Who schedules a pool.
fn whose(peers: &PeersStatus, pool: &str) -> String {
    match peers.pools.get(pool) {
        None => String::new(), // every gateway for itself
        Some(OwnerStatus { id: None, .. }) => ", soon scheduled here".to_owned(),
        Some(OwnerStatus { id: Some(id), epoch }) if *id == peers.id => format!(", scheduled here (epoch {epoch})"),
        Some(OwnerStatus { id: Some(id), epoch }) => format!(", scheduled by gateway {} (epoch {epoch})", plain(id)),
    }
}

/// What is held against a replica, in a line.
fn told(held: &HeldStatus, now: i64) -> String {
    let what = held.model.as_deref().map_or("all of it".to_owned(), |model| format!("model {}", plain(model)));
    let why = match held.cause {
        Some(Cause::Busy) => "it answers that it is busy (503 or 429)",
        Some(Cause::Closed) => "it closes before its answer is whole",
        Some(Cause::Silent) => "it is silent for too long",
        Some(Cause::Probe) => "it gives no token when it is asked for one",
        Some(Cause::Error) => "it answers with errors (5xx), as where a model does not load",
        Some(Cause::Missing) => "it does not find the model (404)",
        Some(Cause::Denied) => "it does not take the gateway's key (401)",
        None => "",
    };
    let since = held.since.map_or(0, |since| (now - since).max(0));
    let left = held.until.map_or(0, |until| (until - now).max(0));
    match held.state {
        HeldState::Ejected => format!("{what}: ejected {since} s ago, for {left} s more: {why}"),
        HeldState::Kept => format!("{what}: fails for {since} s, and is used for want of others: {why}"),
        HeldState::Returning => format!("{what}: coming back, slot by slot"),
    }
}

/// When a certificate expires, and what is left until then.
fn expires(at: Timestamp, now: i64) -> String {
    match at.unix() - now {
        left @ ..0 => format!("EXPIRED {} hours ago, at {at}", -left / 3600),
        left @ ..172_800 => format!("expires in {} hours, at {at}", left / 3600),
        left => format!("expires in {} days, at {at}", left / 86_400),
    }
}

/// How a source is, in words.
fn how(source: &SourceStatus, now: i64) -> String {
    let SourceStatus { endpoints, left_out, at, failing, why, failures, .. } = source;
    let heard = at.map_or("never heard".to_owned(), |at| format!("heard {} s ago", (now - at).max(0)));
    let mut text = format!("{endpoints} found, {heard}");
    if *left_out > 0 {
        text.push_str(&format!(", {left_out} left out"));
    }
    if let Some(why) = why {
        let failing = if *failing { format!("FAILING ({failures} times): ") } else { String::new() };
        text.push_str(&format!(", {failing}{}", plain(why)));
    }
    text
}
