//! The datasets' own files → items. What is wrong in a file is told by file, place and what was expected, before any model
//! is loaded.

mod gqa;
mod hateful_memes;
mod iconqa;
mod refcoco;
mod refs_pickle;
mod vizwiz;
mod vsr;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{anyhow, bail, ensure, Context, Result};
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tinygptv_convert::source::hex;

use crate::benchmark::Benchmark;
use crate::scoring::Task;

/// One question about one picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Unique in its dataset, the same in every run.
    pub id: String,
    /// The picture's file.
    pub picture: PathBuf,
    /// What is put to the model.
    pub question: String,
    /// What to do with it.
    pub task: Task,
}

/// The items of a dataset, in its order.
#[derive(Debug)]
pub struct Dataset {
    /// File or folder that they were read from.
    pub name: String,
    /// SHA-256 of all that was read, in hexadecimal.
    pub sha256: String,
    /// The items.
    pub items: Vec<Item>,
}

/// Where a dataset is.
#[derive(Clone, Debug)]
pub struct Location {
    /// File with the questions, or for IconQA a folder of problems.
    pub annotations: PathBuf,
    /// Folder of the pictures.
    pub images: PathBuf,
    /// Part of the dataset, for files that hold several.
    pub split: Option<String>,
}

/// Reads a dataset.
///
/// # Errors
/// Files that cannot be read, and items that are not as the dataset's format says.
pub fn load(benchmark: Benchmark, at: &Location) -> Result<Dataset> {
    let name = at.annotations.display();
    ensure!(
        at.split.is_none() || refcoco::is_pickle(&at.annotations),
        "'{name}' is one split of its dataset; leave --split out (it is for refs(….).p files)"
    );
    let mut source = Source { benchmark, hash: Sha256::new() };
    let items = match benchmark {
        Benchmark::Vsr => vsr::read(&mut source, at),
        Benchmark::Gqa => gqa::read(&mut source, at),
        Benchmark::Iconvqa => iconqa::read(&mut source, at),
        Benchmark::Vizwiz => vizwiz::read(&mut source, at),
        Benchmark::HatefulMemes => hateful_memes::read(&mut source, at),
        Benchmark::Refcoco | Benchmark::RefcocoPlus | Benchmark::Refcocog => refcoco::read(&mut source, at),
    }?;
    ensure!(!items.is_empty(), "'{name}' holds no items");
    let mut ids = HashSet::new();
    for item in &items {
        ensure!(ids.insert(&item.id), "'{name}' holds the item '{}' twice; remove one of them", item.id);
    }
    let mut name = at.annotations.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if let Some(split) = &at.split {
        name += &format!(", {split}");
    }
    Ok(Dataset { name, sha256: hex(&source.hash.finalize()), items })
}

/// Reads files and remembers their hash.
struct Source {
    benchmark: Benchmark,
    hash: Sha256,
}

impl Source {
    fn bytes(&mut self, path: &Path) -> Result<Vec<u8>> {
        let bytes = std::fs::read(path).with_context(|| format!("cannot read '{}'", path.display()))?;
        self.hash.update((bytes.len() as u64).to_le_bytes());
        self.hash.update(&bytes);
        Ok(bytes)
    }

    /// A whole file of JSON.
    fn json(&mut self, path: &Path, expected: &str) -> Result<Value> {
        let bytes = self.bytes(path)?;
        parse(&bytes, path, "", expected)
    }

    /// A file of JSON with a list at its top; `item` gets each entry and its number from 1.
    fn list<T: DeserializeOwned>(
        &mut self,
        path: &Path,
        expected: &str,
        mut item: impl FnMut(&Source, usize, T) -> Result<Item>,
    ) -> Result<Vec<Item>> {
        let Value::Array(entries) = self.json(path, expected)? else {
            return Err(wrong(path, "", "there is no list at its top", expected));
        };
        let entries = entries.into_iter().enumerate().map(|(i, entry)| (i + 1, Ok(entry)));
        each(path, "item", expected, entries, |number, entry| item(self, number, entry))
    }

    /// A file with one JSON object a line; `item` gets each and its line number. Empty lines are passed over.
    fn lines<T: DeserializeOwned>(
        &mut self,
        path: &Path,
        expected: &str,
        mut item: impl FnMut(&Source, usize, T) -> Result<Item>,
    ) -> Result<Vec<Item>> {
        let bytes = self.bytes(path)?;
        let filled = |line: &&[u8]| !line.trim_ascii().is_empty();
        let lines = bytes.split(|&b| b == b'\n').enumerate().filter(|(_, line)| filled(line));
        let entries = lines.map(|(i, line)| (i + 1, parse(line, path, &format!("line {}", i + 1), expected)));
        each(path, "line", expected, entries, |number, entry| item(self, number, entry))
    }

    fn item(&self, id: String, picture: PathBuf, text: &str, task: Task) -> Item {
        Item { id, picture, question: self.benchmark.question(text), task }
    }
}

/// Entries of a file → items. `word` is what an entry is called in errors, with its number.
fn each<T: DeserializeOwned>(
    path: &Path,
    word: &str,
    expected: &str,
    entries: impl Iterator<Item = (usize, Result<Value>)>,
    mut item: impl FnMut(usize, T) -> Result<Item>,
) -> Result<Vec<Item>> {
    let one = |(number, entry): (usize, Result<Value>)| {
        let place = format!("{word} {number}");
        item(number, typed(entry?, path, &place, expected)?).map_err(|e| wrong(path, &place, e, expected))
    };
    entries.map(one).collect()
}

/// A label that is 0 or 1.
fn flag(label: u64) -> Result<bool> {
    match label {
        0 => Ok(false),
        1 => Ok(true),
        n => bail!("the label {n}"),
    }
}

fn parse(bytes: &[u8], path: &Path, place: &str, expected: &str) -> Result<Value> {
    serde_json::from_slice(bytes).map_err(|e| wrong(path, place, format!("not valid JSON: {e}"), expected))
}

fn typed<T: DeserializeOwned>(entry: Value, path: &Path, place: &str, expected: &str) -> Result<T> {
    serde_json::from_value(entry).map_err(|e| wrong(path, place, e, expected))
}

/// The error for something that is not as its format says.
fn wrong(path: &Path, place: &str, problem: impl std::fmt::Display, expected: &str) -> anyhow::Error {
    let comma = if place.is_empty() { "" } else { ", " };
    anyhow!("'{}'{comma}{place}: {problem}; expected {expected}", path.display())
}
