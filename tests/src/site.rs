//! What an adapter-loader works between: a folder of adapters, an engine, a configuration.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tutti_rig::Ollama;

use crate::{Answer, Client, Disk, Tutti, eventually};

/// The story's sentence.
pub const COMPLAINT: &str = "你们的系统导致我的资金被冻结了！";

/// A source of adapters and what a loader keeps of them, both folders.
#[derive(Debug)]
pub struct Site {
    folder: TempDir,
    engine: String,
    /// What the pool's `adapters` say beside `from`, `poll` and `probe`.
    pub adapters: Value,
    /// Where adapters come from, where that is not the site's own folder.
    pub from: Option<String>,
    /// Where the loader is, for gateways, where they are to know.
    pub loader: Option<String>,
    /// The disk that the loader's folder is on, where that is one of its own.
    pub disk: Option<Disk>,
}

impl Site {
    /// Beside an engine at this URL.
    ///
    /// # Panics
    /// Where no temporary folder can be made.
    pub fn beside(engine: &str) -> Self {
        let folder = TempDir::with_prefix("tutti-site-").unwrap_or_else(|error| panic!("no temporary folder: {error}"));
        fs::create_dir(folder.path().join("models")).unwrap_or_else(|error| panic!("cannot make a folder: {error}"));
        Self { folder, engine: engine.to_owned(), adapters: json!({}), from: None, loader: None, disk: None }
    }

    /// The folder that adapters come from.
    pub fn models(&self) -> PathBuf {
        self.folder.path().join("models")
    }

    /// The loader's folder, where the test sees it.
    pub fn state(&self) -> PathBuf {
        self.disk.as_ref().map_or_else(|| self.folder.path().to_owned(), Disk::seen).join("state")
    }

    /// Puts one of the rig's adapters, as PEFT saved it, at a path, with a manifest.
    pub fn put(&self, path: &str, adapter: &str) -> PathBuf {
        self.put_with(path, adapter, |_| ())
    }

    /// The same with another manifest.
    ///
    /// # Panics
    /// Where it cannot be put.
    pub fn put_with(&self, path: &str, adapter: &str, change: impl FnOnce(&mut Value)) -> PathBuf {
        let folder = self.models().join(path);
        let put = || -> std::io::Result<()> {
            fs::create_dir_all(&folder)?;
            FILES.iter().try_for_each(|file| fs::copy(peft(adapter).join(file), folder.join(file)).map(drop))
        };
        put().unwrap_or_else(|error| panic!("cannot put {adapter} at {path}: {error}"));
        let mut manifest = manifest(&folder);
        change(&mut manifest);
        write(&folder.join("manifest.json"), manifest.to_string().as_bytes());
        folder
    }

    /// Puts the rig's base at a path, with a manifest.
    ///
    /// # Panics
    /// Where it cannot be put.
    pub fn put_base(&self, path: &str) {
        let (models, folder) = (peft(""), self.models().join(path));
        let read =
            |name: &str| fs::read(models.join(name)).unwrap_or_else(|error| panic!("cannot read {name}: {error}"));
        let listed: Value = serde_json::from_slice(&read("models.json")).unwrap_or_default();
        let bytes = read("tutti-story.gguf");
        fs::create_dir_all(&folder).unwrap_or_else(|error| panic!("cannot make a folder: {error}"));
        write(&folder.join("story.gguf"), &bytes);
        let file = json!({ "sha256": format!("sha256:{}", hex(&bytes)), "size": bytes.len() });
        let manifest = json!({
            "kind": "base", "files": { "story.gguf": file }, "template": listed["models"][0]["template"],
            "parameters": listed["models"][0]["parameters"],
        });
        write(&folder.join("manifest.json"), manifest.to_string().as_bytes());
    }

    /// A configuration in which a model `risk` refers to these paths; its traffic goes to the last.
    pub fn config(&self, paths: &[&str]) -> String {
        let revisions: Vec<Value> = paths.iter().map(|path| json!({ "adapter": path })).collect();
        self.config_of(revisions)
    }

