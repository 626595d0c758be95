//! `tutti up`: one machine, one command.

use std::io::IsTerminal;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use tutti_gateway::Gateway;
use tutti_simulator::{Model, Simulator};

use crate::config::Loaded;
use crate::gateway::{Threads, serve};
use crate::local::{self, Answers};
use crate::{Source, config};

/// How long an Ollama that we start may take to answer.
const START: Duration = Duration::from_secs(30);

#[derive(Args, Clone, Debug)]
pub(crate) struct Up {
    #[command(flatten)]
    source: Source,
    /// Serve a simulated Ollama, to try tutti without one; its answers say that they are simulated
    #[arg(long)]
    simulate: bool,
    #[command(flatten)]
    threads: Threads,
}

impl Up {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        if self.simulate {
            let simulated = Simulator::start(tutti_simulator::Config::new(Model::chat("simulated", 1 << 30)))
                .context("cannot start the simulated Ollama")?;
            return self.serve(Loaded::unnamed(self.with_overrides(&simulated.url())?));
        }
        match config::load(&self.source)? {
            Ok(Some(loaded)) => self.serve(loaded),
            Err(code) => Ok(code),
            Ok(None) => {
                let host = local::ollama_host();
                let _ollama = find_or_start(&host)?;
                self.serve(Loaded::unnamed(self.with_overrides(&host)?))
            }
        }
    }

    /// The configuration without a file, with what the environment says.
    fn with_overrides(&self, ollama: &str) -> Result<tutti_api::Config> {
        config::overridden(local::zero_config(ollama))
    }

    fn serve(&self, loaded: Loaded) -> Result<ExitCode> {
        serve(loaded, &self.threads, welcome)
    }
}

/// Says where tutti is, with a line to paste.
fn welcome(gateway: &Gateway) {
    let models = gateway.models();
    let model = models.iter().find(|name| !name.contains("embed")).or(models.first());
    eprintln!("\ntutti is up at http://{}", gateway.listen);
    match model {
        None => eprintln!(
            "The replicas have no model yet: `ollama pull qwen2.5:0.5b` gets one, and tutti serves it at once."
        ),
        Some(model) => {
            eprintln!("models: {}\n\nTry it:\n", models.join(", "));
            let body = format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"你好"}}]}}"#);
            eprintln!("curl -s http://{}/v1/chat/completions -d '{body}'\n", gateway.listen);
        }
    }
    if std::io::stderr().is_terminal() {
        eprintln!("`tutti status` shows what it does; Ctrl-C ends it.\n");
    }
}

/// The Ollama at this address, or one that we start there; dropping it ends what we started, and nothing else.
fn find_or_start(host: &str) -> Result<Option<Started>> {
    match local::who(host) {
        Answers::Ollama(version) => {
            eprintln!("found Ollama {version} at {host}");
            return Ok(None);
        }
        Answers::Tutti => bail!(
            "at {host} answers a tutti, not an Ollama: tutti would ask itself. Set OLLAMA_HOST to the Ollama's address"
        ),
        Answers::Other => {
            bail!("at {host} answers something that is no Ollama. Set OLLAMA_HOST to the Ollama's address")
        }
        Answers::Nobody => {}
    }
    let Some(binary) = in_path("ollama") else {
        bail!(
            "no Ollama answers at {host}, and there is no `ollama` in PATH. Ways on:\n\
             \x20 - install it (ollama.com/download), then run `tutti up` again\n\
             \x20 - set OLLAMA_HOST to the address of one that runs elsewhere\n\
             \x20 - write a tutti.yaml that lists your replicas, and run `tutti up --config tutti.yaml`\n\
             \x20 - `tutti up --simulate` to try tutti with a simulated one"
        );
    };
    eprintln!("starting {} at {host}", binary.display());
    let mut command = Command::new(&binary);
    command.arg("serve").env("OLLAMA_HOST", host).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.process_group(0); // Ctrl-C is ours: Ollama ends after our requests have
    let mut started = Started(command.spawn().with_context(|| format!("cannot start {}", binary.display()))?);
    let until = Instant::now() + START;
    while !matches!(local::who(host), Answers::Ollama(_)) {
        if let Some(status) = started.0.try_wait()? {
            bail!("`ollama serve` ended at once ({status}): run it by hand to see why");
        }
        if Instant::now() > until {
            bail!("`ollama serve` does not answer at {host} after {START:?}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(Some(started))
}

fn in_path(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// An Ollama that we started.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.0.id())
            && let Some(pid) = rustix::process::Pid::from_raw(pid)
        {
            // SIGTERM lets it end its runners; where it is gone already there is nothing to do.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.0.wait();
    }
}
