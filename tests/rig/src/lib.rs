//! The rig: the real servers that tests run on, built from package registries, pinned, cached outside the checkout.
//!
//! [`prepare`] builds what is missing, once a machine; [`Ollama::start`] starts a replica with the project's tiny
//! models on a free port; whatever it started ends with its caller, however that ends (see [`Supervised`]).

mod cache;
mod cluster;
mod deploy;
mod gojson;
mod llama;
mod minio;
mod models;
mod ollama;
mod packages;
mod program;
mod prometheus;
mod supervised;

pub use cache::cache_dir;
pub use cluster::{Cluster, ControlPlane, PACKAGES, PROGRAMS, prepare_cluster};
pub use deploy::{Kind, deployed};
pub use gojson::{Decoded, GoJson};
pub use llama::Llama;
pub use minio::Minio;
pub use models::EMBEDDING;
pub use ollama::{Ollama, OllamaOptions, models_into};
pub use packages::{gguf, node, python, python_packages};
pub use program::static_binary;
pub use prometheus::{Prometheus, promtool};
pub use supervised::Supervised;

use std::path::PathBuf;

use anyhow::Result;

/// Builds what a replica with the rig's models needs, if it is not in the cache yet: about 3 minutes on a fresh machine
/// with two cores, nothing later.
///
/// # Errors
/// A tool or a registry is missing; says which.
pub fn prepare_ollama() -> Result<()> {
    models::store()?;
    Ok(())
}

/// Builds everything that the tests need and is not in the cache yet.
///
/// # Errors
/// A tool or a registry is missing; says which.
pub fn prepare() -> Result<()> {
    prepare_ollama()?;
    minio::binary()?;
    gojson::binary()?;
    deploy::binary()?;
    llama::server()?;
    python()?;
    gguf()?;
    node()?;
    prepare_cluster()?;
    Ok(())
}

/// A replica with so many adapters on one base, of which it can hold one at a time; and their names.
///
/// # Errors
/// It does not start, or does not take them.
pub fn ollama_with_adapters(count: u8) -> Result<(Ollama, Vec<String>)> {
    let ollama = Ollama::start(&OllamaOptions::default())?;
    let names = models::adapters(&ollama, count)?;
    Ok((ollama, names))
}

/// An engine that takes an array of texts in one pass, and two Ollamas, each held to a processor of its own; all with the
/// embedding model [`EMBEDDING`].
///
/// # Errors
/// One does not start.
pub fn embedding_engines() -> Result<(Llama, [Ollama; 2])> {
    let ollama = |processor| Ollama::start(&OllamaOptions { processor: Some(processor), ..OllamaOptions::default() });
    Ok((Llama::start()?, [ollama(0)?, ollama(1)?]))
}

/// One of the files of `tests/rig/models`, which its README tells of.
pub fn model_file(name: &str) -> PathBuf {
    models::folder().join(name)
}

/// A folder with `llama-cpp-python`, which is llama.cpp for Python, and what it needs, for `PYTHONPATH`.
///
/// # Errors
/// It cannot be built.
pub fn llama_packages() -> Result<PathBuf> {
    llama::server()
}

/// The command line of the Ollama that [`Ollama::start`] runs.
///
/// # Errors
/// It cannot be built.
pub fn ollama() -> Result<PathBuf> {
    ollama::binary()
}