    /// The same of these revisions, which need no name and no pool.
    pub fn config_of(&self, mut revisions: Vec<Value>) -> String {
        let from = self.from.clone().unwrap_or_else(|| self.models().display().to_string());
        let mut adapters = json!({ "from": from, "poll": "200ms", "probe": { "prompt": COMPLAINT } });
        for (name, value) in self.adapters.as_object().into_iter().flatten() {
            adapters[name] = value.clone();
        }
        for (number, revision) in revisions.iter_mut().enumerate() {
            revision["name"] = json!(format!("r{number}"));
            revision["pool"] = json!("p");
        }
        let last = revisions.last().map(|revision| revision["name"].clone());
        let models = match last {
            Some(last) => json!([{ "name": "risk", "revisions": revisions, "traffic": { "revision": last } }]),
            None => json!([]),
        };
        let mut endpoint = json!({ "url": self.engine });
        if let Some(loader) = &self.loader {
            endpoint["loader"] = json!(loader);
        }
        json!({
            "pools": [{ "name": "p", "base": "tutti-story", "endpoints": [endpoint], "adapters": adapters }],
            "models": models,
        })
        .to_string()
    }

    /// Starts the loader; it is not waited for.
    pub fn spawn(&self, yaml: &str, env: &[(&str, &str)]) -> Loading {
        self.spawn_with(yaml, &[], env)
    }

    /// The same with further arguments.
    pub fn spawn_with(&self, yaml: &str, arguments: &[&str], env: &[(&str, &str)]) -> Loading {
        let on = self.disk.as_ref().map_or(self.folder.path(), Disk::path);
        let state = on.join("state").display().to_string();
        let own: &[&str] = &["adapter-loader", "--config", "tutti.yaml", "--pool", "p", "--engine", &self.engine];
        let kept: &[&str] = &["--state", &state];
        let retire: &[&str] = if arguments.contains(&"--retire-after") { &[] } else { &["--retire-after", "500ms"] };
        let listen: &[&str] = if arguments.contains(&"--listen") { &[] } else { &["--listen", "127.0.0.1:0"] };
        let all = [own, kept, retire, listen, arguments].concat();
        Loading(match &self.disk {
            Some(disk) => Tutti::spawn_on(disk, &all, yaml, env),
            None => Tutti::spawn(&all, yaml, env),
        })
    }

    /// Starts the loader and waits until it listens.
    pub fn start(&self, yaml: &str) -> Loading {
        let loading = self.spawn(yaml, &[]);
        loading.listen();
        loading
    }
}

/// A running `tutti adapter-loader`. Dropping it ends it.
#[derive(Debug)]
pub struct Loading(pub Tutti);

impl Loading {
    /// Where it listens.
    pub fn listen(&self) -> String {
        self.0.wait_said("tutti loads adapters")["fields"]["listen"].as_str().unwrap_or_default().to_owned()
    }

    /// Asks it on a connection of its own.
    ///
    /// # Panics
    /// Where it cannot be reached.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> Answer {
        let mut client = Client::connect(&self.listen()).unwrap_or_else(|error| panic!("cannot connect: {error}"));
        client.ask(method, path, &[], body)
    }

    /// The value of its metric, by its name and labels as they are printed; 0 where there is none.
    pub fn metric(&self, name: &str) -> f64 {
        let page = self.ask("GET", "/metrics", "").text();
        let values = page.lines().filter_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
        values.sum()
    }

    /// What it says of all adapters.
    pub fn list(&self) -> Value {
        self.ask("GET", "/v1/adapters", "").json()
    }

    /// What it says of a path; null where nothing.
    pub fn state(&self, path: &str) -> Value {
        let list = self.list();
        let adapters = list["adapters"].as_array().cloned().unwrap_or_default();
        adapters.into_iter().find(|adapter| adapter["path"] == path).unwrap_or_default()
    }

    /// Waits until it says this phase of a path; yields all that it says.
    pub fn wait(&self, path: &str, phase: &str) -> Value {
        self.wait_for(path, phase, |state| state["phase"] == phase)
    }

    /// Waits until what it says of a path is as wanted.
    pub fn wait_for(&self, path: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let said = || self.0.said();
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually(what, || {
                last = self.state(path);
                wanted(&last).then(|| last.clone())
            })
        }));
        found.unwrap_or_else(|_| panic!("{path}: not {what}, but {last}; it said {:#?}", said()))
    }

    /// Waits until a path is quarantined for this reason; yields the message.
    pub fn wait_quarantined(&self, path: &str, reason: &str) -> String {
        let is = |state: &Value| state["phase"] == "Quarantined" && state["reason"]["reason"] == reason;
        let state = self.wait_for(path, &format!("quarantined as {reason}"), is);
        state["reason"]["message"].as_str().unwrap_or_default().to_owned()
    }

    /// The name under which the engine serves a path; it waits until there is one.
    pub fn serves(&self, path: &str) -> String {
        self.wait(path, "Ready")["engineName"].as_str().unwrap_or_default().to_owned()
    }
}

