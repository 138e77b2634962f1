//! Files that appear under their final name only when they are complete, and the progress display.

use std::fs::{self, File};
use std::io::{BufWriter, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Temporary files that exist now, for the signal handler.
static TEMPORARIES: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn temporaries() -> MutexGuard<'static, Vec<PathBuf>> {
    TEMPORARIES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes all temporary files. For the signal handler, which ends the process afterwards; as long as it keeps what this
/// returns, no new ones are made.
pub fn remove_temporaries() -> impl Sized {
    let mut paths = temporaries();
    for path in paths.drain(..) {
        // There is nobody left to tell.
        let _ = fs::remove_file(path);
    }
    paths
}

/// A file in the making, beside its final place. Removed when dropped unless it was put in place.
pub struct TempFile {
    path: PathBuf,
}

impl TempFile {
    /// A new name beside `target`; the file itself is not made yet. `purpose` is part of the name.
    pub fn beside(target: &Path, purpose: &str) -> TempFile {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let path = target.with_file_name(format!(".{name}.{purpose}-{}", std::process::id()));
        temporaries().push(path.clone());
        TempFile { path }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the file, for writing.
    pub fn create(&self) -> Result<BufWriter<File>> {
        let _files = temporaries();
        let file = File::create(&self.path).with_context(|| format!("cannot create '{}'", self.path.display()))?;
        Ok(BufWriter::with_capacity(1 << 20, file))
    }

    /// Makes sure that everything is on the disk.
    pub fn sync(&self) -> Result<()> {
        let failed = || format!("cannot write '{}'", self.path.display());
        // Windows flushes only what was opened for writing.
        File::options().append(true).open(&self.path).and_then(|f| f.sync_all()).with_context(failed)
    }

    /// Moves the file to its final place.
    pub fn put(self, target: &Path) -> Result<()> {
        fs::rename(&self.path, target).with_context(|| format!("cannot create '{}'", target.display()))?;
        if cfg!(unix) {
            if let Some(dir) = target.parent() {
                // The rename itself is durable only when its folder is; not every file system can do that.
                let _ = File::open(dir).and_then(|d| d.sync_all());
            }
        }
        Ok(())
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        // After put() there is nothing under this name.
        let _ = fs::remove_file(&self.path);
        temporaries().retain(|p| *p != self.path);
    }
}

/// Makes the output folder and refuses what would be overwritten.
pub fn prepare(dir: &Path, targets: &[PathBuf], force: bool) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot create the folder '{}'", dir.display()))?;
    for target in targets {
        ensure!(!target.is_dir(), "'{}' is a folder", target.display());
        ensure!(force || !target.exists(), "'{}' exists; pass --force to replace it", target.display());
    }
    Ok(())
}

/// What a step of the progress display counts.
#[derive(Clone, Copy, Debug)]
pub enum Unit {
    /// Bytes, shown with their speed.
    Bytes,
    /// Anything else, by its plural.
    Things(&'static str),
}

/// How the user hears what happens: a bar on a terminal, plain lines elsewhere, nothing if quiet. All on stderr.
pub struct Progress {
    quiet: bool,
    terminal: bool,
}

impl Progress {
    /// The display for this process's stderr.
    pub fn new(quiet: bool) -> Progress {
        Progress { quiet, terminal: std::io::stderr().is_terminal() }
    }

    /// Prints a line.
    pub fn line(&self, text: &str) {
        if !self.quiet {
            eprintln!("{text}");
        }
    }

    /// Prints a warning, also when quiet.
    pub fn warn(&self, text: &str) {
        eprintln!("warning: {text}");
    }

    /// Starts a step of `total` bytes or things.
    pub fn step(&self, text: &str, total: u64, unit: Unit) -> ProgressBar {
        if !self.terminal {
            self.line(text);
        }
        if self.quiet || !self.terminal {
            return ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
        }
        let amount = match unit {
            Unit::Bytes => "{bytes}/{total_bytes}, {bytes_per_sec}".to_owned(),
            Unit::Things(plural) => format!("{{pos}}/{{len}} {plural}"),
        };
        let template = format!("{{msg}} {{wide_bar}} {amount}, {{eta}} left");
        // The template is a constant of this program: if it is wrong, the default bar serves as well.
        let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(total).with_style(style).with_message(text.to_owned());
        bar.enable_steady_tick(Duration::from_millis(250));
        bar
    }
}

/// A count for people: "1 tensor", "2 tensors".
pub fn tensors(n: usize) -> String {
    format!("{n} {}", if n == 1 { "tensor" } else { "tensors" })
}

/// A size for people.
pub fn human(bytes: u64) -> String {
    match bytes {
        0..=9_999 => format!("{bytes} B"),
        10_000..=9_999_999 => format!("{:.1} kB", bytes as f64 / 1e3),
        10_000_000..=9_999_999_999 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_appears_only_when_put() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a.gguf");
        let temp = TempFile::beside(&target, "new");
        temp.create().unwrap();
        temp.sync().unwrap();
        assert!(!target.exists());
        temp.put(&target).unwrap();
        assert!(target.exists());
        let dropped = TempFile::beside(&target, "new");
        dropped.create().unwrap();
        drop(dropped);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn overwrites_only_when_forced() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a.gguf");
        let targets = [target.clone()];
        prepare(dir.path(), &targets, false).unwrap();
        fs::write(&target, "x").unwrap();
        assert!(prepare(dir.path(), &targets, false).unwrap_err().to_string().contains("--force"));
        prepare(dir.path(), &targets, true).unwrap();
    }
}
