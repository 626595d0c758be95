//! A folder that a trainer left becomes an adapter: its files are found, measured and written down in `manifest.json`.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tutti_api::{BaseRef, Digest, FileEntry, Kind, Manifest};

use crate::gguf::{Header, Limits};

/// PEFT's two files.
const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// PEFT's older form, which runs code when it is read.
const PICKLE: &str = "adapter_model.bin";
/// Largest configuration that is read. Unit: bytes.
const MAX_CONFIG: u64 = 1 << 20;
/// Bytes that are read at once.
const CHUNK: usize = 1 << 20;

/// What a folder became.
#[derive(Debug)]
pub struct Packed {
    /// Its manifest.
    pub manifest: Manifest,
    /// Files of the folder that are no part of it.
    pub left_out: Vec<String>,
}

/// Why a folder is no adapter.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The system does not give a file.
    #[error("{}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// Nothing in it is an adapter, or too much.
    #[error("{}: {why}", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What is wrong, and what to do.
        why: String,
    },
}

/// Measures a folder: which files are the adapter (or, of kind `Base`, the model), and what they say of themselves. What
/// `wanted` says goes before that; nothing is written. `told` hears of each file as it was read.
///
/// # Errors
/// The folder holds no adapter, or two; or a file cannot be read.
pub fn pack(folder: &Path, wanted: Manifest, told: &dyn Fn(&str, u64)) -> Result<Packed, PackError> {
    let names = names(folder)?;
    let files = chosen(folder, &names, wanted.kind)?;
    let mut manifest = wanted;
    match &files[..] {
        [CONFIG, _] => from_config(folder, &mut manifest)?,
        [gguf] if manifest.kind == Kind::Adapter => from_gguf(folder, gguf, &mut manifest)?,
        _ => {}
    }
    manifest.files.clear();
    for name in &files {
        let path = folder.join(name);
        let entry = entry(&path).map_err(|error| PackError::File { path, error })?;
        told(name, entry.size);
        manifest.files.insert((*name).to_owned(), entry);
    }
    let is_left = |name: &&String| name.as_str() != Manifest::FILE && !files.contains(&name.as_str());
    let left_out = names.iter().filter(is_left).cloned().collect();
    Ok(Packed { manifest, left_out })
}

/// Writes a manifest beside the files that it is of: there whole or not at all.
///
/// # Errors
/// What the system says.
pub fn write(folder: &Path, manifest: &Manifest) -> io::Result<()> {
    let (path, part) = (folder.join(Manifest::FILE), folder.join(format!(".{}.part", Manifest::FILE)));
    let mut file = File::create(&part)?;
    file.write_all((serde_json::to_string_pretty(manifest)? + "\n").as_bytes())?;
    file.sync_all()?;
    fs::rename(&part, &path)
}

/// A file's digest and size.
///
/// # Errors
/// What the system says.
pub fn entry(path: &Path) -> io::Result<FileEntry> {
    let (mut file, mut hash, mut size) = (File::open(path)?, Sha256::new(), 0);
    let mut bytes = vec![0; CHUNK];
    loop {
        let read = file.read(&mut bytes)?;
        if read == 0 {
            return Ok(FileEntry { sha256: Digest::new(hash.finalize().into()), size });
        }
        hash.update(&bytes[..read]);
        size += read as u64;
    }
}

/// Compares a folder's files with its manifest.
///
/// # Errors
/// A file is missing, or another than the manifest says.
pub fn compare(folder: &Path, manifest: &Manifest) -> Result<(), PackError> {
    for (name, wanted) in &manifest.files {
        let path = folder.join(name);
        let found = entry(&path).map_err(|error| PackError::File { path: path.clone(), error })?;
        if found != *wanted {
            let why = format!(
                "{name} has {} bytes and is {}, and the manifest says {} bytes and {}: pack it again",
                found.size, found.sha256, wanted.size, wanted.sha256
            );
            return Err(PackError::Folder { folder: folder.to_owned(), why });
        }
    }
    Ok(())
}

fn names(folder: &Path) -> Result<Vec<String>, PackError> {
    let failed = |error| PackError::File { path: folder.to_owned(), error };
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// The files that are the adapter.
fn chosen<'n>(folder: &Path, names: &'n [String], kind: Kind) -> Result<Vec<&'n str>, PackError> {
    let wrong = |why: &str| Err(PackError::Folder { folder: folder.to_owned(), why: why.to_owned() });
    let has = |name: &str| names.iter().find(|own| *own == name).map(String::as_str);
    let ggufs: Vec<&str> = names.iter().map(String::as_str).filter(|name| name.ends_with(".gguf")).collect();
    match (has(CONFIG).zip(has(WEIGHTS)).filter(|_| kind == Kind::Adapter), &ggufs[..]) {
        (Some((config, weights)), []) => Ok(vec![config, weights]),
        (None, [gguf]) => Ok(vec![gguf]),
        (Some(_), _) => wrong("it holds PEFT's files and a GGUF: leave one of the two in it"),
        (None, [_, _, ..]) => wrong("it holds several GGUFs: leave one in it"),
        (None, []) if kind == Kind::Base => wrong("it holds no GGUF, which a base model comes as"),
        (None, []) if has(PICKLE).is_some() => wrong(
            "adapter_model.bin is a pickle, which runs code when it is read: save it as safetensors \
             (`save_pretrained(…, safe_serialization=True)`)",
        ),
        (None, []) => {
            wrong("it holds neither adapter_config.json and adapter_model.safetensors, as PEFT saves them, nor a GGUF")
        }
    }
}

