//! `tutti traffic` and `tutti rollback`: which revisions of a model serve.

use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tutti_api::{BlueGreenSpec, CanarySpec, CanaryStep, Pause, Share, StrategySpec, Timestamp};
use tutti_control_plane::{Command, Figures, How, Report, Stage};

use crate::admin::{Admin, Answer};
use crate::print::{self, plain};

/// How often `--watch` looks.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Args, Clone, Debug)]
pub(crate) struct Traffic {
    /// The model
    model: String,
    #[command(flatten)]
    admin: Admin,
    /// Have this revision serve: as the configuration's strategy says, at once where it says none
    #[arg(long, value_name = "REVISION")]
    to: Option<String>,
    /// At once, whatever the configuration says
    #[arg(long, requires = "to", conflicts_with_all = ["canary", "blue_green"])]
    now: bool,
    /// Step by step: shares, pauses, and `until-promoted`, as 5%,2m,50%,until-promoted; judged as a configured canary is
    #[arg(long, requires = "to", value_name = "STEP,…", value_delimiter = ',')]
    canary: Vec<Step>,
    /// All at once, when it has as many ready slots as the current revision
    #[arg(long, requires = "to", conflicts_with = "canary")]
    blue_green: bool,
    /// Meanwhile, also send it this share of the requests, without its answers going to anybody
    #[arg(long, requires = "to", value_name = "SHARE")]
    mirror: Option<Share>,
    /// Also where no replica has it, proven
    #[arg(long, requires = "to")]
    force: bool,
    /// Let a change that waits go on: promote it, or thaw what was frozen
    #[arg(long, conflicts_with_all = ["to", "freeze"])]
    resume: bool,
    /// Let nothing happen by itself any more: no step, no promotion, no rollback
    #[arg(long, conflicts_with = "to")]
    freeze: bool,
    /// Show it again every second, until the change is over
    #[arg(long)]
    watch: bool,
    /// Show what happened so far, and why
    #[arg(long)]
    history: bool,
    /// Print JSON, for programs
    #[arg(long, conflicts_with = "watch")]
    json: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Rollback {
    /// The model
    model: String,
    #[command(flatten)]
    admin: Admin,
    /// To this revision; else to the one that served before
    #[arg(long, value_name = "REVISION")]
    to: Option<String>,
    /// Also where no replica has it, proven
    #[arg(long)]
    force: bool,
}

/// A step of a canary, as it is written on the command line.
#[derive(Clone, Debug)]
struct Step(CanaryStep);

impl std::str::FromStr for Step {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.ends_with('%') {
            let share = text.parse().map_err(|error| format!("{error}"))?;
            return Ok(Self(CanaryStep { set_weight: Some(share), pause: None }));
        }
        let pause: Pause = text.parse().map_err(|_| {
            format!("{text:?} is neither a share such as 5%, nor a duration such as 2m, nor `until-promoted`")
        })?;
        Ok(Self(CanaryStep { set_weight: None, pause: Some(pause) }))
    }
}

impl Traffic {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let report = match self.command() {
            Some(command) => change(&self.admin, &self.model, &command)?,
            None => ask(&self.admin, &self.model)?,
        };
        if self.json {
            return print::page(&format!("{}\n", serde_json::to_string(&report)?));
        }
        if !self.watch {
            return print::page(&shown(&report, self.history));
        }
        let mut last = report;
        loop {
            let is_read = print::next_page(&shown(&last, self.history))?;
            if !is_read || last.release.candidate.is_none() {
                return Ok(ExitCode::SUCCESS);
            }
            sleep(LOOK);
            last = ask(&self.admin, &self.model)?;
        }
    }

    /// What is wanted; `None`: only to see.
    fn command(&self) -> Option<Command> {
        if self.resume {
            return Some(Command::Resume);
        }
        if self.freeze {
            return Some(Command::Freeze);
        }
        let how = if self.now {
            How::Now
        } else if !self.canary.is_empty() {
            let steps = self.canary.iter().map(|Step(step)| step.clone()).collect();
            let canary = CanarySpec { steps, ..CanarySpec::default() };
            How::By(Box::new(StrategySpec { canary: Some(canary), ..StrategySpec::default() }))
        } else if self.blue_green {
            How::By(Box::new(StrategySpec { blue_green: Some(BlueGreenSpec::default()), ..StrategySpec::default() }))
        } else {
            How::Configured
        };
        Some(Command::To { revision: self.to.clone()?, how, mirror: self.mirror, force: self.force })
    }
}

impl Rollback {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let command = Command::Rollback { to: self.to.clone(), force: self.force };
        print::page(&shown(&change(&self.admin, &self.model, &command)?, false))
    }
}

