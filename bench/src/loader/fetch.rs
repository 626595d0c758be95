//! One large file from an object store onto the disk, by `tutti adapter pull` and by the tools that people know.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::{AWSCLI, Bucket, LoaderBench};
use crate::contender::{find, version};
use crate::report::{Bar, Origin, heading, median, short};

/// The file, as PEFT calls it.
const FILE: &str = "adapter_model.safetensors";
/// Where it lies in the bucket.
const PATH: &str = "big/v1";
/// How often a process is asked for its memory: the kernel keeps the most that it ever was.
const LOOK: Duration = Duration::from_millis(3);

/// A run of the benchmark.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Fetch {
    origin: Origin,
    mebibytes: u64,
    rows: Vec<Row>,
    /// Tools that are not here, and why.
    absent: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Row {
    name: String,
    /// Unit: seconds; of each run.
    times: Vec<f64>,
    /// Processor time of its own, of each run. Unit: seconds.
    own: Vec<f64>,
    /// The most memory that it ever took (VmHWM). Unit: bytes.
    peak: u64,
}

/// A tool: its name, and how it fetches the file into a folder.
struct Tool {
    name: &'static str,
    version: String,
    command: Box<dyn Fn(&Path) -> Command>,
}

pub(super) fn measure(options: &LoaderBench, bucket: &Bucket, tutti: &Path) -> anyhow::Result<Fetch> {
    let folder = TempDir::with_prefix("tutti-bench-loader-")?;
    let credentials = folder.path().join("credentials");
    let text = format!("[default]\naws_access_key_id = {}\naws_secret_access_key = {}\n", bucket.key, bucket.secret);
    fs::write(&credentials, text)?;
    upload(options.mebibytes, bucket, tutti, &folder.path().join("packed"), &credentials)?;
    let (tools, absent) = tools(bucket, tutti, &credentials, folder.path())?;
    let mut rows: Vec<Row> = tools.iter().map(|tool| Row::of(tool.name)).collect();
    for round in 0..options.rounds {
        // Each begins a round once: who is first finds the store otherwise than who is last.
        for at in 0..tools.len() {
            let at = (at + round) % tools.len();
            let out = folder.path().join("out");
            fs::create_dir(&out)?;
            // What the last one left to be written is no concern of this one.
            rustix::fs::sync();
            let run = run((tools[at].command)(&out)).with_context(|| tools[at].name)?;
            let size = fs::metadata(out.join(FILE)).with_context(|| tools[at].name)?.len();
            ensure!(size == options.mebibytes << 20, "{} brought {size} bytes", tools[at].name);
            fs::remove_dir_all(&out)?;
            eprintln!("{}: {:.2} s, {} MiB", tools[at].name, run.time, run.peak >> 20);
            rows[at].take(&run);
        }
    }
    let mut versions: Vec<String> = tools.into_iter().map(|tool| tool.version).collect();
    versions.push(bucket.version.clone());
    let origin = Origin::here("cargo xtask bench loader".into(), versions);
    Ok(Fetch { origin, mebibytes: options.mebibytes, rows, absent })
}

