//! What the loader is measured between: adapters made of one of the rig's, a store that counts who asks it what, a loader.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use tutti_adapter_loader::{pack, safetensors, verify};
use tutti_api::Manifest;

use super::Bucket;
use crate::contender::{free_addr, signal};

/// How long an answer may take: an engine that is busy makes others wait.
const ANSWER: Duration = Duration::from_secs(120);
/// How often the loader is asked how far it is.
const LOOK: Duration = Duration::from_millis(10);
/// The story's complaint, which the rig's adapters answer otherwise than their base.
pub(super) const COMPLAINT: &str = "你们的系统导致我的资金被冻结了！";

/// Asks once, on a connection of its own.
pub(super) fn ask(addr: SocketAddr, method: &str, path: &str, body: &[u8]) -> anyhow::Result<(u16, Vec<u8>)> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(ANSWER))?;
    // HTTP/1.0: an answer ends with its connection.
    let head = format!("{method} {path} HTTP/1.0\r\nHost: {addr}\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = memchr::memmem::find(&answer, b"\r\n\r\n").context("no answer")?;
    let status = answer.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    Ok((status.context("no status")?, answer.split_off(end + 4)))
}

/// The same with JSON, where nothing else than success is wanted.
pub(super) fn post(addr: SocketAddr, path: &str, body: &Value) -> anyhow::Result<Value> {
    let (status, said) = ask(addr, "POST", path, body.to_string().as_bytes())?;
    ensure!(status == 200, "{path}: {status} {}", String::from_utf8_lossy(&said));
    Ok(serde_json::from_slice(&said)?)
}

/// One of the rig's adapters with another rank: what is added to its matrices is nothing but, somewhere, this mark.
pub(super) struct Adapter {
    config: Value,
    tensors: Vec<safetensors::Tensor>,
    bytes: Vec<u8>,
}

impl Adapter {
    pub(super) fn read(folder: &Path) -> anyhow::Result<Self> {
        let config = serde_json::from_slice(&fs::read(folder.join(verify::CONFIG))?)?;
        let bytes = fs::read(folder.join(verify::WEIGHTS))?;
        let tensors = safetensors::read(&bytes[..], bytes.len() as u64)?;
        ensure!(tensors.iter().all(|tensor| tensor.dtype == safetensors::Dtype::F32), "the rig's adapters are F32");
        Ok(Self { config, tensors, bytes })
    }

    /// Writes it with a rank, and an alpha that is off by `apart` of itself.
    pub(super) fn write(&self, folder: &Path, rank: u64, apart: f64, mark: f32) -> anyhow::Result<()> {
        fs::create_dir_all(folder)?;
        let own = self.config["r"].as_u64().context("a rank")?;
        ensure!(rank >= own, "the rank is at least {own}");
        let alpha = self.config["lora_alpha"].as_f64().context("an alpha")?;
        let mut config = self.config.clone();
        (config["r"], config["lora_alpha"]) = (json!(rank), json!(alpha * (1.0 + apart) * rank as f64 / own as f64));
        fs::write(folder.join(verify::CONFIG), config.to_string())?;
        let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
        for tensor in &self.tensors {
            let (start, content) = (data.len(), &self.bytes[tensor.start as usize..][..tensor.length as usize]);
            let (rows, columns) = (tensor.shape[0], tensor.shape[1]);
            let shape = if tensor.name.ends_with("lora_A.weight") {
                data.extend_from_slice(content);
                data.resize(start + (rank * columns * 4) as usize, 0);
                if rank > own {
                    // B's column for it is nothing.
                    let end = data.len();
                    data[end - 4..].copy_from_slice(&mark.to_le_bytes());
                }
                [rank, columns]
            } else {
                for row in content.chunks_exact((columns * 4) as usize) {
                    data.extend_from_slice(row);
                    data.resize(data.len() + ((rank - columns) * 4) as usize, 0);
                }
                [rows, rank]
            };
            let entry = json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, data.len()] });
            header.insert(tensor.name.clone(), entry);
        }
        let header = Value::Object(header).to_string();
        let all = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
        Ok(fs::write(folder.join(verify::WEIGHTS), all)?)
    }
}

/// Gives a folder its manifest.
pub(super) fn packed(folder: &Path) -> anyhow::Result<()> {
    let packed = pack::pack(folder, Manifest::default(), &|_, _| ())?;
    Ok(pack::write(folder, &packed.manifest)?)
}

/// Puts a folder into the store, its manifest last.
pub(super) fn push(tutti: &Path, bucket: &Bucket, credentials: &Path, folder: &Path, path: &str) -> anyhow::Result<()> {
    let mut push = Command::new(tutti);
    push.args(["adapter", "push"]).arg(folder).arg(format!("s3://{}/{path}/", bucket.name));
    let output = push.args(["--endpoint", &bucket.url, "--credentials-file"]).arg(credentials).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// What was asked of a store.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) lists: AtomicU64,
    pub(super) gets: AtomicU64,
}

/// A way to a store on which each question is counted. Its threads end with the process.
pub(super) fn counted(bucket: &Bucket) -> anyhow::Result<(Bucket, Arc<Asked>)> {
    let to: SocketAddr = bucket.url.trim_start_matches("http://").parse()?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let asked = Arc::new(Asked::default());
    let way = Bucket { url: format!("http://{}", listener.local_addr()?), ..bucket.clone() };
    let counts = asked.clone();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let counts = counts.clone();
            std::thread::spawn(move || passed(&client, to, &counts));
        }
    });
    Ok((way, asked))
}

