//! `tutti adapter verify`

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use clap::Args;
use tutti_adapter_loader::base::Base;
use tutti_adapter_loader::fetch::Limits;
use tutti_adapter_loader::gguf::{Header, Limits as HeaderLimits};
use tutti_adapter_loader::{manifest, pack, transfer, verify};

use super::{Store, bars};
use crate::print::{self, say};

#[derive(Args, Clone, Debug)]
pub(super) struct Verify {
    /// Which: a folder, s3://BUCKET/PREFIX/MODEL/REVISION/, or with --pool MODEL/REVISION
    #[arg(value_name = "PLACE")]
    place: String,
    /// The base model's GGUF, as Ollama's blob of it: the adapter's tensors are looked at too, and whether they fit that base
    #[arg(long, value_name = "GGUF")]
    base: Option<PathBuf>,
    #[command(flatten)]
    store: Store,
}

impl Verify {
    pub(super) async fn run(&self) -> Result<ExitCode> {
        let is_folder = self.store.pool.is_none() && !self.place.contains("://");
        let away;
        let (folder, manifest) = if is_folder {
            let folder = Path::new(&self.place);
            (folder, transfer::checked(folder)?)
        } else {
            away = Away::make()?;
            let place = self.store.open(&self.place)?;
            let manifest = super::transfer::pull(&place, &away.0, &Limits::new(&place.fetch)).await?;
            (away.0.as_path(), manifest)
        };
        let size = bars::size(super::transfer::bytes(&manifest));
        say!("{}: the files are what the manifest says: {} files, {size}", self.place, manifest.files.len());
        match &self.base {
            None => say!("its tensors were not looked at: name the base model's GGUF with --base"),
            Some(file) => {
                let checked = verify::verify(folder, &manifest, &base(file)?)?;
                say!("it fits {}: rank {}, alpha {}", file.display(), checked.rank(), checked.alpha());
            }
        }
        print::page(&format!("{}\n", manifest::digest(&manifest)))
    }
}

/// What a GGUF says of itself, with its digest.
fn base(file: &Path) -> Result<Base> {
    let shown = || file.display().to_string();
    let reader = BufReader::new(File::open(file).with_context(shown)?);
    let header = Header::read(reader, &HeaderLimits::default()).with_context(shown)?;
    let digest = pack::entry(file).with_context(shown)?.sha256;
    Base::of_header(&header, Some(digest)).map_err(|why| anyhow!("{}: {why}", shown()))
}

/// A folder for what is looked at and thrown away.
struct Away(PathBuf);

impl Away {
    fn make() -> Result<Self> {
        let name = format!("tutti-verify-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
        Ok(Self(folder))
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0); // whom else to tell?
    }
}
