//! The rig: the real servers that tests run on, built from package registries, pinned, cached outside the checkout.
//!
//! [`prepare`] builds what is missing, once a machine; [`Ollama::start`] starts a replica with the project's tiny
//! models on a free port; whatever it started ends with its caller, however that ends (see [`Supervised`]).

mod cache;
mod deploy;
mod gojson;
mod models;
mod ollama;
mod packages;
mod supervised;

pub use cache::cache_dir;
pub use deploy::{Kind, deployed};
pub use gojson::{Decoded, GoJson};
pub use ollama::{Ollama, OllamaOptions, models_into};
pub use packages::{node, python, python_packages};
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
    gojson::binary()?;
    deploy::binary()?;
    python()?;
    node()?;
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

/// The command line of the Ollama that [`Ollama::start`] runs.
///
/// # Errors
/// It cannot be built.
pub fn ollama() -> Result<PathBuf> {
    ollama::binary()
}
