//! `cargo xtask bench streams`: thousands of slow streams at once; whether each arrives whole, and what one takes of
//! memory.

mod client;
pub(crate) mod upstream;

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::ensure;
use serde::{Deserialize, Serialize};

use crate::load;
use crate::memory::{Account, Memory};
use crate::options::{Kept, ReplicaProgram, TuttiProgram};
use crate::own::Own;
use crate::replica::Process;
use crate::report::{Bar, Origin, heading, short};
use crate::results::keep;
use crate::told::End;

pub(crate) use upstream::Slow;

/// The most requests that one replica of a pool works on at once.
const SLOTS: u32 = 4096;
/// What one stream may take, and what it shall. Unit: kilobytes.
const MOST_KB: f64 = 40.0;
const AIM_KB: f64 = 16.0;

/// Options of the benchmark.
#[derive(Debug, Clone, clap::Args)]
pub struct StreamsBench {
    /// Streams that are open at once.
    #[arg(long, default_value_t = 9000)]
    pub streams: u32,
    /// Tokens of each.
    #[arg(long, default_value_t = 20)]
    pub tokens: u32,
    /// The shortest time between two of them, in milliseconds.
    #[arg(long, default_value_t = 2000)]
    pub least_ms: u64,
    /// The longest.
    #[arg(long, default_value_t = 5000)]
    pub most_ms: u64,
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
pub(crate) struct StreamsResults {
    origin: Origin,
    streams: u32,
    tokens: u32,
    least_ms: u64,
    most_ms: u64,
    /// Seconds from the first stream's beginning to the last one's end.
    seconds: f64,
    /// How memory was counted.
    memory_by: String,
    rest: Memory,
    /// The greatest while streams were open.
    peak: Memory,
    /// Once all had ended.
    after: Memory,
    /// Most streams that were open at once.
    most_open: usize,
    /// Tokens that came to their stream, in order.
    tokens_right: u64,
    tokens_wrong: u64,
    /// How streams ended, and how many did so.
    ends: Vec<(End, u64)>,
}

/// Runs the benchmark, prints its section and keeps it.
///
/// # Errors
/// The gateway or the replica cannot be built or started. Streams that are lost are in the results.
pub fn streams(options: StreamsBench) -> anyhow::Result<()> {
    let results = measure(&options)?;
    println!("{}", results.markdown());
    keep(&options.kept.out, "streams", &results)?;
    ensure!(results.is_whole(), "not every stream arrived whole");
    Ok(())
}

fn measure(options: &StreamsBench) -> anyhow::Result<StreamsResults> {
    load::raise_file_limit();
    let program = options.tutti.get()?;
    let addresses = options.streams.div_ceil(SLOTS) as usize + 1;
    let StreamsBench { streams, tokens, least_ms, most_ms, .. } = *options;
    let slow = Slow { addresses, tokens, least_ms, most_ms };
    let replica = Process::start(&options.replica.get()?, &slow.arguments())?;
    let account = Account::open();
    let own = Own { replicas: &replica.addrs, slots: SLOTS as u16, ..Own::before(&program, &replica.addrs[0]) };
    let tutti = own.start_wrapped(&account.wrapper())?;
    let rest = account.read(tutti.pid())?;
    let (mut peak, began, mut seconds) = (rest, Instant::now(), 0u32);
    let tally = client::run(tutti.addr, streams, &slow, |tally| {
        if let Ok(now) = account.read(tutti.pid())
            && now.total() > peak.total()
        {
            peak = now;
        }
        if seconds.is_multiple_of(10) {
            eprintln!("{seconds} s: {} of {streams} streams open, {} tokens", tally.open.get(), tally.tokens.get());
        }
        seconds += 1;
    })?;
    let took = began.elapsed();
    std::thread::sleep(Duration::from_secs(1)); // the last connections close
    Ok(StreamsResults {
        origin: Origin::here("cargo xtask bench streams".into(), vec![tutti.version.clone()]),
        streams,
        tokens,
        least_ms,
        most_ms,
        seconds: took.as_secs_f64(),
        memory_by: account.says(),
        rest,
        peak,
        after: account.read(tutti.pid())?,
        most_open: tally.most.get(),
        tokens_right: tally.tokens.get(),
        tokens_wrong: tally.wrong.get(),
        ends: tally.ends.into_inner().into_iter().collect(),
    })
}

impl StreamsResults {
    fn is_whole(&self) -> bool {
        let whole: u64 = self.ends.iter().filter(|(end, _)| *end == End::Whole).map(|(_, count)| count).sum();
        let tokens = u64::from(self.streams) * u64::from(self.tokens);
        whole == u64::from(self.streams) && self.tokens_right == tokens && self.tokens_wrong == 0
    }

    /// Kilobytes a stream: all that the gateway has at the peak, its own start included, over the streams.
    fn kilobytes(&self) -> Option<f64> {
        (self.most_open == self.streams as usize).then(|| self.peak.total() as f64 / 1e3 / f64::from(self.streams))
    }

    /// The section of RESULTS.md.
    pub(crate) fn markdown(&self) -> String {
        let mut text = heading("Slow streams, by the thousand", &self.origin);
        let _ = write!(
            text,
            "{} SSE streams over HTTP/1.1, a connection each; {} tokens a stream, {} to {} s apart; {:.0} s in all. Each \
             token names its stream and its number, and the client looks at both. Memory of the gateway {}. A stream is \
             two sockets of the gateway, to the client and to the replica.\n\n",
            self.streams,
            self.tokens,
            short(self.least_ms as f64 / 1e3),
            short(self.most_ms as f64 / 1e3),
            self.seconds,
            self.memory_by
        );
        let lost = u64::from(self.streams) * u64::from(self.tokens)
            - self.tokens_right.min(u64::from(self.streams) * u64::from(self.tokens));
        text += &Bar::new(
            "tokens lost, doubled, out of order or of another stream",
            Some((lost + self.tokens_wrong) as f64),
            0.0,
        )
        .line();
        let broken: u64 = self.ends.iter().filter(|(end, _)| *end != End::Whole).map(|(_, count)| count).sum();
        text += &Bar::new("streams that did not end whole", Some(broken as f64), 0.0).line();
        text += &Bar::new("kilobytes a stream, all that the gateway has over the streams", self.kilobytes(), MOST_KB)
            .aim(AIM_KB)
            .line();
        text +=
            "\n| | streams open | pages MB | kernel MB | in sockets MB | KB a stream |\n|---|---|---|---|---|---|\n";
        for (name, open, memory) in
            [("at rest", 0, self.rest), ("at the peak", self.most_open, self.peak), ("afterwards", 0, self.after)]
        {
            let megabytes = |bytes: u64| short(bytes as f64 / 1e6);
            let each = if open == 0 { "–".to_owned() } else { short(memory.total() as f64 / 1e3 / open as f64) };
            let _ = writeln!(
                text,
                "| {name} | {open} | {} | {} | {} | {each} |",
                megabytes(memory.pages),
                megabytes(memory.kernel),
                megabytes(memory.sockets)
            );
        }
        for (end, count) in self.ends.iter().filter(|(end, _)| *end != End::Whole) {
            let _ = writeln!(text, "\n{count} streams: {end}.");
        }
        text
    }
}
