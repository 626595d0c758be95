//! Every bit of what lies at a path, the other way round: it is refused, or means the same; nothing panics.
//!
//! The weights' own bits are in `verify`'s tests and `fetch`'s: whatever is not as the manifest's digest says is refused. Here are
//! the two files that say what the weights are: the configuration, and the manifest itself, which no other file vouches for.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tutti_adapter_loader::base::Base;
use tutti_adapter_loader::fetch::{Counts, FetchError, Limits, fetch};
use tutti_adapter_loader::gguf::{self, Header};
use tutti_adapter_loader::source::Source;
use tutti_adapter_loader::verify::{self, CONFIG, Checked, WEIGHTS};
use tutti_adapter_loader::{convert, manifest};
use tutti_api::{Digest, FetchSpec, Manifest, S3Spec};

/// An adapter at `risk/v1` below `from`, and the folder that it comes to.
struct Case {
    _folder: TempDir,
    from: PathBuf,
    to: PathBuf,
    base: Base,
    source: Arc<Source>,
}

fn reference() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/reference/convert/qwen2")
}

fn digest(bytes: &[u8]) -> Digest {
    Digest::new(Sha256::digest(bytes).into())
}

/// What is converted from it: what an engine would get.
fn weights(checked: &Checked) -> Digest {
    let mut bytes = Vec::new();
    convert::convert(checked, &mut bytes).expect("it is converted");
    digest(&bytes)
}

impl Case {
    fn new() -> Self {
        let folder = TempDir::new().expect("a folder");
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        let at = from.join("risk/v1");
        for folder in [&at, &to] {
            fs::create_dir_all(folder).expect("a folder");
        }
        let config: Value =
            serde_json::from_slice(&fs::read(reference().join("f16").join(CONFIG)).expect("it is there"))
                .expect("JSON");
        // What PEFT writes beside is null or for training.
        let needed =
            ["peft_type", "r", "lora_alpha", "use_rslora", "use_dora", "bias", "rank_pattern", "modules_to_save"];
        let config: Value = needed.iter().map(|name| ((*name).to_owned(), config[*name].clone())).collect();
        fs::write(at.join(CONFIG), config.to_string()).expect("written");
        fs::copy(reference().join("f16").join(WEIGHTS), at.join(WEIGHTS)).expect("copied");
        let model = fs::read(reference().join("base.gguf")).expect("a base");
        let file = File::open(reference().join("base.gguf")).expect("a base");
        let header = Header::read(std::io::BufReader::new(file), &gguf::Limits::default()).expect("a header");
        let base = Base::of_header(&header, Some(digest(&model))).expect("a base");
        let source = Source::at(&from.display().to_string(), &S3Spec::default()).expect("a source");
        Self { _folder: folder, from, to, base, source: Arc::new(source) }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.from.join("risk/v1").join(name)
    }

    fn manifest(&self) -> Manifest {
        let bytes: BTreeMap<_, _> =
            [CONFIG, WEIGHTS].map(|name| (name, fs::read(self.at(name)).expect("it is there"))).into();
        let files: Value = bytes
            .iter()
            .map(|(name, bytes)| {
                ((*name).to_owned(), json!({ "sha256": digest(bytes).to_string(), "size": bytes.len() }))
            })
            .collect();
        let config: Value = serde_json::from_slice(&bytes[CONFIG]).expect("JSON");
        let all = json!({
            "kind": "adapter", "files": files, "rank": config["r"], "alpha": config["lora_alpha"],
            "base": { "name": "qwen", "digest": self.base.digest.map(|digest| digest.to_string()) },
            "probe": { "prompt": "?", "expect": "!" }, "lineage": { "run": 7 },
        });
        serde_json::from_value(all).expect("a manifest")
    }

    /// What a loader does with what lies there: fetched as the manifest says, verified.
    async fn taken(&self, said: &Manifest) -> Result<Checked, String> {
        let objects = self.source.list("risk/v1", 10).await.map_err(|error| error.to_string())?;
        for (name, entry) in &said.files {
            let object = objects.iter().find(|object| object.key == *name).ok_or("it is not there")?;
            let (key, into) = (format!("risk/v1/{name}"), self.to.join(name));
            let limits = Limits::new(&FetchSpec::default()).with(1 << 20, Duration::from_secs(5));
            let fetched =
                fetch(&self.source, &key, object, Some(entry), &into, &limits, &Arc::<Counts>::default()).await;
            let refused = |error: FetchError| {
                let by_content = matches!(error, FetchError::Digest { .. } | FetchError::Size { .. });
                assert!(by_content, "{error}");
                error.to_string()
            };
            fetched.map_err(refused)?;
        }
        verify::verify(&self.to, said, &self.base).map_err(|refused| refused.to_string())
    }
}

/// A file's bytes, each with one bit the other way round, bit after bit.
fn flipped(bytes: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    (0..bytes.len() * 8).map(|bit| {
        let mut flipped = bytes.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        flipped
    })
}

#[tokio::test]
async fn no_bit_of_a_configuration_is_taken_for_another() {
    let case = Case::new();
    let (said, config) = (case.manifest(), fs::read(case.at(CONFIG)).expect("it is there"));
    case.taken(&said).await.expect("it is whole");
    for wrong in flipped(&config) {
        fs::write(case.at(CONFIG), &wrong).expect("written");
        let why = case.taken(&said).await.expect_err("it is another file than the manifest's");
        assert!(why.contains("its manifest says"), "{why}");
        // Where no manifest says so, it is no configuration, or one: nothing panics.
        fs::write(case.to.join(CONFIG), &wrong).expect("written");
        fs::copy(case.at(WEIGHTS), case.to.join(WEIGHTS)).expect("copied");
        let bare = Manifest { rank: None, alpha: None, ..said.clone() };
        let _ = verify::verify(&case.to, &bare, &case.base);
    }
}

#[tokio::test]
async fn whatever_bit_of_a_manifest_flips_the_same_weights_serve_or_none_and_by_another_digest() {
    let case = Case::new();
    let said = case.manifest();
    let own = weights(&case.taken(&said).await.expect("it is whole"));
    let (mut same, mut refused) = (0, 0);
    for wrong in flipped(said.canonical().as_bytes()) {
        let Ok(read) = manifest::parse(&wrong, "risk/v1/") else {
            refused += 1;
            continue;
        };
        if read != said {
            assert_ne!(
                manifest::digest(&read),
                manifest::digest(&said),
                "its digest, and so its name, would be the same"
            );
        }
        match case.taken(&read).await {
            Err(_) => refused += 1,
            Ok(checked) => {
                let text = String::from_utf8_lossy(&wrong).into_owned();
                assert_eq!((&read.files, weights(&checked)), (&said.files, own), "other weights: {text}");
                // What it says of them is so, or it says nothing.
                assert!(read.rank.is_none_or(|rank| u64::from(rank) == checked.rank()), "{text}");
                assert!(read.alpha.is_none_or(|alpha| Some(alpha) == said.alpha), "{text}");
                let digest = read.base.as_ref().and_then(|base| base.digest);
                assert!(read.base.is_none() || digest == case.base.digest, "its base is no longer looked at: {text}");
                same += 1;
            }
        }
    }
    assert!(refused > 10 * same && same > 0, "{refused} refused, {same} the same");
}