/// The loader's questions are GETs without a body, each sent once the answer before it is read: each begins what is read.
fn passed(client: &TcpStream, to: SocketAddr, asked: &Asked) -> io::Result<()> {
    let store = TcpStream::connect(to)?;
    let (mut back, mut from) = (client.try_clone()?, store.try_clone()?);
    std::thread::spawn(move || {
        let copied = io::copy(&mut from, &mut back);
        let _ = back.shutdown(Shutdown::Both);
        copied
    });
    let mut bytes = vec![0; 64 << 10];
    let (mut client, mut store) = (client, &store);
    loop {
        let count = client.read(&mut bytes)?;
        if count == 0 {
            return store.shutdown(Shutdown::Write);
        }
        let line = bytes[..count].split(|byte| *byte == b'\r').next().unwrap_or_default();
        if line.starts_with(b"GET ") {
            let is_list = memchr::memmem::find(line, b"list-type=2").is_some();
            let counter = if is_list { &asked.lists } else { &asked.gets };
            counter.fetch_add(1, Ordering::Relaxed);
        }
        store.write_all(&bytes[..count])?;
    }
}

/// A running loader beside an engine. Dropping it ends it.
pub(super) struct Loader {
    child: Child,
    addr: SocketAddr,
    folder: TempDir,
}

impl Loader {
    /// Starts one that wants these paths; where `processor` is one, on that alone.
    pub(super) fn start(
        tutti: &Path,
        (bucket, credentials): (&Bucket, &Path),
        engine: SocketAddr,
        poll: Duration,
        paths: &[String],
        processor: Option<usize>,
    ) -> anyhow::Result<Self> {
        let folder = TempDir::with_prefix("tutti-bench-loader-")?;
        let (addr, engine) = (free_addr()?, format!("http://{engine}"));
        let config = folder.path().join("tutti.yaml");
        let s3 = json!({ "endpoint": bucket.url, "credentialsFile": credentials });
        let poll = format!("{}ms", poll.as_millis());
        let from = format!("s3://{}/", bucket.name);
        let adapters = json!({ "from": from, "poll": poll, "probe": { "prompt": COMPLAINT }, "s3": s3 });
        let pool =
            json!({ "name": "p", "base": "tutti-story", "endpoints": [{ "url": engine }], "adapters": adapters });
        write(&config, &pool, paths)?;
        let log = fs::File::create(folder.path().join("loader.log"))?;
        let mut command = match processor {
            None => Command::new(tutti),
            Some(processor) => {
                let mut command = Command::new("taskset");
                command.args(["-c", &processor.to_string()]).arg(tutti);
                command
            }
        };
        command.args(["adapter-loader", "--pool", "p", "--engine", &engine, "--listen", &addr.to_string(), "--config"]);
        command.arg(&config).arg("--state").arg(folder.path().join("state"));
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let mut loader = Self { child, addr, folder };
        let until = Instant::now() + Duration::from_secs(30);
        while ask(addr, "GET", "/healthz", b"").is_err() {
            if Instant::now() > until || loader.child.try_wait()?.is_some() {
                let said = fs::read_to_string(loader.folder.path().join("loader.log")).unwrap_or_default();
                anyhow::bail!("the loader does not listen: {said}");
            }
            std::thread::sleep(LOOK);
        }
        Ok(loader)
    }

    /// What it says of its adapters: path, phase, reason, name.
    pub(super) fn adapters(&self) -> anyhow::Result<Vec<Value>> {
        let (status, said) = ask(self.addr, "GET", "/v1/adapters", b"")?;
        ensure!(status == 200, "/v1/adapters: {status}");
        let list: Value = serde_json::from_slice(&said)?;
        Ok(list["adapters"].as_array().cloned().unwrap_or_default())
    }

    /// Waits until what it says is as wanted; yields when it was, and what it said.
    pub(super) fn wait(
        &self,
        within: Duration,
        wanted: impl Fn(&[Value]) -> bool,
    ) -> anyhow::Result<(Instant, Vec<Value>)> {
        let until = Instant::now() + within;
        loop {
            let said = self.adapters()?;
            let now = Instant::now();
            if wanted(&said) {
                return Ok((now, said));
            }
            ensure!(now < until, "not within {within:?}: {}", json!(said));
            std::thread::sleep(LOOK);
        }
    }

    /// Polls of its source that it has counted.
    pub(super) fn polls(&self) -> anyhow::Result<u64> {
        let (_, page) = ask(self.addr, "GET", "/metrics", b"")?;
        let page = String::from_utf8_lossy(&page).into_owned();
        let line = page.lines().find_map(|line| line.strip_prefix("tutti_loader_polls_total{result=\"ok\"} "));
        Ok(line.context("no count of polls")?.trim().parse()?)
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        signal(self.child.id(), rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}

/// Writes a configuration, whole or not at all.
fn write(config: &Path, pool: &Value, paths: &[String]) -> anyhow::Result<()> {
    let revision = |(number, path)| json!({ "name": format!("r{number}"), "pool": "p", "adapter": path });
    let revisions: Vec<Value> = paths.iter().enumerate().map(revision).collect();
    let models = json!([{ "name": "risk", "revisions": revisions, "traffic": { "revision": "r0" } }]);
    let new = config.with_extension("new");
    fs::write(&new, json!({ "pools": [pool], "models": models }).to_string())?;
    Ok(fs::rename(new, config)?)
}
