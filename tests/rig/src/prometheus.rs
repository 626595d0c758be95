//! A real Prometheus: Debian's.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::Supervised;

/// How long one may take to answer: about 1 s on two idle cores.
const START: Duration = Duration::from_secs(60);

/// One on a port of its own that scrapes once a second. Dropping it ends it.
#[derive(Debug)]
pub struct Prometheus {
    _process: Supervised,
    url: String,
    _folder: TempDir,
}

impl Prometheus {
    /// Starts one that scrapes `/metrics` of these, each by the name of its job and `host:port`, and has these rules.
    ///
    /// # Errors
    /// It does not come to answer; its log is in the error.
    pub fn start(targets: &[(&str, &str)], rules: &Path) -> Result<Self> {
        let folder = TempDir::with_prefix("tutti-prometheus-")?;
        let rules = fs::canonicalize(rules)?;
        let mut config = format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: [{:?}]\nscrape_configs:\n",
            rules.display().to_string()
        );
        for (job, target) in targets {
            config.push_str(&format!("  - {{ job_name: {job:?}, static_configs: [{{ targets: [{target:?}] }}] }}\n"));
        }
        fs::write(folder.path().join("prometheus.yml"), config)?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = Command::new("prometheus");
        command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
        command.args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"]).current_dir(folder.path());
        let log = folder.path().join("log");
        let mut process = Supervised::start(&command, &File::create(&log)?)?;
        let url = format!("http://127.0.0.1:{port}");
        let until = Instant::now() + START;
        while ureq::get(&format!("{url}/-/ready")).call().is_err() {
            if process.ended()?.is_some() || Instant::now() > until {
                bail!("no Prometheus (Debian's package prometheus): {}", fs::read_to_string(&log).unwrap_or_default());
            }
            std::thread::sleep(Duration::from_millis(50)); // between two looks: nothing tells us
        }
        Ok(Self { _process: process, url, _folder: folder })
    }

    /// The series that a query has now.
    ///
    /// # Errors
    /// What Prometheus says is wrong with it.
    pub fn query(&self, query: &str) -> Result<Vec<Value>> {
        self.asked("query", &[("query", query)])
    }

    /// The series that a query has in each second between two times. Unit: seconds since 1970.
    ///
    /// # Errors
    /// What Prometheus says is wrong with it.
    pub fn range(&self, query: &str, (from, to): (f64, f64)) -> Result<Vec<Value>> {
        let [from, to] = [from, to].map(|time| time.to_string());
        self.asked("query_range", &[("query", query), ("start", &from), ("end", &to), ("step", "1")])
    }

    fn asked(&self, path: &str, pairs: &[(&str, &str)]) -> Result<Vec<Value>> {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let request = agent.get(&format!("{}/api/v1/{path}", self.url));
        let mut answer = request.query_pairs(pairs.iter().copied()).call()?;
        let answer: Value = serde_json::from_str(&answer.body_mut().read_to_string()?)?;
        ensure!(answer["status"] == "success", "{pairs:?}: {answer}");
        answer["data"]["result"].as_array().cloned().context("no result")
    }
}

/// Runs the cases of a file with promtool.
///
/// # Errors
/// What promtool says.
pub fn promtool(arguments: &[&str], folder: &Path) -> Result<()> {
    let output =
        Command::new("promtool").args(arguments).current_dir(folder).output().context("Debian's prometheus")?;
    let said = [output.stdout, output.stderr].concat();
    ensure!(output.status.success(), "promtool {}: {}", arguments.join(" "), String::from_utf8_lossy(&said));
    Ok(())
}
