//! `tutti up`: one machine, one command.

use std::io::IsTerminal;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use tutti_api::ReplicaUrl;
use tutti_gateway::Gateway;
use tutti_simulator::{Model, Simulator};

use crate::beside::Beside;
use crate::config::Loaded;
use crate::gateway::{Ends, Hangup, Succession, Threads, run, serve};
use crate::local::{self, Answers};
use crate::print::{plain, quoted, say};
use crate::{Source, config};

/// How long an Ollama that we start may take to answer.
const START: Duration = Duration::from_secs(30);
/// How long it may take to end, before it is killed.
const END: Duration = Duration::from_secs(10);
/// How often we look whether it has.
const LOOK: Duration = Duration::from_millis(50);

#[derive(Args, Clone, Debug)]
pub(crate) struct Up {
    #[command(flatten)]
    source: Source,
    /// Serve a simulated Ollama, to try tutti without one; its answers say that they are simulated
    #[arg(long, conflicts_with = "config")]
    simulate: bool,
    #[command(flatten)]
    threads: Threads,
}

impl Up {
    pub(crate) fn run(&self) -> Result<ExitCode> {
        if self.simulate {
            let simulated = Simulator::start(tutti_simulator::Config::new(Model::chat("simulated", 1 << 30)))
                .context("cannot start the simulated Ollama")?;
            let config = config::overridden(local::zero_config(&simulated.url()))?;
            let loaded = Loaded { config, lists_pools: true, file: None, beside: Beside::default() };
            return run(Hangup::Ends, async |ends| self.serve(loaded, ends).await);
        }
        let loaded = config::load(&self.source)?;
        let hangup = if loaded.file.is_some() { Hangup::Reloads } else { Hangup::Ends };
        if loaded.lists_pools {
            return run(hangup, async |ends| self.serve(loaded, ends).await);
        }
        let host = local::ollama_host()?;
        run(hangup, async |ends| match find_or_start(&host, ends).await? {
            Ollama::Found => self.serve(loaded, ends).await,
            Ollama::Started(_until_the_end) => self.serve(loaded, ends).await,
            Ollama::NotWaitedFor => Ok(ExitCode::SUCCESS),
        })
    }

    async fn serve(&self, mut loaded: Loaded, ends: &mut Ends) -> Result<ExitCode> {
        if loaded.config.pools.iter().any(|pool| pool.adapters.is_some()) {
            loaded.beside = Beside::start(&loaded.config, &config::loaders_state()?)?;
            loaded.beside.join(&mut loaded.config);
        }
        let names_models = config::names_models(&loaded.config);
        // Whoever took over would lose the Ollama that ends with us.
        let succession = Succession { takes: false, gives: false };
        serve(loaded, &self.threads, succession, ends, |gateway| welcome(gateway, names_models)).await
    }
}

/// Says where tutti is, with a line to paste, or why there can be none.
fn welcome(gateway: &Gateway, names_models: bool) {
    let reached = || gateway.status().pools.iter().flat_map(|pool| &pool.replicas).any(|replica| replica.reachable);
    let models: Vec<String> = gateway.models().iter().map(|name| plain(name)).collect();
    let model = models.iter().find(|name| !name.contains("embed")).or(models.first());
    let at = format!("{}://{}", gateway.scheme(), gateway.listen);
    say!("\ntutti is up at {at}");
    match model {
        None if !names_models => say!("{}", config::NAMES_NO_MODELS),
        None if reached() => {
            say!("The replicas have no model yet: `ollama pull qwen2.5:0.5b` gets one, and tutti serves it at once.")
        }
        None => say!("No replica answers yet: tutti serves their models as soon as one does."),
        Some(model) => {
            say!(
                "models: {}\n\nTry it:\n\n{}\n",
                models.join(", "),
                try_it(&at, model, gateway.status().keys.is_some())
            )
        }
    }
    if std::io::stderr().is_terminal() {
        say!("`tutti status` shows what it does; Ctrl-C ends it.\n");
    }
}

/// The line to paste.
fn try_it(at: &str, model: &str, keyed: bool) -> String {
    let model = serde_json::Value::from(model);
    let body = format!(r#"{{"model":{model},"messages":[{{"role":"user","content":"你好"}}]}}"#);
    let key = if keyed { r#" -H "Authorization: Bearer $KEY""# } else { "" };
    format!("curl -s {at}/v1/chat/completions -d {}{key}", quoted(&body))
}

/// What came of looking for an Ollama.
enum Ollama {
    /// It was there.
    Found,
    /// We started it; dropping this ends it.
    Started(Started),
    /// A signal came before it was ready.
    NotWaitedFor,
}

/// Finds the Ollama at this address, or starts it where that is on this machine.
async fn find_or_start(host: &ReplicaUrl, ends: &mut Ends) -> Result<Ollama> {
    match local::who(host.address()) {
        Answers::Ollama(version) => {
            say!("found Ollama {} at {host}", plain(&version));
            return Ok(Ollama::Found);
        }
        Answers::Tutti => bail!(
            "at {host} answers a tutti, not an Ollama: tutti would ask itself. Set OLLAMA_HOST to the Ollama's address"
        ),
        Answers::Other => {
            bail!("at {host} answers something that is no Ollama. Set OLLAMA_HOST to the Ollama's address")
        }
        Answers::Nobody if !host.address().is_loopback() => bail!(
            "no Ollama answers at {host}, and that is not this machine: start it there, or set OLLAMA_HOST to where one runs"
        ),
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
    say!("starting {} at {host}", binary.display());
    let mut command = Command::new(&binary);
    command
        .arg("serve")
        .env("OLLAMA_HOST", host.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.process_group(0); // Ctrl-C is ours: Ollama ends after our requests have
    let mut started = Started(command.spawn().with_context(|| format!("cannot start {}", binary.display()))?);
    tokio::select! {
        ready = ready(&mut started, host) => ready.map(|()| Ollama::Started(started)),
        () = ends.come() => Ok(Ollama::NotWaitedFor),
    }
}

/// Waits until the Ollama that was started answers.
async fn ready(started: &mut Started, host: &ReplicaUrl) -> Result<()> {
    let until = Instant::now() + START;
    loop {
        let at = host.address().clone();
        if let Answers::Ollama(_) = tokio::task::spawn_blocking(move || local::who(&at)).await? {
            return Ok(());
        }
        if let Some(status) = started.0.try_wait()? {
            bail!("`ollama serve` ended at once ({status}): run it by hand to see why");
        }
        if Instant::now() > until {
            bail!("`ollama serve` does not answer at {host} after {START:?}");
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn in_path(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// An Ollama that we started.
struct Started(Child);

impl Drop for Started {
    /// SIGTERM lets it end its runners; where it is gone already there is nothing to do.
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.0.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let until = Instant::now() + END;
        while matches!(self.0.try_wait(), Ok(None)) {
            if Instant::now() > until {
                let _ = self.0.kill();
                let _ = self.0.wait();
                return;
            }
            std::thread::sleep(LOOK);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_to_paste_names_any_model() {
        let name = r#"it's "x""#;
        let line = try_it("http://127.0.0.1:1", name, true);
        let shell = format!("curl() {{ shift 3; printf %s \"$1\"; }}\n{line}");
        let pasted = Command::new("sh").args(["-c", &shell]).output().unwrap().stdout;
        let body: serde_json::Value = serde_json::from_slice(&pasted).unwrap();
        assert_eq!(body["model"], name);
    }
}