/// Makes the file and puts it into the store, as an adapter.
fn upload(mebibytes: u64, bucket: &Bucket, tutti: &Path, folder: &Path, credentials: &Path) -> anyhow::Result<()> {
    fs::create_dir(folder)?;
    fs::write(folder.join("adapter_config.json"), r#"{"r": 8, "lora_alpha": 16}"#)?;
    let (mut random, mut file) = (File::open("/dev/urandom")?, File::create(folder.join(FILE))?);
    let mut bytes = vec![0; 1 << 20];
    for _ in 0..mebibytes {
        random.read_exact(&mut bytes)?;
        file.write_all(&bytes)?;
    }
    let done = |command: &mut Command| -> anyhow::Result<()> {
        let output = command.output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    done(Command::new(tutti).args(["adapter", "pack"]).arg(folder))?;
    let mut push = Command::new(tutti);
    push.args(["adapter", "push"]).arg(folder).arg(format!("s3://{}/{PATH}/", bucket.name));
    done(push.args(["--endpoint", &bucket.url, "--credentials-file"]).arg(credentials))?;
    Ok(fs::remove_dir_all(folder)?)
}

/// The tools that are here, each as its makers ship it; and what is not here.
fn tools(bucket: &Bucket, tutti: &Path, credentials: &Path, folder: &Path) -> anyhow::Result<(Vec<Tool>, Vec<String>)> {
    let (place, file) = (format!("s3://{}/{PATH}/", bucket.name), format!("s3://{}/{PATH}/{FILE}", bucket.name));
    let mut tools = vec![Tool {
        name: "tutti adapter pull",
        version: version(tutti, "--version"),
        command: {
            let (tutti, url, place, credentials) =
                (tutti.to_owned(), bucket.url.clone(), place, credentials.to_owned());
            Box::new(move |out| {
                let mut command = Command::new(&tutti);
                command.args(["adapter", "pull", &place]).arg(out).args(["--endpoint", &url, "--credentials-file"]);
                command.arg(&credentials);
                command
            })
        },
    }];
    let mut absent = Vec::new();
    match bucket.awscli.clone().zip(find("python3")) {
        None => absent.push("aws s3 cp: awscli is not installed".to_owned()),
        Some(found) => tools.push(aws(bucket, found, file.clone(), credentials, folder)),
    }
    match find("rclone") {
        None => absent.push("rclone is not installed; on Debian: apt-get install rclone".to_owned()),
        Some(rclone) => tools.push(self::rclone(bucket, rclone)),
    }
    match find("s3cmd") {
        None => absent.push("s3cmd is not installed; on Debian: apt-get install s3cmd".to_owned()),
        Some(s3cmd) => tools.push(self::s3cmd(bucket, s3cmd, file, folder)?),
    }
    Ok((tools, absent))
}

fn aws(bucket: &Bucket, (packages, python): (PathBuf, PathBuf), file: String, credentials: &Path, home: &Path) -> Tool {
    let (url, credentials, home) = (bucket.url.clone(), credentials.to_owned(), home.to_owned());
    let version = AWSCLI.lines().find(|line| !line.starts_with('#')).unwrap_or_default().to_owned();
    let command = move |out: &Path| {
        let mut command = Command::new(&python);
        command.env("PYTHONPATH", &packages).env("HOME", &home).env("AWS_SHARED_CREDENTIALS_FILE", &credentials);
        command.args([
            "-m",
            "awscli",
            "s3",
            "cp",
            "--only-show-errors",
            "--endpoint-url",
            &url,
            "--region",
            "us-east-1",
        ]);
        command.arg(&file).arg(out.join(FILE));
        command
    };
    Tool { name: "aws s3 cp", version, command: Box::new(command) }
}

fn rclone(bucket: &Bucket, program: PathBuf) -> Tool {
    let (bucket, version) = (bucket.clone(), version(&program, "--version"));
    let command = move |out: &Path| {
        let mut command = Command::new(&program);
        for (name, value) in [
            ("TYPE", "s3"),
            ("PROVIDER", "Minio"),
            ("ENDPOINT", &bucket.url),
            ("ACCESS_KEY_ID", &bucket.key),
            ("SECRET_ACCESS_KEY", &bucket.secret),
        ] {
            command.env(format!("RCLONE_CONFIG_STORE_{name}"), value);
        }
        command.env("RCLONE_CONFIG", "/nonexistent/rclone.conf");
        command.args(["copyto", &format!("store:{}/{PATH}/{FILE}", bucket.name)]).arg(out.join(FILE));
        command
    };
    Tool { name: "rclone copyto", version, command: Box::new(command) }
}

fn s3cmd(bucket: &Bucket, program: PathBuf, file: String, folder: &Path) -> anyhow::Result<Tool> {
    let host = bucket.url.trim_start_matches("http://");
    let config = folder.join("s3cfg");
    let text = format!(
        "[default]\naccess_key = {}\nsecret_key = {}\nhost_base = {host}\nhost_bucket = {host}\nuse_https = False\n",
        bucket.key, bucket.secret
    );
    fs::write(&config, text)?;
    let version = version(&program, "--version");
    let command = move |out: &Path| {
        let mut command = Command::new(&program);
        command.arg("--config").arg(&config).args(["--no-progress", "get", &file]).arg(out.join(FILE));
        command
    };
    Ok(Tool { name: "s3cmd get", version, command: Box::new(command) })
}

/// What one fetch took.
struct Run {
    time: f64,
    own: f64,
    peak: u64,
}

fn run(mut command: Command) -> anyhow::Result<Run> {
    // What this machine tells tools of other stores is for those.
    let said: Vec<_> = std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("AWS_")).collect();
    for (name, _) in said {
        if command.get_envs().all(|(own, _)| own != name) {
            command.env_remove(name);
        }
    }
    let begun = Instant::now();
    let said = tempfile::tempfile()?;
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said.try_clone()?).spawn()?;
    let (mut peak, mut own) = (0, 0.0);
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        peak = peak.max(high_water(child.id()));
        own = crate::cpu::tree_time(child.id()).as_secs_f64().max(own);
        std::thread::sleep(LOOK); // between two looks
    };
    let time = begun.elapsed().as_secs_f64();
    // Not the whole command: keys are among it.
    ensure!(status.success(), "{:?}: {status}: {}", command.get_program(), said_so(said));
    Ok(Run { time, own, peak })
}