fn ask(admin: &Admin, model: &str) -> Result<Report> {
    let model = utf8_percent_encode(model, NON_ALPHANUMERIC);
    report(admin.ask("GET", &format!("/traffic?model={model}"))?)
}

fn change(admin: &Admin, model: &str, command: &Command) -> Result<Report> {
    let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let by = ["SUDO_USER", "USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok());
    let command = encoded(&serde_json::to_string(command)?);
    let (model, by) = (encoded(model), encoded(by.as_deref().unwrap_or("somebody")));
    report(admin.ask("POST", &format!("/traffic?model={model}&by={by}&command={command}"))?)
}

fn report(answer: Answer) -> Result<Report> {
    let Answer { admin, status, body } = answer;
    match status {
        200 => serde_json::from_str(&body).context("the answer is not a gateway's"),
        400 | 404 | 409 | 502 => bail!("{}", body.trim()),
        _ => Err(anyhow!("{admin} answered {status}: {}", body.trim())),
    }
}

/// A report as people read it.
fn shown(report: &Report, history: bool) -> String {
    let Report { release, driver, term, generation, .. } = report;
    let mut page = format!("model {}: {}", plain(&release.model), plain(&release.reason));
    page.push_str(&format!(" ({}, {})\n", plain(&release.by), at(release.at)));
    if report.overridden {
        page.push_str(&format!("OVERRIDDEN: the configuration wants {}\n", plain(&release.wanted)));
    }
    if release.frozen {
        page.push_str("FROZEN: nothing happens by itself\n");
    }
    if let Some(candidate) = &release.candidate {
        let stage = match candidate.stage {
            Stage::Step(number) => {
                let steps = candidate.strategy.canary.as_ref().map_or(0, |canary| canary.steps.len());
                format!("step {} of {steps}", (number + 1).min(steps))
            }
            Stage::Proving => "its steps are done, analysis goes on".to_owned(),
            Stage::Preparing => "getting ready".to_owned(),
            Stage::Watching => "has all, and is looked at".to_owned(),
        };
        page.push_str(&format!("candidate {}: {stage} since {}\n", plain(&candidate.revision), at(candidate.since)));
        if !candidate.verdict.is_empty() {
            page.push_str(&format!("analysis: {}\n", plain(&candidate.verdict)));
        }
        if let Some(why) = &candidate.held {
            page.push_str(&format!("HELD: {}; --resume goes on, `tutti rollback` ends it\n", plain(why)));
        }
    }
    page.push_str(&format!(
        "{:<24} {:>9} {:>8} {:>6} {:>9} {:>8} {:>9} {:>9} {:>9}\n",
        "revision", "weight", "replicas", "slots", "requests", "errors", "P50 ms", "P99 ms", "TTFT P99"
    ));
    for (name, figures) in &report.revisions {
        let known = |name: &str| name == release.current || release.previous.as_deref() == Some(name);
        let candidate = release.candidate.as_ref().is_some_and(|candidate| candidate.revision == *name);
        if known(name) || candidate || figures.weight > 0 || figures.requests > 0 {
            page.push_str(&row(name, figures));
        }
    }
    page.push_str(&format!("driven by {} (term {term}, generation {generation})\n", plain(driver)));
    for warning in &report.warnings {
        page.push_str(&format!("WARNING: {}\n", plain(warning)));
    }
    if history {
        page.push('\n');
        for entry in &release.history {
            page.push_str(&format!("{}  {:<14} {}\n", at(entry.at), plain(&entry.by), plain(&entry.what)));
        }
    }
    page
}

fn row(name: &str, figures: &Figures) -> String {
    let time = |millis: Option<f64>| millis.map_or("-".to_owned(), |millis| format!("{millis:.1}"));
    let Figures { weight, replicas, slots, requests, errors, p50_ms, p99_ms, ttft_p99_ms } = figures;
    let share = Share::of_parts(*weight).to_string();
    format!(
        "{:<24} {share:>9} {replicas:>8} {slots:>6} {requests:>9} {errors:>8} {:>9} {:>9} {:>9}\n",
        plain(name),
        time(*p50_ms),
        time(*p99_ms),
        time(*ttft_p99_ms)
    )
}

/// A moment. Unit: milliseconds since 1970.
fn at(millis: u64) -> String {
    let ago = SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
    let seconds = ago.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    Timestamp::from_unix(i64::try_from(seconds).unwrap_or(i64::MAX)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_a_share_or_a_pause() {
        let step = |text: &str| {
            text.parse::<Step>().map(|Step(step)| (step.set_weight.map(|share| share.to_string()), step.pause))
        };
        assert_eq!(step("5%"), Ok((Some("5%".to_owned()), None)));
        assert_eq!(step("until-promoted"), Ok((None, Some(Pause::UntilPromoted))));
        assert!(step("2m").is_ok() && step("5").is_err() && step("101%").is_err());
    }
}
