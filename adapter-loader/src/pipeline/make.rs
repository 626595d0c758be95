//! Out of files come weights in the engine's form: verified, converted or merged, published.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tutti_api::{Manifest, Phase, Reason};

use super::{Failure, Work, blocking, convert, manifest, seconds};
use crate::engine::BaseFacts;
use crate::fault::{Point, point};
use crate::identity::{Making, identity};
use crate::store::{Fetched, Made};
use crate::verify::{self, Checked, Refused};

/// Makes the candidate.
pub(super) async fn step(work: &Work) -> Result<(), Failure> {
    let (making, base) = work.making()?;
    let Some(fetched) = work.record().fetched else {
        return Err(Failure::passing(Reason::SourceUnavailable, "there is nothing to make weights of: this is a bug"));
    };
    let folder = work.folder(&fetched.folder);
    let place = work.tools.makes.acquire().await;
    work.phase(Phase::Verifying);
    point(Point::VerifyBefore);
    let (said, checked) = verified(work, &folder, &base).await?;
    point(Point::VerifyAfter);
    work.phase(Phase::Converting);
    point(Point::ConvertBefore);
    let temp = Temp(work.tools.store.temp("artefact"));
    work.room(convert::room(&checked, &making, &base)?).await?;
    let other = Temp(work.tools.store.temp("converted"));
    let blob = convert::step(checked, &making, &base, &temp.0, &other.0).await?;
    drop(other);
    publish(work, &temp, &making, &said, &fetched, blob).await?;
    drop(place);
    Ok(())
}

/// Looks at the files; says what the manifest says.
async fn verified(work: &Work, folder: &Path, base: &Arc<BaseFacts>) -> Result<(Manifest, Checked), Failure> {
    let (files, base, path) = (folder.to_owned(), base.clone(), work.wanted.path.clone());
    let verify = move || {
        let text = std::fs::read(files.join(Manifest::FILE));
        let said = text.map_err(|error| error.to_string()).and_then(|text| manifest::read(&text));
        let said = said.map_err(|why| Failure::judged(Reason::InvalidManifest, format!("{path}: {why}")))?;
        let refused = |refused: Refused| Failure::judged(refused.reason, format!("{path}: {}", refused.message));
        let checked = verify::verify(&files, &said, &base.base).map_err(refused)?;
        Ok((said, checked))
    };
    blocking(verify).await?
}

/// Moves the artefact to its place, writes down that it is there, and removes what it was made of.
async fn publish(
    work: &Work,
    temp: &Temp,
    making: &Making,
    said: &Manifest,
    fetched: &Fetched,
    blob: tutti_api::Digest,
) -> Result<(), Failure> {
    let path = work.wanted.path.clone();
    let identity = identity(&fetched.manifest, making);
    let bytes = crate::store::size(&temp.0);
    let (tools, file, of) = (work.tools.clone(), temp.0.clone(), path.clone());
    blocking(move || tools.store.publish(&file, &of, &identity)).await??;
    let made = Made {
        identity,
        engine_name: path.engine_name(&identity),
        manifest: fetched.manifest,
        seen: fetched.seen,
        base: making.base,
        merged: making.merged.is_some(),
        blob,
        bytes,
        on_disk: true,
        probe: said.probe.clone(),
        proven: None,
        made: seconds(),
    };
    let record = work.record();
    let is_known = record.artefacts().any(|made| made.identity == identity);
    let serves = record.served.map(|made| made.identity);
    let before = record.candidate.filter(|before| before.identity != identity && Some(before.identity) != serves);
    let kept = work.keep(|record| {
        if record.candidate.as_ref().is_some_and(|before| before.engine_name != made.engine_name) {
            record.give_up_candidate();
        }
        record.candidate = Some(made);
        record.fetched = None;
    });
    if let Err(failure) = kept {
        // No record tells of it: it would take the room that the next try wants.
        if !is_known {
            work.tools.store.remove(&work.tools.store.artefact(&path, &identity))?;
        }
        return Err(failure);
    }
    point(Point::PublishAfterRecord);
    if let Some(before) = before {
        work.tools.store.remove(&work.tools.store.artefact(&path, &before.identity))?;
    }
    work.tools.store.remove(&work.folder(&fetched.folder))?;
    point(Point::PublishAfterClean);
    Ok(())
}

/// A file that goes unless it was moved: whoever is stopped leaves none behind.
#[derive(Debug)]
struct Temp(PathBuf);

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