/// What PEFT's configuration says of rank, alpha and base.
fn from_config(folder: &Path, manifest: &mut Manifest) -> Result<(), PackError> {
    let path = folder.join(CONFIG);
    let mut text = Vec::new();
    let read = File::open(&path).and_then(|file| file.take(MAX_CONFIG).read_to_end(&mut text));
    let parsed = read.and_then(|_| serde_json::from_slice::<Value>(&text).map_err(io::Error::other));
    let config = parsed.map_err(|error| PackError::File { path, error })?;
    let rank = |value: &Value| value.as_u64().and_then(|rank| u32::try_from(rank).ok());
    let patterns = config["rank_pattern"].as_object().into_iter().flat_map(|patterns| patterns.values());
    let largest = patterns.chain([&config["r"]]).filter_map(rank).max();
    manifest.rank = manifest.rank.or(largest);
    manifest.alpha = manifest.alpha.or_else(|| config["lora_alpha"].as_f64());
    let name = config["base_model_name_or_path"].as_str().filter(|name| !name.is_empty());
    if manifest.base.is_none() {
        manifest.base = name.map(|name| BaseRef { name: name.to_owned(), digest: None });
    }
    Ok(())
}

/// What a GGUF says of them.
fn from_gguf(folder: &Path, name: &str, manifest: &mut Manifest) -> Result<(), PackError> {
    let path = folder.join(name);
    let read = File::open(&path).map_err(|error| PackError::File { path: path.clone(), error });
    let header = Header::read(io::BufReader::new(read?), &Limits::default())
        .map_err(|error| PackError::File { path, error: io::Error::other(error) })?;
    if header.text("general.type") != Some("adapter") {
        let why =
            format!("{name} is no adapter (general.type is not `adapter`): to pack a base model, say --kind base");
        return Err(PackError::Folder { folder: folder.to_owned(), why });
    }
    let alpha = header.get("adapter.lora.alpha").and_then(crate::gguf::Value::as_f32);
    manifest.alpha = manifest.alpha.or(alpha.map(f64::from));
    // The fastest dimension of `lora_a` is the layer's input, the other one the rank.
    let ranks = header.tensors.iter().filter(|tensor| tensor.name.ends_with(".lora_a"));
    let largest = ranks.filter_map(|tensor| u32::try_from(*tensor.dims.get(1)?).ok()).max();
    manifest.rank = manifest.rank.or(largest);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(folder.path().join(name), content).unwrap();
        }
        folder
    }

    fn packed(folder: &tempfile::TempDir) -> Result<Packed, PackError> {
        pack(folder.path(), Manifest::default(), &|_, _| ())
    }

    const PEFT: &str =
        r#"{"r": 8, "lora_alpha": 16.5, "rank_pattern": {"q_proj": 32}, "base_model_name_or_path": "q"}"#;

    #[test]
    fn what_peft_saves_becomes_a_manifest() {
        let folder = folder(&[(CONFIG, PEFT), (WEIGHTS, "weights"), ("README.md", "x")]);
        let Packed { manifest, left_out } = packed(&folder).unwrap();
        assert_eq!((manifest.rank, manifest.alpha), (Some(32), Some(16.5)));
        assert_eq!(manifest.base, Some(BaseRef { name: "q".into(), digest: None }));
        assert_eq!(left_out, ["README.md"]);
        assert_eq!(manifest.files[WEIGHTS].size, 7);
        let weights = "sha256:9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c";
        assert_eq!(manifest.files[WEIGHTS].sha256.to_string(), weights);
        write(folder.path(), &manifest).unwrap();
        compare(folder.path(), &manifest).unwrap();
        let again = packed(&folder).unwrap().manifest;
        assert_eq!(again.canonical(), manifest.canonical(), "the manifest is no part of itself");
        fs::write(folder.path().join(WEIGHTS), "WEIGHTS").unwrap();
        assert!(compare(folder.path(), &manifest).unwrap_err().to_string().contains("pack it again"));
    }

    #[test]
    fn the_rigs_own_adapters_are_packed() {
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/rig/models");
        let peft = pack(&models.join("risk-v1"), Manifest::default(), &|_, _| ()).unwrap().manifest;
        let folder = tempfile::tempdir().unwrap();
        fs::copy(models.join("risk-v1.gguf"), folder.path().join("risk-v1.gguf")).unwrap();
        let gguf = packed(&folder).unwrap().manifest;
        assert_eq!((gguf.rank, gguf.alpha), (peft.rank, peft.alpha));
        assert_eq!(gguf.files.len(), 1);
    }

    #[test]
    fn a_folder_that_is_no_adapter_is_told_why() {
        for (files, why) in [
            (&[][..], "neither adapter_config.json"),
            (&[(PICKLE, "")][..], "runs code"),
            (&[("a.gguf", ""), ("b.gguf", "")][..], "several GGUFs"),
            (&[(CONFIG, "{}"), (WEIGHTS, ""), ("a.gguf", "")][..], "PEFT's files and a GGUF"),
            (&[(CONFIG, "nonsense"), (WEIGHTS, "")][..], "adapter_config.json: "),
            (&[("a.gguf", "nonsense")][..], "a.gguf: "),
        ] {
            let error = packed(&folder(files)).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
