//! `cargo xtask bench soak`: millions of requests of every kind; whether memory stays, files come back, counters add up.

mod trend;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

use crate::contender::{Proxy, get};
use crate::mix::{self, Kind, Mix};
use crate::options::{Kept, ReplicaProgram, TuttiProgram};
use crate::own::Own;
use crate::replica::{Process, Simulated};
use crate::report::{Bar, Origin, heading, short};
use crate::results::keep;
use crate::told::End;
use crate::{cpu, load};
use trend::{Sample, later_half, slope};

/// Of 100 clients so many do what.
const KINDS: [(Kind, u32); 6] = [
    (Kind::Chat, 60),
    (Kind::Stream, 20),
    (Kind::Broken, 5),
    (Kind::Unknown, 5),
    (Kind::LeaveWaiting, 5),
    (Kind::LeaveStreaming, 5),
];
/// Tokens of a stream.
const TOKENS: u32 = 8;
/// What memory may grow by in the later half of the run, as the straight line through it says. Unit: kilobytes.
const GROWTH_KB: f64 = 1000.0;
/// How long the counters may take to tell of the last requests.
const COUNTED_WITHIN: Duration = Duration::from_secs(10);
/// Requests between two times that the log is emptied.
const LOG_EVERY: u64 = 100_000;

/// Options of the benchmark.
#[derive(Debug, Clone, clap::Args)]
pub struct SoakBench {
    /// Requests.
    #[arg(long, default_value_t = 2_000_000)]
    pub requests: u64,
    /// Clients at once.
    #[arg(long, default_value_t = 32)]
    pub clients: usize,
    /// Seconds that files may take to be closed afterwards: connections to replicas lie idle for a minute.
    #[arg(long, default_value_t = 150)]
    pub rest: u64,
    /// The gateway.
    #[command(flatten)]
    pub tutti: TuttiProgram,
    /// Its replica.
    #[command(flatten)]
    pub replica: ReplicaProgram,
    /// Where its figures are kept.
    #[command(flatten)]
    pub kept: Kept,
}

/// A run of the benchmark.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SoakResults {
    origin: Origin,
    requests: u64,
    clients: usize,
    seconds: f64,
    /// Resident memory while it ran.
    samples: Vec<Sample>,
    files_before: usize,
    files_after: usize,
    /// Seconds after the last request at which the files were as many as before, or at which they were looked at last.
    files_after_seconds: u64,
    /// What the gateway counted: requests by their code.
    counted: BTreeMap<String, u64>,
    /// How requests ended, and how many did so; `None` is a client that left.
    ends: Vec<(Kind, Option<End>, u64)>,
}

/// Runs the benchmark, prints its section and keeps it.
///
/// # Errors
/// The gateway or the replica cannot be built or started, or something was lost.
pub fn soak(options: SoakBench) -> anyhow::Result<()> {
    let results = measure(&options)?;
    println!("{}", results.markdown());
    keep(&options.kept.out, "soak", &results)?;
    let sound = results.miscounted() == 0 && results.wrong() == 0 && results.files_after <= results.files_before;
    ensure!(sound && results.growth_kb().is_none_or(|kb| kb <= GROWTH_KB), "something was lost, or grew");
    Ok(())
}

fn measure(options: &SoakBench) -> anyhow::Result<SoakResults> {
    load::raise_file_limit();
    let (program, replica) = (options.tutti.get()?, options.replica.get()?);
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let simulated = Simulated { listen, slots: 4096, tokens: TOKENS, token_micros: 0, prerendered: true };
    let replica = Process::start(&replica, &simulated.arguments())?;
    let tutti = Own::before(&program, &replica.addrs[0]).start()?;
    let files_before = cpu::files(tutti.pid());
    let mix = Mix {
        addr: tutti.addr,
        connections: options.clients,
        kinds: KINDS.to_vec(),
        tokens: TOKENS,
        requests: options.requests,
        until: None,
    };
    let (mut ends, mut samples, began) = (BTreeMap::<_, u64>::new(), Vec::new(), Instant::now());
    let (mut emptied, mut said) = (0, 0);
    mix::run(
        mix,
        |asked| *ends.entry((asked.kind, asked.end)).or_default() += 1,
        |requests| {
            samples.extend(cpu::resident(tutti.pid()).map(|bytes| Sample { requests, bytes }));
            if requests >= emptied + LOG_EVERY {
                emptied = requests;
                let _ = tutti.empty_logs(); // a disk that is full shows in what fails
            }
            if began.elapsed().as_secs() >= said + 15 {
                said = began.elapsed().as_secs();
                eprintln!("{said} s: {requests} of {} requests", options.requests);
            }
        },
    )?;
    let seconds = began.elapsed().as_secs_f64();
    let counted = settled(&tutti, options.requests)?;
    let (files_after, files_after_seconds) = files(&tutti, files_before, Duration::from_secs(options.rest));
    Ok(SoakResults {
        origin: Origin::here("cargo xtask bench soak".into(), vec![tutti.version.clone()]),
        requests: options.requests,
        clients: options.clients,
        seconds,
        samples,
        files_before,
        files_after,
        files_after_seconds,
        counted,
        ends: ends.into_iter().map(|((kind, end), count)| (kind, end, count)).collect(),
    })
}

