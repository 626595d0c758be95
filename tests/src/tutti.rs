//! The binary `tutti` as a process.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use serde_json::Value;
use tempfile::TempDir;

use crate::{Answer, Client, Disk, PATIENCE, eventually};

/// A running `tutti gateway`, on free ports, in a folder of its own. Dropping it ends it.
#[derive(Debug)]
pub struct Tutti {
    child: Child,
    folder: Arc<TempDir>,
    said: Arc<Mutex<Vec<Value>>>,
    logged: Arc<Mutex<Vec<Value>>>,
}

/// How a `tutti` that has ended did.
#[derive(Debug)]
pub struct Finished {
    /// Its exit code.
    pub code: Option<i32>,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

/// The addresses that a test's gateway takes: free ones.
const FREE: [(&str, &str); 3] = [
    ("TUTTI__GATEWAY__LISTEN", "127.0.0.1:0"),
    ("TUTTI__GATEWAY__OPS", "127.0.0.1:0"),
    ("TUTTI__GATEWAY__ADMIN__LISTEN", "127.0.0.1:0"),
];

/// The binary: the one built beside this test, built now if it is not there.
///
/// # Panics
/// Where it cannot be built.
pub fn binary() -> PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    let find = || {
        if let Some(given) = std::env::var_os("TUTTI_BIN") {
            return PathBuf::from(given);
        }
        let build = ["build", "--quiet", "--package", "tutti"];
        let built = Command::new(env!("CARGO")).args(build).current_dir(env!("CARGO_MANIFEST_DIR")).status();
        assert!(built.is_ok_and(|status| status.success()), "cannot build the binary tutti");
        let test = std::env::current_exe().unwrap_or_default();
        let folder = test.ancestors().nth(2).map(PathBuf::from).unwrap_or_default();
        folder.join("tutti")
    };
    BINARY.get_or_init(find).clone()
}

/// Runs `tutti` with these arguments and this environment to its end, in an empty folder.
///
/// # Panics
/// Where it cannot be started.
pub fn run(arguments: &[&str], env: &[(&str, &str)]) -> Finished {
    let folder = TempDir::new().unwrap_or_else(|error| panic!("no temporary folder: {error}"));
    let mut command = command(&folder);
    command.args(arguments).envs(env.iter().copied()).stdin(Stdio::null());
    let Output { status, stdout, stderr } =
        command.output().unwrap_or_else(|error| panic!("cannot run tutti: {error}"));
    Finished {
        code: status.code(),
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    }
}

/// `tutti`, with nothing of this machine's: neither configuration nor state.
fn command(folder: &TempDir) -> Command {
    clean(Command::new(binary()), folder)
}

fn clean(mut command: Command, folder: &TempDir) -> Command {
    command.current_dir(folder.path()).env_remove("TUTTI_CONFIG").env_remove("OLLAMA_HOST");
    for name in ["HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME"] {
        command.env(name, folder.path());
    }
    command
}

impl Tutti {
    /// Starts `tutti gateway` with this configuration and waits until it serves.
    ///
    /// # Panics
    /// Where it does not, with what it said.
    pub fn start(yaml: &str) -> Self {
        Self::start_with(&["gateway", "--config", "tutti.yaml"], yaml, &[])
    }

    /// Starts any command that serves. `tutti.yaml` is written first, unless it is empty.
    ///
    /// # Panics
    /// Where it does not come to serve, with what it said.
    pub fn start_with(arguments: &[&str], yaml: &str, env: &[(&str, &str)]) -> Self {
        let tutti = Self::spawn(arguments, yaml, env);
        tutti.wait_said("tutti serves");
        tutti
    }

    /// The same for one that may never come to serve: it is not waited for.
    ///
    /// # Panics
    /// Where the process cannot be started.
    pub fn spawn(arguments: &[&str], yaml: &str, env: &[(&str, &str)]) -> Self {
        let folder = TempDir::new().unwrap_or_else(|error| panic!("no temporary folder: {error}"));
        if !yaml.is_empty() {
            fs::write(folder.path().join("tutti.yaml"), yaml).unwrap_or_else(|error| panic!("cannot write: {error}"));
        }
        let mut command = command(&folder);
        command.args(arguments).envs(FREE).envs(env.iter().copied());
        Self::running(&mut command, Arc::new(folder))
    }

