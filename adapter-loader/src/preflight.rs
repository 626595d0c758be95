//! What will not work, by name, before it is tried: source, base, engine, disk.

use std::fmt;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::statvfs;
use tutti_api::{AdapterPath, Config, ReplicaUrl, Strategy};

use crate::architecture::Architecture;
use crate::engine::{BaseFacts, Ollama, Takes, listed_base};
use crate::identity::Making;
use crate::merge;
use crate::pipeline::{Failure, base};
use crate::source::Source;
use crate::wanted::{NothingWanted, Wants, wanted};

/// How often an engine is looked for that does not answer yet.
const AGAIN: Duration = Duration::from_secs(2);

/// Something that will not work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is about: a field of the pool, an engine's address, or a folder.
    pub about: String,
    /// What will not work, why, and what to do. Never a credential.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.about, self.message)
    }
}

/// What is looked at.
#[derive(Clone, Debug)]
pub struct Preflight {
    wants: Wants,
    pool: String,
    engines: Vec<ReplicaUrl>,
    state: Option<PathBuf>,
}

impl Preflight {
    /// Of a pool, these engines of it, and the folder that a loader would keep adapters in, where that is known.
    ///
    /// # Errors
    /// The pool has no adapters.
    pub fn of(
        config: &Config,
        pool: &str,
        engines: Vec<ReplicaUrl>,
        state: Option<PathBuf>,
    ) -> Result<Self, NothingWanted> {
        Ok(Self { wants: wanted(config, pool)?, pool: pool.to_owned(), engines, state })
    }

    /// Asks all of them; nothing is changed by that. What is not found is no promise that all goes well.
    pub async fn look(&self) -> Vec<Finding> {
        let mut found = self.source().await;
        found.extend(self.state.iter().filter_map(|state| folder(state)));
        for engine in &self.engines {
            found.extend(self.engine(engine).await.1);
        }
        found
    }

    /// Says in the log what [`Self::look`] finds, the engines once they answer.
    pub(crate) async fn log(self) {
        let mut found = self.source().await;
        found.extend(self.state.iter().filter_map(|state| folder(state)));
        let say = |found: &[Finding]| {
            found.iter().for_each(|found| tracing::warn!(about = found.about, "preflight: {}", found.message))
        };
        say(&found);
        for engine in &self.engines {
            let (mut answers, mut more) = self.engine(engine).await;
            say(&more);
            while !answers {
                tokio::time::sleep(AGAIN).await;
                (answers, more) = self.engine(engine).await;
                if answers {
                    say(&more);
                }
            }
            found.extend(more);
        }
        if found.is_empty() {
            tracing::info!(pool = self.pool, "preflight: nothing stands in the way");
        }
    }

    /// Whether what is wanted can be listed and is there.
    async fn source(&self) -> Vec<Finding> {
        let spec = &self.wants.spec;
        let at = |field: &str| format!("pool {}: adapters.{field}", self.pool);
        let finding = |field: &str, message: String| Finding { about: at(field), message };
        let source = match Source::open(spec) {
            Ok(source) => source,
            Err(error) => return vec![finding("from", error.to_string())],
        };
        let paths: Vec<&str> = self.wants.adapters.iter().map(|wanted| wanted.path.as_str()).collect();
        let look = match source.look(&paths).await {
            Ok(look) => look,
            Err(error) => return vec![finding("from", error.to_string())],
        };
        let mut found = Vec::new();
        for path in &paths {
            match look.paths.get(*path) {
                Some(Err(error)) => found.push(finding("from", error.to_string())),
                Some(Ok(objects)) if !objects.is_empty() => {}
                _ => found
                    .push(finding("from", format!("there is nothing at {path}: `tutti adapter push` puts it there"))),
            }
        }
        if let Some(path) = self.base_path()
            && let Err(Failure::Judged(why) | Failure::Passing(why)) = base::find(&source, &path).await
        {
            found.push(finding("baseFrom", why.message));
        }
        found
    }

    fn base_path(&self) -> Option<AdapterPath> {
        self.wants.spec.base_from.as_deref().and_then(|path| path.parse().ok())
    }

