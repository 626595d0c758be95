//! Out of what was verified comes the artefact, in a temporary file.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use sha2::{Digest as _, Sha256};
use tutti_api::{Digest, Reason};

use super::{Failure, blocking};
use crate::convert;
use crate::engine::BaseFacts;
use crate::fault::{Point, point};
use crate::gguf::GgufError;
use crate::identity::Making;
use crate::merge;
use crate::store::StoreError;
use crate::verify::Checked;

/// Bytes that are gathered before they are written.
const BUFFER: usize = 1 << 20;

/// How much room it wants. Unit: bytes.
pub(super) fn room(checked: &Checked, making: &Making, base: &BaseFacts) -> Result<u64, Failure> {
    let converted = convert::room(checked);
    let Some(to) = making.merged else { return Ok(converted) };
    let merged = merge::room(&weights(base)?, to).map_err(|error| unmerged(&error))?;
    Ok(converted.saturating_add(merged))
}

/// Writes the artefact; yields its digest. What is merged is converted first, in the other file.
pub(super) async fn step(
    checked: Checked,
    making: &Making,
    base: &BaseFacts,
    temp: &Path,
    other: &Path,
) -> Result<Digest, Failure> {
    let to = temp.to_owned();
    let Some(merge_to) = making.merged else {
        let written = blocking(move || write(&to, |out| convert::convert(&checked, out))).await?;
        return written.map_err(|error| unwritten(error, temp));
    };
    let (base, other) = (weights(base)?, other.to_owned());
    let written = blocking(move || {
        write(&other, |out| convert::convert(&checked, out))?;
        let lora = File::open(&other)?;
        write(&to, |out| merge::merge(&base, &lora, merge_to, out))
    });
    written.await?.map_err(|error| unwritten(error, temp))
}

/// What was verified a moment ago can be read: it is the disk that does not take it.
fn unwritten(error: GgufError, temp: &Path) -> Failure {
    match error {
        GgufError::Io(error) => StoreError::of("write", temp, error).into(),
        error => unmerged(&error),
    }
}

fn unmerged(error: &GgufError) -> Failure {
    Failure::judged(error.reason(), format!("it cannot be merged into its base: {error}"))
}

/// The base's weights, where the engine keeps them.
fn weights(base: &BaseFacts) -> Result<File, Failure> {
    File::open(&base.blob).map_err(|error| {
        let at = base.blob.display();
        let help = "the engine takes no adapters, and to merge them the loader reads the base where the engine keeps it: \
                    let both have that folder (OLLAMA_MODELS)";
        Failure::passing(Reason::EngineUnavailable, format!("cannot read the base at {at}: {error}; {help}"))
    })
}

fn write(
    to: &Path,
    make: impl FnOnce(&mut BufWriter<&mut Hashed>) -> Result<(), GgufError>,
) -> Result<Digest, GgufError> {
    let mut hashed = Hashed { file: File::create(to)?, sha256: Sha256::new() };
    let mut buffered = BufWriter::with_capacity(BUFFER, &mut hashed);
    make(&mut buffered)?;
    buffered.flush()?;
    drop(buffered);
    hashed.file.sync_all()?;
    Ok(Digest::new(hashed.sha256.finalize().into()))
}

/// A file whose digest is known once it is written.
struct Hashed {
    file: File,
    sha256: Sha256,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.sha256.update(&bytes[..written]);
        point(Point::ConvertInTemp);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
