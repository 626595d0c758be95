//! Whether files are an adapter that this base can serve: found out before anything of them reaches an engine.

mod finite;
mod gguf;
mod pattern;
mod peft;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::path::{Path, PathBuf};

use tutti_api::{Manifest, Reason};

use crate::architecture::Heads;
use crate::base::Base;
use crate::safetensors::Tensor;

/// PEFT's two files.
pub const CONFIG: &str = "adapter_config.json";
/// Its weights.
pub const WEIGHTS: &str = "adapter_model.safetensors";
/// Largest rank: beyond, a merged model is what is wanted.
const MAX_RANK: u64 = 4096;

/// Why files are no adapter for this base.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    /// One word for programs.
    pub reason: Reason,
    /// For people: which file, which tensor, what was expected.
    pub message: String,
}

impl Refused {
    pub(crate) fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }

    /// The same, of a file.
    fn of(mut self, file: &str) -> Self {
        self.message = format!("{file}: {}", self.message);
        self
    }
}

/// An adapter that was looked at, all of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Checked {
    pub(crate) form: Form,
    /// The architecture of its base.
    pub(crate) architecture: String,
    /// What its effect is scaled by, as llama.cpp reads it: each pair's is this by its rank.
    pub(crate) alpha: f32,
    /// What its own files call alpha: with rsLoRA not the same.
    pub(crate) own_alpha: f64,
    /// The largest rank of its pairs.
    pub(crate) rank: u64,
    /// Of its weights. Unit: bytes.
    pub(crate) bytes: u64,
}

/// What its weights are in.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Form {
    /// PEFT's safetensors.
    Peft {
        /// The file.
        file: PathBuf,
        /// Its matrices.
        pairs: Vec<Pair>,
    },
    /// A GGUF, which is what engines take.
    Gguf(PathBuf),
}

/// The two matrices of a layer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Pair {
    /// GGUF's name of the weights that they are added to.
    pub(crate) target: String,
    /// Rank by columns.
    pub(crate) a: Tensor,
    /// Rows by rank.
    pub(crate) b: Tensor,
    /// What B is multiplied with, where this pair's scale is not the others'; else 1.
    pub(crate) factor: f32,
    /// By how many heads B's rows are permuted.
    pub(crate) heads: Option<u64>,
}

impl Checked {
    /// The largest rank of its pairs.
    pub fn rank(&self) -> u64 {
        self.rank
    }

    /// What its effect is scaled by: each pair's is this by its rank.
    pub fn alpha(&self) -> f32 {
        self.alpha
    }
}

/// Looks at an adapter's files in a folder: those that the manifest names.
///
/// # Errors
/// [`Refused`], with the reason.
pub fn verify(folder: &Path, manifest: &Manifest, base: &Base) -> Result<Checked, Refused> {
    if let Some(said) = manifest.base.as_ref()
        && let Some((wanted, has)) = said.digest.zip(base.digest)
        && wanted != has
    {
        let message = format!("it was trained on {} ({wanted}), and the pool's base is {has}", shown(&said.name));
        return Err(Refused::new(Reason::WrongBase, message));
    }
    let has = |name: &str| manifest.files.contains_key(name);
    let ggufs: Vec<&String> = manifest.files.keys().filter(|name| name.ends_with(".gguf")).collect();
    let checked = match ggufs[..] {
        [] if has(WEIGHTS) && has(CONFIG) => peft::verify(folder, base)?,
        [only] if !has(WEIGHTS) => gguf::verify(&folder.join(only), base).map_err(|refused| refused.of(only))?,
        _ => {
            let message = format!(
                "it is neither PEFT's {WEIGHTS} and {CONFIG} nor one GGUF: its manifest names {}",
                shown(&manifest.files.keys().map(String::as_str).collect::<Vec<_>>().join(", "))
            );
            let pickled = has("adapter_model.bin");
            return Err(Refused::new(if pickled { Reason::Unsupported } else { Reason::InvalidFile }, message));
        }
    };
    if let Some(rank) = manifest.rank.filter(|rank| u64::from(*rank) != checked.rank) {
        let message = format!("its manifest says rank {rank}, its matrices have {}", checked.rank);
        return Err(Refused::new(Reason::InvalidManifest, message));
    }
    // Files write it in 32 bits or in 64.
    if let Some(alpha) = manifest.alpha.filter(|alpha| *alpha as f32 != checked.own_alpha as f32) {
        let message = format!("its manifest says alpha {alpha}, its files {}", checked.own_alpha);
        return Err(Refused::new(Reason::InvalidManifest, message));
    }
    Ok(checked)
}

/// How many heads a permutation is by.
fn heads_of(heads: Heads, base: &Base) -> u64 {
    match heads {
        Heads::Query => base.heads,
        Heads::Key => base.heads_kv,
    }
}

fn open(path: &Path) -> Result<(File, u64), Refused> {
    let opened = File::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
    let (length, file) =
        opened.map_err(|error| Refused::new(Reason::InvalidFile, format!("cannot be read: {error}")))?;
    Ok((file, length))
}

/// A stranger's text, cut.
fn shown(text: &str) -> String {
    text.chars().take(200).collect()
}
