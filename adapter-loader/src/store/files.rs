//! Files that are there whole or not at all.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use crate::fault::{Point, point};

/// Writes a small file: whoever reads it sees the old text or the new one, also after a crash.
pub(super) fn write(temp: &Path, path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = File::create(temp)?;
    let unused = |_: &io::Error| _ = fs::remove_file(temp);
    file.write_all(text).and_then(|()| file.sync_all()).inspect_err(unused)?;
    point(Point::RecordBeforeRename);
    fs::rename(temp, path).inspect_err(unused)?;
    point(Point::RecordAfterRename);
    sync_folder_of(path)
}

/// Has the disk know which names the folder of this file has.
pub(super) fn sync_folder_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// Removes a file or a folder with all that is in it; one that is not there is removed already.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    // Never through a link: what it leads to is not ours.
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Bytes of a file, or of all in a folder.
pub(super) fn size(path: &Path) -> u64 {
    let Ok(meta) = fs::symlink_metadata(path) else { return 0 };
    if !meta.is_dir() {
        return meta.len();
    }
    fs::read_dir(path).into_iter().flatten().flatten().map(|entry| size(&entry.path())).sum()
}

/// The names in a folder.
pub(super) fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    Ok(entries.into_iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}
