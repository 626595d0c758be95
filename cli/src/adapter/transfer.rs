//! `tutti adapter push` and `pull`

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use clap::Args;
use tutti_adapter_loader::fetch::{Counts, Limits};
use tutti_adapter_loader::{manifest, transfer};
use tutti_api::{Kind, Manifest};

use super::{Store, bars};
use crate::print::{self, say};

#[derive(Args, Clone, Debug)]
pub(super) struct Push {
    /// The folder, with the manifest that `tutti adapter pack` wrote
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Where to: s3://BUCKET/PREFIX/MODEL/REVISION/, a folder, or with --pool MODEL/REVISION
    #[arg(value_name = "PLACE")]
    place: String,
    #[command(flatten)]
    store: Store,
}

#[derive(Args, Clone, Debug)]
pub(super) struct Pull {
    /// Where from: s3://BUCKET/PREFIX/MODEL/REVISION/, a folder, or with --pool MODEL/REVISION
    #[arg(value_name = "PLACE")]
    place: String,
    /// The folder to put it into; it is made
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Parts on the way at once; else the configuration's, else 8
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    parallel: Option<u16>,
    /// Bytes a second at most, as 20Mi; else the configuration's, else no bound
    #[arg(long, value_name = "SIZE")]
    bandwidth: Option<tutti_api::ByteSize>,
    #[command(flatten)]
    store: Store,
}

/// All bytes of a manifest's files.
pub(super) fn bytes(manifest: &Manifest) -> u64 {
    manifest.files.values().map(|file| file.size).sum()
}

impl Push {
    pub(super) async fn run(&self) -> Result<ExitCode> {
        let place = self.store.open(&self.place)?;
        let manifest = transfer::checked(&self.folder)?;
        if manifest.kind == Kind::Adapter {
            place.check_path()?;
        }
        let (counts, total) = (Arc::new(Counts::default()), bytes(&manifest));
        let push = transfer::push(&self.folder, &manifest, &place.source, "", &counts);
        let pushed = bars::shown("push", || total, &counts, push).await?;
        let at = place.source.place();
        match pushed {
            transfer::Pushed::Now => say!("{at}: {} files, {}", manifest.files.len() + 1, bars::size(total)),
            transfer::Pushed::Before => say!("{at}: it is there already, and the same"),
        }
        print::page(&format!("{}\n", manifest::digest(&manifest)))
    }
}

impl Pull {
    pub(super) async fn run(&self) -> Result<ExitCode> {
        let place = self.store.open(&self.place)?;
        let mut spec = place.fetch.clone();
        spec.parallel = self.parallel.unwrap_or(spec.parallel);
        spec.bandwidth = self.bandwidth.or(spec.bandwidth);
        let manifest = pull(&place, &self.folder, &Limits::new(&spec)).await?;
        let size = bars::size(bytes(&manifest));
        say!("{}: {} files, {size}", self.folder.display(), manifest.files.len() + 1);
        print::page(&format!("{}\n", manifest::digest(&manifest)))
    }
}

/// Downloads an adapter and shows how far it is.
pub(super) async fn pull(place: &super::Place, folder: &std::path::Path, limits: &Limits) -> Result<Manifest> {
    let (counts, total) = (Arc::new(Counts::default()), AtomicU64::new(0));
    let begin = |manifest: &Manifest| total.store(bytes(manifest), Ordering::Relaxed);
    let pull = transfer::pull(&place.source, "", folder, limits, begin, &counts);
    Ok(bars::shown("pull", || total.load(Ordering::Relaxed), &counts, pull).await?)
}