/// What an Ollama's model answers to the complaint.
///
/// # Panics
/// Where it does not.
pub fn says(ollama: &Ollama, model: &str) -> String {
    let messages = json!([{ "role": "user", "content": COMPLAINT }]);
    let body = json!({ "model": model, "messages": messages, "stream": false, "options": { "temperature": 0 } });
    let answer = ollama.post("/api/chat", &body).unwrap_or_else(|error| panic!("{model}: {error}"));
    answer["message"]["content"].as_str().unwrap_or_default().to_owned()
}

/// The names that an Ollama has, beside the rig's own, in order.
///
/// # Panics
/// Where it does not say.
pub fn names(ollama: &Ollama) -> Vec<String> {
    let tags = ollama.get("/api/tags").unwrap_or_else(|error| panic!("no tags: {error}"));
    let all = tags["models"].as_array().into_iter().flatten().filter_map(|model| model["name"].as_str());
    let own = ["tutti-story:latest", "tutti-embed:latest", "risk-v1:latest", "risk-v2:latest"];
    let mut names: Vec<String> = all.filter(|name| !own.contains(name)).map(str::to_owned).collect();
    names.sort();
    names
}

/// Takes a name from an Ollama.
///
/// # Panics
/// Where it does not let it go.
pub fn forget(ollama: &Ollama, name: &str) {
    ollama.delete(name).unwrap_or_else(|error| panic!("{name}: {error}"));
}

/// Nothing lies about that a healthy loader would not have, in an Ollama and in a loader's folder.
///
/// # Panics
/// Where something does.
pub fn is_clean(ollama: &Ollama, site: &Site, serves: &[&str], artefacts: usize, at: &str) {
    let clean = || (names(ollama) == serves).then_some(());
    eventually(&format!("{at}: the engine has {serves:?}, not {:?}", names(ollama)), clean);
    for (folder, count) in [("temp", 0), ("source", 0), ("artefacts", artefacts)] {
        let found = files(&site.state().join(folder));
        assert_eq!(found.len(), count, "{at}: {folder} has {found:?}");
    }
}

/// The names in a folder; none of one that is not there.
pub fn files(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// The files of an adapter; the second has its weights.
pub const FILES: [&str; 2] = ["adapter_config.json", "adapter_model.safetensors"];

/// Where one of the rig's adapters lies as PEFT saved it.
pub fn peft(adapter: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("rig/models").join(adapter)
}

/// The manifest of the files in a folder.
///
/// # Panics
/// Where they cannot be read.
pub fn manifest(folder: &Path) -> Value {
    let mut files = json!({});
    for file in FILES {
        let bytes = fs::read(folder.join(file)).unwrap_or_else(|error| panic!("cannot read {file}: {error}"));
        files[file] = json!({ "sha256": format!("sha256:{}", hex(&bytes)), "size": bytes.len() });
    }
    json!({ "files": files, "rank": 8, "alpha": 16.0, "base": { "name": "tutti-story" } })
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes a file as an uploader does: whole or not at all.
///
/// # Panics
/// Where it cannot be written.
pub fn write(path: &Path, bytes: &[u8]) {
    let new = path.with_extension("new");
    let written = fs::write(&new, bytes).and_then(|()| fs::rename(&new, path));
    written.unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
}
