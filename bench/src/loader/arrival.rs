//! Adapters that arrive: a large one, from the end of its upload to its being served; and many at once on a replica that does not
//! serve yet, beside one that does.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::BufReader;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tutti_adapter_loader::base::Base;
use tutti_adapter_loader::gguf::{Header, Limits};
use tutti_adapter_loader::{convert, verify};
use tutti_api::Manifest;

use super::site::{Adapter, COMPLAINT, Loader, ask, counted, packed, post, push};
use super::{Bucket, LoaderBench};
use crate::report::{Bar, Origin, heading, median, short};

/// Where an engine and what belongs to it are.
#[derive(Debug, Clone)]
pub struct Engines {
    /// One that serves, held to a processor of its own, and one that does not serve yet, held to another; both with the rig's
    /// models.
    pub urls: [SocketAddr; 2],
    /// The folder of one of the rig's adapters as PEFT saved it.
    pub adapter: PathBuf,
    /// The rig's chat model.
    pub base: PathBuf,
    /// What they are.
    pub version: String,
}

/// How often the loader looks at the store.
const POLL: Duration = Duration::from_secs(1);
/// How long one adapter may take, and many.
const ONE: Duration = Duration::from_secs(120);
const ALL: Duration = Duration::from_secs(900);
/// Polls in which nothing changes.
const STILL: u64 = 5;
/// How long the serving replica is measured alone.
const ALONE: Duration = Duration::from_secs(15);

/// A run of the benchmark.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Arrival {
    origin: Origin,
    /// Size of the large adapter. Unit: bytes.
    large: u64,
    rounds: Vec<Round>,
    crowd: Crowd,
}

/// One large adapter. Unit: seconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Round {
    /// From the end of the upload to `Ready`.
    served: f64,
    /// What the engine takes for the same by itself: the blob, the model, the first answer.
    engine: f64,
}

/// Many at once.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Crowd {
    adapters: usize,
    ready: usize,
    /// By reason.
    quarantined: BTreeMap<String, usize>,
    seconds: f64,
    /// Of the serving replica, alone and during that.
    alone: Answers,
    during: Answers,
    /// While nothing changed.
    polls: u64,
    lists: u64,
    gets: u64,
}

/// What a client was answered who asked back to back.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Answers {
    count: usize,
    /// The time that 99 of 100 are within. Unit: seconds.
    p99: f64,
}

pub(super) fn measure(
    options: &LoaderBench,
    bucket: &Bucket,
    engines: &Engines,
    tutti: &Path,
) -> anyhow::Result<Arrival> {
    let folder = TempDir::with_prefix("tutti-bench-loader-")?;
    let credentials = folder.path().join("credentials");
    let text = format!("[default]\naws_access_key_id = {}\naws_secret_access_key = {}\n", bucket.key, bucket.secret);
    fs::write(&credentials, text)?;
    let with = With { bucket, credentials: &credentials, engines, tutti, adapter: Adapter::read(&engines.adapter)? };
    let (large, rounds) = with.large(options, folder.path())?;
    let crowd = with.crowd(options, folder.path())?;
    let versions = vec![crate::contender::version(tutti, "--version"), bucket.version.clone(), engines.version.clone()];
    let origin = Origin::here("cargo xtask bench loader".into(), versions);
    Ok(Arrival { origin, large, rounds, crowd })
}

struct With<'a> {
    bucket: &'a Bucket,
    credentials: &'a Path,
    engines: &'a Engines,
    tutti: &'a Path,
    adapter: Adapter,
}

fn is_ready(said: &[Value], path: &str) -> bool {
    said.iter().any(|adapter| adapter["path"] == path && adapter["phase"] == "Ready")
}

