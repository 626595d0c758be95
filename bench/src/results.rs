//! What was measured, kept as JSON and printed as `RESULTS.md`.

use std::fs;
use std::path::Path;

use anyhow::Context;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::batching::BatchingResults;
use crate::deaths::DeathsResults;
use crate::embeddings::EmbeddingsResults;
use crate::field::{self, FieldResults};
use crate::fleet::{self, FleetResults};
use crate::gateway::GatewayResults;
use crate::gateways::GatewaysResults;
use crate::gone::GoneResults;
use crate::loader::LoaderResults;
use crate::release::ReleaseResults;
use crate::rounds::RoundsResults;
use crate::signal::{self, SignalResults};
use crate::soak::SoakResults;
use crate::streams::StreamsResults;

/// A part of the page: the name of its figures' file, and how they are printed.
type Section = (&'static str, fn(&[u8]) -> serde_json::Result<String>);

/// A picture of a part: the name of its figures' file, its own below the folder, and how it is drawn.
type Picture = (&'static str, &'static str, fn(&[u8]) -> serde_json::Result<String>);

const PICTURES: [Picture; 3] = [
    ("field", field::PICTURE, |json| Ok(read::<FieldResults>(json)?.picture())),
    ("fleet", fleet::PICTURE, |json| Ok(read::<FleetResults>(json)?.picture())),
    ("signal", signal::PICTURE, |json| Ok(read::<SignalResults>(json)?.picture())),
];

/// The page from its beginning to its end.
const SECTIONS: [Section; 14] = [
    ("gateway", |json| Ok(read::<GatewayResults>(json)?.markdown())),
    ("field", |json| Ok(read::<FieldResults>(json)?.markdown())),
    ("batching", |json| Ok(read::<BatchingResults>(json)?.markdown())),
    ("gateways", |json| Ok(read::<GatewaysResults>(json)?.markdown())),
    ("embeddings", |json| Ok(read::<EmbeddingsResults>(json)?.markdown())),
    ("fleet", |json| Ok(read::<FleetResults>(json)?.markdown())),
    ("signal", |json| Ok(read::<SignalResults>(json)?.markdown())),
    ("loader", |json| Ok(read::<LoaderResults>(json)?.markdown())),
    ("streams", |json| Ok(read::<StreamsResults>(json)?.markdown())),
    ("soak", |json| Ok(read::<SoakResults>(json)?.markdown())),
    ("deaths", |json| Ok(read::<DeathsResults>(json)?.markdown())),
    ("rounds", |json| Ok(read::<RoundsResults>(json)?.markdown())),
    ("release", |json| Ok(read::<ReleaseResults>(json)?.markdown())),
    ("gone", |json| Ok(read::<GoneResults>(json)?.markdown())),
];

/// Keeps a measurement in `folder/results/<name>.json` and prints `folder/RESULTS.md` from all that are there.
///
/// # Errors
/// A file cannot be read or written.
pub fn keep(folder: &Path, name: &str, results: &impl Serialize) -> anyhow::Result<()> {
    let results_folder = folder.join("results");
    fs::create_dir_all(&results_folder)?;
    let json = serde_json::to_string_pretty(results)? + "\n";
    fs::write(results_folder.join(name).with_extension("json"), json)?;
    print(folder)
}

/// Prints `RESULTS.md` and its pictures from the figures that are there.
///
/// # Errors
/// A file cannot be read or written.
pub fn print(folder: &Path) -> anyhow::Result<()> {
    let mut text = String::from(
        "# Results\n\nMade by the commands below and not edited by hand; the raw figures are in `results/`. Load, \
         replica and contenders share one machine, so only figures of one table can be compared.\n",
    );
    for (name, section) in SECTIONS {
        let file = folder.join("results").join(name).with_extension("json");
        let json = match fs::read(&file) {
            Ok(json) => json,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| file.display().to_string()),
        };
        text += &section(&json).with_context(|| file.display().to_string())?;
        for (_, picture, draw) in PICTURES.iter().filter(|(of, ..)| *of == name) {
            fs::write(folder.join(picture), draw(&json)?)?;
        }
    }
    fs::write(folder.join("RESULTS.md"), text)?;
    Ok(())
}

fn read<T: DeserializeOwned>(json: &[u8]) -> serde_json::Result<T> {
    serde_json::from_slice(json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_section_is_replaced_and_the_others_stay() {
        let folder = tempfile::tempdir().unwrap();
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let page = || fs::read_to_string(folder.path().join("RESULTS.md")).unwrap();
        let gone: serde_json::Value =
            serde_json::from_slice(&fs::read(here.join("results/gone.json")).unwrap()).unwrap();
        keep(folder.path(), "gone", &gone).unwrap();
        assert_eq!(page().matches("\n## ").count(), 1, "what was not measured has no section");
        fs::copy(here.join("results/gateway.json"), folder.path().join("results/gateway.json")).unwrap();
        let mut again = gone;
        again["clients"] = 7.into();
        keep(folder.path(), "gone", &again).unwrap();
        assert!(page().contains("\n## Gateway") && page().contains("; 7 clients in each phase"), "{}", page());
    }

    /// Whoever changes how figures are printed prints the page again: the figures are kept.
    #[test]
    fn the_page_is_printed_from_the_figures() {
        let (folder, here) = (tempfile::tempdir().unwrap(), Path::new(env!("CARGO_MANIFEST_DIR")));
        fs::create_dir(folder.path().join("results")).unwrap();
        for file in fs::read_dir(here.join("results")).unwrap().flatten() {
            fs::copy(file.path(), folder.path().join("results").join(file.file_name())).unwrap();
        }
        print(folder.path()).unwrap();
        let same = |name: &str| {
            let printed = fs::read_to_string(folder.path().join(name)).unwrap();
            assert_eq!(printed, fs::read_to_string(here.join(name)).unwrap(), "cargo xtask bench print writes {name}");
        };
        same("RESULTS.md");
        for (_, picture, _) in PICTURES.iter().filter(|(_, picture, _)| here.join(picture).exists()) {
            same(picture);
        }
    }
}