fn said_so(mut said: File) -> String {
    use std::io::Seek as _;
    let mut text = String::new();
    let _ = said.rewind().and_then(|()| said.read_to_string(&mut text));
    text
}

/// The most memory that a process ever took. Unit: bytes.
fn high_water(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) << 10
}

impl Row {
    fn of(name: &str) -> Self {
        Row { name: name.to_owned(), times: Vec::new(), own: Vec::new(), peak: 0 }
    }

    fn take(&mut self, run: &Run) {
        self.times.push(run.time);
        self.own.push(run.own);
        self.peak = self.peak.max(run.peak);
    }

    fn time(&self) -> f64 {
        median(self.times.iter().copied())
    }
}

impl Fetch {
    /// Its part of the section.
    pub(super) fn markdown(&self) -> String {
        let mut text = heading("Adapters from an object store", &self.origin);
        let rounds = self.rows.first().map_or(0, |row| row.times.len());
        let _ = writeln!(
            text,
            "One file of {} MiB from a MinIO on the same machine onto its disk, by each tool as it is shipped, in turn, each from \
             the start of its process to its end; of {rounds} rounds the middle one. `tutti` also computes the file's SHA-256 and \
             has it on the disk (fsync) before it ends; the others do neither.\n",
            self.mebibytes
        );
        text += "| tool | MiB/s | seconds | its own CPU s | peak MiB | all runs |\n|---|---|---|---|---|---|\n";
        for row in &self.rows {
            let rate = self.mebibytes as f64 / row.time();
            let (own, peak) = (median(row.own.iter().copied()), row.peak as f64 / f64::from(1 << 20));
            let all: Vec<String> = row.times.iter().map(|time| short(*time)).collect();
            let cells = [rate, row.time(), own, peak].map(short).join(" | ");
            let _ = writeln!(text, "| {} | {cells} | {} |", row.name, all.join(" "));
        }
        text.push('\n');
        let (own, others) = self.rows.split_first().map_or((None, &[][..]), |(own, others)| (Some(own), others));
        let fastest = others.iter().map(Row::time).fold(f64::INFINITY, f64::min);
        let times = own.map(|own| fastest / own.time());
        text += &Bar::new("times the fastest of the others", times, 0.9).at_least().line();
        let peak = own.map(|own| own.peak as f64 / f64::from(1 << 20));
        text += &Bar::new("peak memory, MiB", peak, 64.0).line();
        for absent in &self.absent {
            let _ = writeln!(text, "- Not measured: {absent}.");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_measured_by_its_own_process() {
        let mut command = Command::new("sh");
        command.args(["-c", "x=$(head -c 8388608 /dev/zero | tr '\\0' a); sleep 0.1"]);
        let run = run(command).unwrap();
        assert!(run.time >= 0.1 && run.peak > 8 << 20, "{} {}", run.time, run.peak);
        let mut failing = Command::new("sh");
        failing.args(["-c", "echo why >&2; exit 3"]);
        assert!(self::run(failing).err().unwrap().to_string().contains("why"));
    }
}
