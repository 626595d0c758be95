//! `tutti adapter ls` and `show`

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde_json::json;
use tutti_adapter_loader::manifest;
use tutti_adapter_loader::source::{MAX_OBJECTS, Object};
use tutti_api::Manifest;

use super::{Store, bars, transfer};
use crate::print::{self, plain, say};

/// Most objects that are looked at.
const MAX: usize = 1_000_000;

#[derive(Args, Clone, Debug)]
pub(super) struct List {
    /// Where: s3://BUCKET/PREFIX/, a folder, or with --pool a path below the pool's own place
    #[arg(value_name = "PLACE", default_value = "", hide_default_value = true)]
    place: String,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    store: Store,
}

#[derive(Args, Clone, Debug)]
pub(super) struct Show {
    /// Which: s3://BUCKET/PREFIX/MODEL/REVISION/, a folder, or with --pool MODEL/REVISION
    #[arg(value_name = "PLACE")]
    place: String,
    /// Print the manifest as JSON, for programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    store: Store,
}

/// An adapter in a list; where there is no manifest to go by, why.
type Row = (String, Result<Manifest, String>);

impl List {
    pub(super) async fn run(&self) -> Result<ExitCode> {
        if self.place.is_empty() && self.store.pool.is_none() {
            anyhow::bail!("say where: s3://BUCKET/PREFIX/, a folder, or --pool NAME");
        }
        let place = self.store.open(&self.place)?;
        let objects = place.source.list("", MAX).await?;
        let mut rows: Vec<Row> = Vec::new();
        for (path, files) in adapters(&objects) {
            let read = manifest::read(&place.source, &path, &files).await;
            rows.push((path, read.map_err(|error| error.to_string())));
        }
        if self.json {
            let row = |(path, read): &Row| match read {
                Ok(own) => json!({ "path": path, "digest": manifest::digest(own), "manifest": own }),
                Err(why) => json!({ "path": path, "error": why }),
            };
            let rows: Vec<_> = rows.iter().map(row).collect();
            return print::page(&format!("{:#}\n", json!(rows)));
        }
        if rows.is_empty() {
            say!("{}: no folder in it has a manifest.json", place.source.place());
        }
        print::page(&table(&rows))
    }
}

/// The paths that have a manifest, with what lies directly below each.
fn adapters(objects: &[Object]) -> BTreeMap<String, Vec<Object>> {
    let mut found = BTreeMap::new();
    let parted = || objects.iter().map(|object| (object.key.rsplit_once('/').unwrap_or(("", &object.key)), object));
    for ((path, _), _) in parted().filter(|((_, name), _)| *name == Manifest::FILE) {
        found.insert(path.to_owned(), Vec::new());
    }
    for ((path, name), object) in parted() {
        if let Some(files) = found.get_mut(path).filter(|files| files.len() < MAX_OBJECTS) {
            files.push(Object { key: name.to_owned(), ..object.clone() });
        }
    }
    found
}

/// The rows as people read them.
fn table(rows: &[Row]) -> String {
    let mut cells = vec![["PATH", "BASE", "RANK", "SIZE", "DIGEST"].map(str::to_owned)];
    cells.extend(rows.iter().map(|(path, read)| match read {
        Ok(own) => [
            plain(path),
            own.base.as_ref().map_or("-".to_owned(), |base| plain(&base.name)),
            own.rank.map_or("-".to_owned(), |rank| rank.to_string()),
            bars::size(transfer::bytes(own)),
            manifest::digest(own).hex()[..12].to_owned(),
        ],
        Err(why) => [plain(path), plain(why), String::new(), String::new(), String::new()],
    }));
    let width = |column: usize| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0).min(60);
    let widths = [width(0), width(1), width(2), width(3)];
    let line = |row: &[String; 5]| {
        let padded = widths.iter().zip(row).map(|(width, cell)| format!("{cell:width$}  ")).collect::<String>();
        format!("{padded}{}", row[4]).trim_end().to_owned() + "\n"
    };
    cells.iter().map(line).collect()
}

impl Show {
    pub(super) async fn run(&self) -> Result<ExitCode> {
        let place = self.store.open(&self.place)?;
        let listed = place.source.list("", MAX_OBJECTS).await?;
        let own = manifest::read(&place.source, "", &listed).await?;
        if self.json {
            return print::page(&(serde_json::to_string_pretty(&own)? + "\n"));
        }
        let mut page = shown(&own);
        for (name, entry) in &own.files {
            let there = listed.iter().find(|object| object.key == *name).map(|object| object.size);
            let said = match there {
                None => " MISSING".to_owned(),
                Some(size) if size != entry.size => format!(" WRONG SIZE: {size} bytes are there"),
                Some(_) => String::new(),
            };
            let _ = writeln!(page, "  {}  {}  {}{said}", plain(name), bars::size(entry.size), entry.sha256);
        }
        print::page(&page)
    }
}

fn shown(own: &Manifest) -> String {
    let mut page = format!("digest   {}\n", manifest::digest(own));
    let mut line = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            let _ = writeln!(page, "{name:8} {}", plain(&value));
        }
    };
    line("base", own.base.as_ref().map(|base| base.name.clone()));
    line("", own.base.as_ref().and_then(|base| base.digest).map(|digest| digest.to_string()));
    line("rank", own.rank.map(|rank| rank.to_string()));
    line("alpha", own.alpha.map(|alpha| alpha.to_string()));
    line("asked", own.probe.as_ref().map(|probe| probe.prompt.clone()));
    line("expected", own.probe.as_ref().and_then(|probe| probe.expect.clone()));
    for (key, value) in &own.lineage {
        line("from", Some(format!("{key} = {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned))));
    }
    page + "files\n"
}