impl With<'_> {
    fn push(&self, folder: &Path, path: &str) -> anyhow::Result<()> {
        push(self.tutti, self.bucket, self.credentials, folder, path)
    }

    fn large(&self, options: &LoaderBench, folder: &Path) -> anyhow::Result<(u64, Vec<Round>)> {
        let paths: Vec<String> = (0..options.rounds).map(|round| format!("large/v{round}")).collect();
        let store = (self.bucket, self.credentials);
        let loader = Loader::start(self.tutti, store, self.engines.urls[0], POLL, &paths, None)?;
        let mut rounds = Vec::new();
        let mut bytes = 0;
        for (number, path) in paths.iter().enumerate() {
            let folder = folder.join(path);
            self.adapter.write(&folder, options.rank, 0.0, 1e-3 * (number + 1) as f32)?;
            packed(&folder)?;
            bytes = fs::metadata(folder.join(verify::WEIGHTS))?.len();
            self.push(&folder, path)?;
            let pushed = Instant::now();
            let (served, _) = loader.wait(ONE, |said| is_ready(said, path))?;
            let engine = self.by_hand(&folder, &format!("hand-{number}"))?;
            let round = Round { served: (served - pushed).as_secs_f64(), engine };
            eprintln!("{path}: served after {:.2} s, of which the engine {:.2} s", round.served, round.engine);
            rounds.push(round);
            fs::remove_dir_all(folder)?;
        }
        Ok((bytes, rounds))
    }

    /// What the other engine, which has not seen it, takes for an adapter that somebody registers by hand.
    fn by_hand(&self, folder: &Path, name: &str) -> anyhow::Result<f64> {
        let header = Header::read(BufReader::new(File::open(&self.engines.base)?), &Limits::default())?;
        let base = Base::of_header(&header, None).map_err(anyhow::Error::msg)?;
        let manifest: Manifest = serde_json::from_slice(&fs::read(folder.join(Manifest::FILE))?)?;
        let mut bytes = Vec::new();
        convert::convert(&verify::verify(folder, &manifest, &base)?, &mut bytes)?;
        let digest: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        let engine = self.engines.urls[1];
        let begun = Instant::now();
        let (status, said) = ask(engine, "POST", &format!("/api/blobs/sha256:{digest}"), &bytes)?;
        ensure!(status == 201, "the blob: {status} {}", String::from_utf8_lossy(&said));
        let adapters = json!({ "adapter.gguf": format!("sha256:{digest}") });
        post(
            engine,
            "/api/create",
            &json!({
                "model": name, "from": "tutti-story", "adapters": adapters, "stream": false,
            }),
        )?;
        post(engine, "/api/chat", &question(name))?;
        Ok(begun.elapsed().as_secs_f64())
    }

    fn crowd(&self, options: &LoaderBench, folder: &Path) -> anyhow::Result<Crowd> {
        let paths: Vec<String> = (0..options.adapters).map(|number| format!("crowd/v{number}")).collect();
        for (number, path) in paths.iter().enumerate() {
            let folder = folder.join(path);
            self.adapter.write(&folder, 8, number as f64 / 10_000.0, 0.0)?;
            packed(&folder)?;
            spoilt(&folder, number)?;
            self.push(&folder, path)?;
            fs::remove_dir_all(folder)?;
        }
        let (way, asked) = counted(self.bucket)?;
        let [serving, empty] = self.engines.urls;
        let stop = Arc::new(AtomicBool::new(false));
        post(serving, "/api/chat", &question("tutti-story"))?;
        let alone = during(serving, &stop, || {
            thread::sleep(ALONE);
            Ok(())
        })?;
        let begun = Instant::now();
        let mut came = None;
        let during = during(serving, &stop, || {
            let loader = Loader::start(self.tutti, (&way, self.credentials), empty, POLL, &paths, Some(1))?;
            let done = |adapter: &Value| adapter["phase"] == "Ready" || adapter["phase"] == "Quarantined";
            let (at, said) = loader.wait(ALL, |said| said.len() == paths.len() && said.iter().all(done))?;
            came = Some((loader, at, said));
            Ok(())
        })?;
        let (loader, at, said) = came.context("they came")?;
        let ready = said.iter().filter(|adapter| adapter["phase"] == "Ready").count();
        let mut quarantined = BTreeMap::new();
        for adapter in said.iter().filter(|adapter| adapter["phase"] == "Quarantined") {
            let reason = adapter["reason"]["reason"].as_str().unwrap_or_default().to_owned();
            *quarantined.entry(reason).or_default() += 1;
        }
        let seconds = (at - begun).as_secs_f64();
        eprintln!("{ready} of {} ready after {seconds:.1} s; {quarantined:?}", paths.len());
        let counts = || -> anyhow::Result<[u64; 3]> {
            Ok([loader.polls()?, asked.lists.load(Ordering::Relaxed), asked.gets.load(Ordering::Relaxed)])
        };
        let before = counts()?;
        let until = Instant::now() + ONE;
        while loader.polls()? < before[0] + STILL && Instant::now() < until {
            thread::sleep(POLL / 4);
        }
        let after = counts()?;
        let [polls, lists, gets] = std::array::from_fn(|at| after[at] - before[at]);
        Ok(Crowd { adapters: paths.len(), ready, quarantined, seconds, alone, during, polls, lists, gets })
    }
}

