//! The file of results: JSON lines, the first of which says what was run; the others are one item each.
//!
//! A line is written whole and at once, so a run that was cut off leaves at most its last line torn, and the next run goes
//! on behind the last whole one. Where an item has several lines the last one counts.

use std::collections::HashMap;
use std::fs::{File, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{bail, ensure, Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::benchmark::Benchmark;

/// Of the format of this file.
const VERSION: u32 = 1;
/// Every file of results begins with it.
const BEGINNING: &[u8] = b"{\"tinygptv_eval\":";

/// A file that a run depends on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FileId {
    /// For people: it may be renamed.
    pub name: String,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
}

/// What was run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// Version of the file format.
    pub tinygptv_eval: u32,
    /// Version of the library.
    pub library: String,
    /// Which benchmark.
    pub benchmark: Benchmark,
    /// The dataset's file.
    pub annotations: FileId,
    /// Items of the whole dataset.
    pub items: usize,
    /// The decoder file.
    pub decoder: FileId,
    /// The vision file.
    pub vision: FileId,
    /// Prompt template.
    pub template: String,
    /// Limit on an answer's tokens; tokens are chosen greedily.
    pub max_new_tokens: usize,
}

impl Header {
    /// For a run with this program.
    pub fn new(
        benchmark: Benchmark,
        annotations: FileId,
        items: usize,
        [decoder, vision]: [FileId; 2],
        template: &str,
        max_new_tokens: usize,
    ) -> Header {
        Header {
            tinygptv_eval: VERSION,
            library: env!("CARGO_PKG_VERSION").to_owned(),
            benchmark,
            annotations,
            items,
            decoder,
            vision,
            template: template.to_owned(),
            max_new_tokens,
        }
    }

    /// What differs in `other`, as far as it changes answers or scores.
    fn differences(&self, other: &Header) -> Vec<String> {
        let all = |h: &Header| {
            let file =
                |f: &FileId| (f.sha256.clone(), format!("{} ({})", f.name, f.sha256.get(..12).unwrap_or_default()));
            let same = |text: String| (text.clone(), text);
            [
                ("file format", same(h.tinygptv_eval.to_string())),
                ("library", same(h.library.clone())),
                ("benchmark", same(h.benchmark.name().to_owned())),
                ("annotations", file(&h.annotations)),
                ("items", same(h.items.to_string())),
                ("decoder", file(&h.decoder)),
                ("vision", file(&h.vision)),
                ("template", same(h.template.clone())),
                ("token limit", same(h.max_new_tokens.to_string())),
            ]
        };
        let pairs = all(self).into_iter().zip(all(other));
        pairs
            .filter(|((_, (a, _)), (_, (b, _)))| a != b)
            .map(|((what, (_, a)), (_, (_, b)))| format!("{what}: {a} there, {b} now"))
            .collect()
    }
}

/// One item's result. Of `score` and `error` exactly one is there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The item.
    pub id: String,
    /// What was put to the model.
    pub question: String,
    /// What it answered, or the candidate it found likeliest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// What is right.
    pub label: Value,
    /// Candidates, where there are any,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub choices: Option<Vec<String>>,
    /// and the loss of each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub losses: Option<Vec<f32>>,
    /// Intersection over union, where the answer has a box.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iou: Option<f64>,
    /// 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// Why there is no answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Milliseconds that it took, with encoding the picture where it was new.
    pub ms: f64,
}

/// What a file of results holds.
#[derive(Debug)]
pub struct Results {
    /// What was run.
    pub header: Header,
    /// The last record of each item, in the order of their first.
    pub records: Vec<Record>,
    /// Bytes up to the end of the last whole line.
    whole: u64,
}

/// Reads a file of results. A torn last line is left out.
///
/// # Errors
/// A file that cannot be read, or that holds something else.
pub fn read(path: &Path) -> Result<Results> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read '{}'", path.display()))?;
    parse(&bytes, path)?.with_context(|| format!("'{}' holds no results", path.display()))
}

/// `None` for a file without a whole line.
fn parse(bytes: &[u8], path: &Path) -> Result<Option<Results>> {
    let whole = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
    let mut lines = bytes[..whole].split_inclusive(|&b| b == b'\n').enumerate();
    let wrong = |line: usize, e: serde_json::Error| {
        anyhow::anyhow!("'{}', line {}: {e}; not a line of results, use another file", path.display(), line + 1)
    };
    let Some((at, first)) = lines.next() else { return Ok(None) };
    let header: Header = serde_json::from_slice(first).map_err(|e| wrong(at, e))?;
    let mut places = HashMap::new();
    let mut records: Vec<Record> = Vec::new();
    for (at, line) in lines {
        let record: Record = serde_json::from_slice(line).map_err(|e| wrong(at, e))?;
        match places.get(&record.id) {
            Some(&place) => records[place] = record,
            None => {
                places.insert(record.id.clone(), records.len());
                records.push(record);
            }
        }
    }
    Ok(Some(Results { header, records, whole: whole as u64 }))
}

/// A file of results that a run appends to.
#[derive(Debug)]
pub struct Writer {
    file: File,
    path: PathBuf,
}

impl Writer {
    /// Makes the file, or goes on with one of the same settings; gives the records that it holds.
    ///
    /// # Errors
    /// A file of other settings, of another kind, in use by another run, or that cannot be written.
    pub fn open(path: &Path, header: &Header) -> Result<(Writer, Vec<Record>)> {
        let failed = || format!("cannot write '{}'", path.display());
        let file =
            File::options().read(true).write(true).create(true).truncate(false).open(path).with_context(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!("'{}' is in use by another run", path.display()),
            // Not every file system has locks.
            Err(TryLockError::Error(_)) => {}
        }
        let mut writer = Writer { file, path: path.to_owned() };
        let mut bytes = Vec::new();
        writer.file.read_to_end(&mut bytes).with_context(failed)?;
        let known = parse(&bytes, path)?;
        let torn_header = bytes.iter().zip(BEGINNING).all(|(a, b)| a == b);
        ensure!(known.is_some() || torn_header, "'{}' is not a file of results; use another", path.display());
        if let Some(known) = &known {
            let differences = known.header.differences(header);
            ensure!(
                differences.is_empty(),
                "'{}' is of another run ({}); use another file, or delete it to start anew",
                path.display(),
                differences.join("; ")
            );
        }
        let whole = known.as_ref().map_or(0, |k| k.whole);
        let file = &mut writer.file;
        file.set_len(whole).and_then(|()| file.seek(SeekFrom::Start(whole))).with_context(failed)?;
        if known.is_none() {
            writer.line(header)?;
        }
        Ok((writer, known.map_or_else(Vec::new, |k| k.records)))
    }

    /// Appends a record.
    pub fn append(&mut self, record: &Record) -> Result<()> {
        self.line(record)
    }

    fn line(&mut self, value: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(value)?;
        line.push(b'\n');
        self.file.write_all(&line).with_context(|| format!("cannot write '{}'", self.path.display()))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Closing is not enough: a program that is just being started still has the file open, and with it the lock.
        let _ = self.file.unlock();
    }
}