    /// The same inside a disk of its own, which is where it is told to keep things.
    ///
    /// # Panics
    /// Where the process cannot be started.
    pub fn spawn_on(disk: &Disk, arguments: &[&str], yaml: &str, env: &[(&str, &str)]) -> Self {
        let folder = TempDir::new().unwrap_or_else(|error| panic!("no temporary folder: {error}"));
        fs::write(folder.path().join("tutti.yaml"), yaml).unwrap_or_else(|error| panic!("cannot write: {error}"));
        let inside = disk.inside(folder.path());
        let mut command = Command::new(&inside[0]);
        command.args(&inside[1..]).arg(binary());
        let mut command = clean(command, &folder);
        command.args(arguments).envs(FREE).envs(env.iter().copied());
        Self::running(&mut command, Arc::new(folder))
    }

    /// `tutti gateway` with this configuration, whose logs cannot be written, as on a full disk: so nobody hears when
    /// and where it serves.
    ///
    /// # Panics
    /// Where the process cannot be started.
    pub fn spawn_unheard(yaml: &str) -> Self {
        let folder = TempDir::new().unwrap_or_else(|error| panic!("no temporary folder: {error}"));
        let full = || fs::File::create("/dev/full").unwrap_or_else(|error| panic!("no /dev/full: {error}"));
        fs::write(folder.path().join("tutti.yaml"), yaml).unwrap_or_else(|error| panic!("cannot write: {error}"));
        let mut command = command(&folder);
        command.args(["gateway", "--config", "tutti.yaml"]).stdin(Stdio::null()).stdout(full()).stderr(full());
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot start tutti: {error}"));
        Self { child, folder: Arc::new(folder), said: Arc::default(), logged: Arc::default() }
    }

    /// What a command runs, wherever that finds its configuration.
    ///
    /// # Panics
    /// Where the process cannot be started.
    pub fn of(command: &mut Command) -> Self {
        let folder = TempDir::new().unwrap_or_else(|error| panic!("no temporary folder: {error}"));
        Self::running(command, Arc::new(folder))
    }

