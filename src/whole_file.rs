//! Files that appear under their name when they are complete.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

/// Writes a file, or leaves everything as it was. What is there already and is no file, such as a pipe or a device, is written
/// to as it is.
///
/// # Errors
/// `Io`.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let special = fs::metadata(path).is_ok_and(|meta| !meta.is_file());
    let written =
        if special { File::create(path).and_then(|mut file| file.write_all(bytes)) } else { replace(path, bytes) };
    written.map_err(|e| Error::io("write", path, e))
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let unfinished = unfinished_name(path);
    let mut file = File::create_new(&unfinished)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&unfinished, path));
    if written.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    written
}

/// A name beside `path` that no other call uses.
fn unfinished_name(path: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}-{}.part", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    path.with_file_name(name)
}