    /// Whether an engine answers; and what of it will not work.
    async fn engine(&self, url: &ReplicaUrl) -> (bool, Vec<Finding>) {
        let finding = |message: String| Finding { about: format!("pool {}: {url}", self.pool), message };
        let engine = Ollama::new(url, &self.pool);
        let has = match engine.models().await {
            Ok(has) => has,
            Err(error) => return (false, vec![finding(error.to_string())]),
        };
        let (base, spec) = (&self.wants.base, &self.wants.spec);
        let takes = engine.takes().await;
        let mut found = Vec::new();
        match &takes {
            Ok(Takes::MergedOnly) if spec.strategy == Strategy::Adapter => {
                let help = "write `strategy: auto` to have adapters merged into the base";
                found.push(finding(format!("the engine takes no adapters, and strategy is `adapter`: {help}")));
            }
            Ok(_) => {}
            Err(error) => found.push(finding(error.to_string())),
        }
        let listed = listed_base(&has, base);
        let facts = match listed {
            Some(listed) => engine.show(base, listed).await.map_err(|error| error.to_string()),
            None if self.base_path().is_some() => return (true, found), // it comes with the adapters
            None => Err(format!(
                "the engine has no {base:?}, the pool's base: `ollama pull {base}` there, or name where it comes from as adapters.baseFrom"
            )),
        };
        match (facts, takes) {
            (Err(why), _) => found.push(finding(why)),
            (Ok(facts), takes) => {
                let architecture = &facts.base.architecture;
                if Architecture::of(architecture).is_none() {
                    let known = Architecture::names();
                    let why =
                        format!("{base} is of the architecture {architecture}, and adapters are made for {known}");
                    found.push(finding(why));
                }
                let takes = takes.is_ok_and(|takes| takes == Takes::Adapters);
                if let Some(to) = Making::of(spec, facts.digest, takes).merged {
                    found.extend(self.merges(&facts, to).into_iter().map(finding));
                }
            }
        }
        (true, found)
    }

    /// What keeps adapters from being merged into the base.
    fn merges(&self, base: &BaseFacts, to: tutti_api::MergeTo) -> Vec<String> {
        let at = base.blob.display();
        let file = match File::open(&base.blob) {
            Ok(file) => file,
            Err(error) => {
                let help = "let loader and engine have one folder (OLLAMA_MODELS), or look on the engine's machine";
                return vec![format!("adapters are merged, and the base at {at} cannot be read here: {error}: {help}")];
            }
        };
        let room = match merge::room(&file, to) {
            Ok(room) => room,
            Err(error) => return vec![format!("adapters are merged, and the base at {at} is not read: {error}")],
        };
        let mut found = Vec::new();
        let disk = self.wants.spec.disk.bytes() as u64;
        if room > disk {
            found.push(format!("a merged adapter takes up to {room} bytes, and adapters.disk is {disk}: raise it"));
        }
        let state = self.state.as_deref().map(nearest);
        if let Some(free) = state.and_then(|state| statvfs(state).ok()).map(|disk| disk.f_bavail * disk.f_frsize)
            && free < room
        {
            let state = self.state.as_deref().unwrap_or(Path::new("")).display();
            found.push(format!("a merged adapter takes up to {room} bytes, and {state} has {free} left: make room"));
        }
        found
    }
}

/// The folder that is there, of this one and those above it.
fn nearest(folder: &Path) -> &Path {
    folder.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"))
}

/// What keeps a loader from writing into its folder. Nothing is left there.
fn folder(state: &Path) -> Option<Finding> {
    let finding = |message: String| Some(Finding { about: state.display().to_string(), message });
    let there = nearest(state);
    let probe = there.join(format!(".tutti-preflight-{}", std::process::id()));
    match File::create_new(&probe).and_then(|_| std::fs::remove_file(&probe)) {
        Ok(()) => None,
        Err(error) if error.kind() == ErrorKind::NotADirectory => {
            finding(format!("{} is no folder, and adapters are to be kept there (--state)", there.display()))
        }
        Err(error) => finding(format!(
            "nothing can be written in {}, and adapters are to be kept there (--state): {error}",
            there.display()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_not_there_yet_is_written_to_where_it_will_be_and_nothing_is_left() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(folder(&home.path().join("a/b")), None);
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
        let file = home.path().join("file");
        std::fs::write(&file, "").unwrap();
        let found = folder(&file.join("state")).unwrap();
        assert!(found.about.ends_with("file/state") && found.message.contains("no folder"), "{found}");
        let found = folder(Path::new("/proc/tutti")).unwrap();
        assert!(found.message.contains("nothing can be written in /proc"), "{found}");
    }
}