    fn running(command: &mut Command, folder: Arc<TempDir>) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start tutti: {error}"));
        let said = gather(child.stderr.take());
        let logged = gather(child.stdout.take());
        Self { child, folder, said, logged }
    }

    /// A gateway with one pool of these replicas that exposes all their models.
    pub fn before(urls: &[String]) -> Self {
        Self::start(&pool(urls, "expose: all"))
    }

    /// Where clients reach it.
    pub fn listen(&self) -> String {
        self.address("listen")
    }

    /// Where its metrics are.
    pub fn ops(&self) -> String {
        self.address("ops")
    }

    /// Where it is asked about itself.
    pub fn admin(&self) -> String {
        self.address("admin")
    }

    fn address(&self, name: &str) -> String {
        self.wait_said("tutti serves")["fields"][name].as_str().unwrap_or_default().to_owned()
    }

    /// Runs a command that asks this gateway at its admin port, such as `status`.
    pub fn command(&self, arguments: &[&str]) -> Finished {
        let (admin, file) = (self.admin(), self.token_file().display().to_string());
        run(&[arguments, &["--admin", &admin, "--token-file", &file]].concat(), &[])
    }

    /// An address that it said it has, in the line that holds this message.
    pub fn said_address(&self, message: &str, name: &str) -> String {
        self.wait_said(message)["fields"][name].as_str().unwrap_or_default().to_owned()
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The file with the admin token.
    pub fn token_file(&self) -> PathBuf {
        self.folder.path().join("tutti/admin-token")
    }

    /// Waits until it has said this on standard error; yields the line.
    pub fn wait_said(&self, message: &str) -> Value {
        eventually(&format!("{message:?} in {:?}", self.said.lock()), || {
            let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            let says = |line: &&Value| line["fields"]["message"].as_str().is_some_and(|said| said.contains(message));
            said.iter().rev().find(says).cloned()
        })
    }

    /// All that it has said on standard error so far.
    pub fn said(&self) -> Vec<Value> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether it has said this on standard error.
    pub fn has_said(&self, message: &str) -> bool {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.iter().any(|line| line["fields"]["message"].as_str().is_some_and(|said| said.contains(message)))
    }

    /// Whether it has said this on standard error, with this field.
    pub fn has_said_with(&self, message: &str, field: &str, value: u64) -> bool {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.iter().map(|line| &line["fields"]).any(|line| {
            line["message"].as_str().is_some_and(|said| said.contains(message)) && line[field].as_u64() == Some(value)
        })
    }

    /// Waits for a request's line on standard output that is as wanted.
    pub fn wait_logged(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        eventually(&format!("a log line: {what}"), || {
            self.logged.lock().unwrap_or_else(PoisonError::into_inner).iter().find(|line| wanted(line)).cloned()
        })
    }

    /// All request lines so far.
    pub fn logged(&self) -> Vec<Value> {
        self.logged.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Starts another in the same folder, with its configuration and its token; it is not waited for.
    ///
    /// # Panics
    /// Where the process cannot be started.
    pub fn beside(&self, arguments: &[&str], env: &[(&str, &str)]) -> Self {
        let mut command = command(&self.folder);
        command.args(arguments).envs(FREE).envs(env.iter().copied());
        Self::running(&mut command, self.folder.clone())
    }

    /// The folder that it runs in.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Changes its configuration file.
    ///
    /// # Panics
    /// Where the file cannot be written.
    pub fn write_config(&self, yaml: &str) {
        // As an editor does it: the file is never half there.
        let (new, file) = (self.folder.path().join("new.yaml"), self.folder.path().join("tutti.yaml"));
        let written = fs::write(&new, yaml).and_then(|()| fs::rename(&new, &file));
        written.unwrap_or_else(|error| panic!("cannot write: {error}"));
    }

    /// A new connection.
    ///
    /// # Panics
    /// Where there is none.
    pub fn client(&self) -> Client {
        Client::connect(&self.listen()).unwrap_or_else(|error| panic!("cannot connect: {error}"))
    }

    /// Asks on a connection of its own.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> Answer {
        self.client().ask(method, path, &[], body)
    }

    /// Posts on a connection of its own and leaves the answer to be read.
    ///
    /// # Panics
    /// Where the request cannot be sent.
    pub fn begin(&self, path: &str, body: &str) -> Client {
        let mut client = self.client();
        client.send("POST", path, &[], body).unwrap_or_else(|error| panic!("POST {path}: {error}"));
        client
    }

    /// What a page of its admin port says; null where it is no JSON.
    pub fn ask_admin(&self, path: &str) -> Value {
        let token = std::fs::read_to_string(self.token_file()).unwrap_or_default();
        let bearer = format!("Bearer {}", token.trim());
        let client = Client::connect(&self.admin());
        client.map(|mut client| client.ask("GET", path, &[("authorization", &bearer)], "").json()).unwrap_or_default()
    }

    /// The page of its metrics; empty where it does not answer.
    pub fn metrics(&self) -> String {
        let page = Client::connect(&self.ops()).map(|mut client| client.ask("GET", "/metrics", &[], "").text());
        page.unwrap_or_default()
    }

    /// The value of a metric whose line begins with `name` and holds each of `labels`; 0 where there is no such line.
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let page = self.metrics();
        let fits = |line: &&str| line.starts_with(name) && labels.iter().all(|label| line.contains(label));
        let lines = page.lines().filter(fits).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        lines.sum()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        if let Some(pid) = i32::try_from(self.pid()).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// Waits until it has ended; yields its exit code.
    pub fn wait_ended(&mut self) -> Option<i32> {
        eventually(&format!("the end of tutti (within {PATIENCE:?})"), || self.child.try_wait().ok().flatten()).code()
    }
}

impl Drop for Tutti {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A configuration with one pool `p` of these replicas, and `fields` of it.
pub fn pool(urls: &[String], fields: &str) -> String {
    let endpoints: Vec<String> = urls.iter().map(|url| format!("{{ url: \"{url}\" }}")).collect();
    format!("pools:\n  - name: p\n    endpoints: [{}]\n    {fields}\n", endpoints.join(", "))
}

/// Collects lines of JSON as they come; a line that is none is kept as a message.
fn gather(output: Option<impl std::io::Read + Send + 'static>) -> Arc<Mutex<Vec<Value>>> {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let kept = lines.clone();
    std::thread::spawn(move || {
        for line in output.into_iter().flat_map(|output| BufReader::new(output).lines()).map_while(Result::ok) {
            let value =
                serde_json::from_str(&line).unwrap_or_else(|_| serde_json::json!({ "fields": { "message": line } }));
            kept.lock().unwrap_or_else(PoisonError::into_inner).push(value);
        }
    });
    lines
}