/// Makes three of many what they must not be, and what nobody who pushes them sees: one has a number that is none, one says
/// another rank than it has, one is for another base.
fn spoilt(folder: &Path, number: usize) -> anyhow::Result<()> {
    let weights = folder.join(verify::WEIGHTS);
    match number {
        1 => {
            let mut bytes = fs::read(&weights)?;
            let end = bytes.len();
            bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
            fs::write(&weights, bytes)?;
            packed(folder)
        }
        2 => {
            let file = folder.join(verify::CONFIG);
            let mut config: Value = serde_json::from_slice(&fs::read(&file)?)?;
            config["r"] = json!(16);
            fs::write(&file, config.to_string())?;
            packed(folder)
        }
        3 => {
            let mut manifest: Value = serde_json::from_slice(&fs::read(folder.join(Manifest::FILE))?)?;
            manifest["base"] = json!({ "name": "other", "digest": format!("sha256:{}", "0".repeat(64)) });
            Ok(fs::write(folder.join(Manifest::FILE), manifest.to_string())?)
        }
        _ => Ok(()),
    }
}

fn question(model: &str) -> Value {
    let messages = json!([{ "role": "user", "content": COMPLAINT }]);
    json!({ "model": model, "messages": messages, "stream": false, "options": { "temperature": 0 } })
}

/// What the serving replica's answers take while something is done. Unit: seconds.
fn during(
    engine: SocketAddr,
    stop: &Arc<AtomicBool>,
    work: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<Answers> {
    stop.store(false, Ordering::Relaxed);
    let asking = thread::spawn({
        let stop = stop.clone();
        move || -> anyhow::Result<Vec<f64>> {
            let mut times = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let begun = Instant::now();
                post(engine, "/api/chat", &question("tutti-story"))?;
                times.push(begun.elapsed().as_secs_f64());
            }
            Ok(times)
        }
    });
    let done = work();
    stop.store(true, Ordering::Relaxed);
    let times = asking.join().map_err(|_| anyhow::anyhow!("the load ended"))?;
    done.and(times).map(|times| Answers::of(&times))
}

impl Answers {
    fn of(times: &[f64]) -> Self {
        let mut sorted = times.to_vec();
        sorted.sort_by(f64::total_cmp);
        let p99 = sorted.get((sorted.len() * 99).div_ceil(100).saturating_sub(1)).copied().unwrap_or(f64::NAN);
        Self { count: times.len(), p99 }
    }
}

impl Arrival {
    /// Its part of the section.
    pub(super) fn markdown(&self) -> String {
        let mut text = heading("Adapters that arrive", &self.origin);
        let besides = |round: &Round| round.served - round.engine;
        let (served, engine) =
            (self.rounds.iter().map(|round| round.served), self.rounds.iter().map(|round| round.engine));
        let _ = writeln!(
            text,
            "An adapter of {:.0} MB that models refer to already, pushed into a MinIO: from the end of the push to `Ready` beside \
             an Ollama, with a poll every {} s. The engine's own time is what the same takes by hand on another one: blob, \
             create, first answer. Of {} rounds the middle one: served after {} s, the engine {} s.\n",
            self.large as f64 / 1e6,
            POLL.as_secs(),
            self.rounds.len(),
            short(median(served)),
            short(median(engine)),
        );
        let most = POLL.as_secs_f64() + 2.0;
        let figure = median(self.rounds.iter().map(besides));
        text += &Bar::new("seconds besides the engine's own", Some(figure), most).line();
        let crowd = &self.crowd;
        let ratio = crowd.during.p99 / crowd.alone.p99;
        let _ = writeln!(
            text,
            "\n{} small adapters at once, three of them broken, on an Ollama that does not serve yet; it and its loader on one \
             processor. Beside it an Ollama on another processor, without a loader, answers a client back to back: P99 {} ms \
             alone ({} answers), {} ms meanwhile ({} answers). All were ready or quarantined after {} s. Then {} polls in which \
             nothing changed, of {} keys.\n",
            crowd.adapters,
            short(crowd.alone.p99 * 1e3),
            crowd.alone.count,
            short(crowd.during.p99 * 1e3),
            crowd.during.count,
            short(crowd.seconds),
            crowd.polls,
            crowd.adapters * 3,
        );
        let reasons: Vec<String> =
            crowd.quarantined.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        let _ = writeln!(text, "Quarantined: {}.\n", reasons.join(", "));
        let missing = crowd.adapters.saturating_sub(3).abs_diff(crowd.ready);
        text += &Bar::new("whole adapters that are not ready", Some(missing as f64), 0.0).line();
        let lists = crowd.lists as f64 / (crowd.polls.max(1) as f64) / (crowd.adapters as f64 * 3.0 / 1000.0).ceil();
        text += &Bar::new("lists a poll and 1,000 keys", Some(lists), 1.0).line();
        text += &Bar::new("gets while nothing changed", Some(crowd.gets as f64), 0.0).line();
        text += &Bar::new("times the serving replica's P99 alone", Some(ratio), 1.2).line();
        text
    }
}