/// What the gateway has counted, once it has counted so many or enough time has passed.
fn settled(tutti: &Proxy, requests: u64) -> anyhow::Result<BTreeMap<String, u64>> {
    let until = Instant::now() + COUNTED_WITHIN;
    loop {
        let page = get(tutti.ops, "/metrics").context("no metrics")?;
        let counted = by_code(&page);
        if counted.values().sum::<u64>() >= requests || Instant::now() > until {
            return Ok(counted);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// `tutti_requests_total` of all models, by code.
fn by_code(page: &str) -> BTreeMap<String, u64> {
    let mut counted = BTreeMap::new();
    for line in page.lines().filter(|line| line.starts_with("tutti_requests_total{")) {
        let code = line.split("code=\"").nth(1).and_then(|rest| rest.split('"').next());
        let count = line.rsplit(' ').next().and_then(|count| count.parse::<f64>().ok());
        if let (Some(code), Some(count)) = (code, count) {
            *counted.entry(code.to_owned()).or_default() += count as u64;
        }
    }
    counted
}

/// Waits until the files are as few as before; yields how many there are, and when that was.
fn files(tutti: &Proxy, before: usize, within: Duration) -> (usize, u64) {
    let began = Instant::now();
    loop {
        let now = cpu::files(tutti.pid());
        if now <= before || began.elapsed() >= within {
            return (now, began.elapsed().as_secs());
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

impl SoakResults {
    /// By how much memory grew in the later half, as the straight line through it says. Unit: kilobytes.
    fn growth_kb(&self) -> Option<f64> {
        let later = later_half(&self.samples);
        let requests = later.last()?.requests.saturating_sub(later.first()?.requests);
        Some(slope(later)? * requests as f64 / 1e3)
    }

    fn ends_of(&self, kinds: &[Kind]) -> u64 {
        self.ends.iter().filter(|(kind, ..)| kinds.contains(kind)).map(|(.., count)| count).sum()
    }

    /// Requests that the gateway counted too often or not at all, or under another code than they ended with.
    fn miscounted(&self) -> u64 {
        let of = |codes: &[&str]| codes.iter().filter_map(|code| self.counted.get(*code)).sum::<u64>();
        let all: u64 = self.counted.values().sum();
        // Who leaves may find the answer there already: those who left or were answered are counted together.
        let served = [Kind::Chat, Kind::Stream, Kind::LeaveWaiting, Kind::LeaveStreaming];
        self.requests.abs_diff(all)
            + self.ends_of(&[Kind::Broken]).abs_diff(of(&["invalid_body"]))
            + self.ends_of(&[Kind::Unknown]).abs_diff(of(&["model_not_found"]))
            + self.ends_of(&served).abs_diff(of(&["ok", "cancelled"]))
    }

    /// Requests that did not end as they must.
    fn wrong(&self) -> u64 {
        self.ends.iter().filter(|(kind, end, _)| !kind.is_right(end.as_ref())).map(|(.., count)| count).sum()
    }

    /// The section of RESULTS.md.
    pub(crate) fn markdown(&self) -> String {
        let mut text = heading("Millions of requests", &self.origin);
        let (files, before) = (self.files_after as f64, self.files_before as f64);
        let _ = write!(
            text,
            "{} requests of {} clients back to back in {:.0} s, {:.0} a second, to a replica that takes no time. Memory is what \
             is resident, looked at four times a second; its growth is that of the straight line through the run's later half. \
             Files are counted before the first client and after the last one, once connections to the replica have lain \
             idle for their time ({} s).\n\n",
            self.requests,
            self.clients,
            self.seconds,
            self.requests as f64 / self.seconds,
            self.files_after_seconds
        );
        text += &Bar::new("kilobytes that memory grew by in the later half", self.growth_kb(), GROWTH_KB).line();
        text += &Bar::new("files that stayed open", Some((files - before).max(0.0)), 0.0).line();
        text += &Bar::new("requests that the counters do not tell as they ended", Some(self.miscounted() as f64), 0.0)
            .line();
        text += &Bar::new("requests that did not end as they must", Some(self.wrong() as f64), 0.0).line();
        let at = |share: f64| {
            let place = (self.samples.len().saturating_sub(1)) as f64 * share;
            self.samples.get(place as usize).map_or("–".to_owned(), |sample| short(sample.bytes as f64 / 1e6))
        };
        let _ = write!(
            text,
            "\nResident, MB: {} at first, {} after a quarter, {} at half, {} after three quarters, {} at last. Files: {} \
             before, {} after.\n\n| | ended | requests |\n|---|---|---|\n",
            at(0.0),
            at(0.25),
            at(0.5),
            at(0.75),
            at(1.0),
            self.files_before,
            self.files_after
        );
        for (kind, end, count) in &self.ends {
            let end = end.as_ref().map_or("left".to_owned(), End::to_string);
            let _ = writeln!(text, "| {} | {end} | {count} |", kind.name());
        }
        let counted: Vec<String> = self.counted.iter().map(|(code, count)| format!("{count} {code}")).collect();
        text + &format!("\nCounted by the gateway: {}.\n", counted.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results() -> SoakResults {
        SoakResults {
            origin: Origin::here("a test".into(), Vec::new()),
            requests: 100,
            clients: 2,
            seconds: 1.0,
            samples: (0..=10).map(|n| Sample { requests: n * 10, bytes: 5 << 20 }).collect(),
            files_before: 20,
            files_after: 20,
            files_after_seconds: 61,
            counted: [("ok", 83), ("cancelled", 7), ("invalid_body", 5), ("model_not_found", 5)]
                .map(|(code, count)| (code.to_owned(), count))
                .into(),
            ends: vec![
                (Kind::Chat, Some(End::Whole), 80),
                (Kind::Broken, Some(End::Error(400, "invalid_body".into())), 5),
                (Kind::Unknown, Some(End::Error(404, "model_not_found".into())), 5),
                (Kind::LeaveStreaming, None, 10),
            ],
        }
    }

    #[test]
    fn what_adds_up_is_met() {
        let results = results();
        assert_eq!((results.miscounted(), results.wrong(), results.growth_kb()), (0, 0, Some(0.0)));
        assert!(!results.markdown().contains("not met"), "{}", results.markdown());
    }

    #[test]
    fn what_is_lost_is_seen() {
        let mut lost = results();
        lost.counted.insert("ok".into(), 82);
        assert_eq!(lost.miscounted(), 2, "one less in all, and one less served");
        let mut doubled = results();
        doubled.counted.insert("upstream_error".into(), 1);
        assert_eq!(doubled.miscounted(), 1);
        let mut wrong = results();
        wrong.ends.push((Kind::Chat, Some(End::Error(404, "model_not_found".into())), 3));
        assert_eq!(wrong.wrong(), 3);
        let mut grown = results();
        grown.samples.iter_mut().for_each(|sample| sample.bytes += sample.requests * 100_000);
        assert_eq!(grown.growth_kb(), Some(5000.0));
        assert!(SoakResults { files_after: 21, ..results() }.markdown().contains("files that stayed open: **1.00**"));
    }

    #[test]
    fn series_of_all_models_add_up() {
        let page = "tutti_requests_total{api=\"/v1\",code=\"ok\"} 3\ntutti_requests_total{code=\"ok\",model=\"m\"} 4\n\
                    tutti_requests_total{code=\"queue_full\"} 1\ntutti_requests_cancelled_total{code=\"ok\"} 9\n";
        assert_eq!(by_code(page), [("ok".to_owned(), 7), ("queue_full".to_owned(), 1)].into());
    }
}
