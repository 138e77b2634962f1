//! Datasets on the disk, and an answerer that reads from a script.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{anyhow, Result};
use tempfile::TempDir;
use tinygptv_eval::answerer::{Answerer, Failure};
use tinygptv_eval::benchmark::Benchmark;
use tinygptv_eval::formats::{load, Dataset, Location};

/// A folder with files, removed when dropped.
pub struct Folder(TempDir);

impl Folder {
    pub fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    pub fn at(&self, annotations: &str, split: Option<&str>) -> Location {
        let images = self.path("images");
        Location { annotations: self.path(annotations), images, split: split.map(str::to_owned) }
    }

    pub fn load(&self, benchmark: Benchmark, annotations: &str) -> Result<Dataset> {
        load(benchmark, &self.at(annotations, None))
    }
}

/// A file of this repository.
pub fn repository(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

/// What the script says to a question.
pub enum Line {
    Says(&'static str),
    Losses(&'static [f32]),
    /// The item's picture is broken.
    Broken,
    /// The model fails.
    Fails,
}

/// Answers a question with the script's line for it: the one whose key the question contains.
pub struct Script {
    lines: Vec<(&'static str, Line)>,
    /// Pictures and questions, in the order in which they came.
    pub asked: Vec<(PathBuf, String)>,
}

impl Script {
    pub fn new(lines: Vec<(&'static str, Line)>) -> Script {
        Script { lines, asked: Vec::new() }
    }

    fn line(&mut self, picture: &Path, question: &str) -> Result<&Line, Failure> {
        self.asked.push((picture.to_owned(), question.to_owned()));
        let mut fitting = self.lines.iter().filter(|(key, _)| question.contains(key));
        let (_, line) = fitting.next().unwrap_or_else(|| panic!("no line for '{question}'"));
        assert!(fitting.next().is_none(), "two lines for '{question}'");
        match line {
            Line::Broken => Err(Failure::Item("no picture".into())),
            Line::Fails => Err(Failure::Run(anyhow!("out of order"))),
            line => Ok(line),
        }
    }
}

impl Answerer for Script {
    fn answer(&mut self, picture: &Path, question: &str) -> Result<String, Failure> {
        match self.line(picture, question)? {
            Line::Says(text) => Ok((*text).to_owned()),
            _ => panic!("'{question}' is not to be generated"),
        }
    }

    fn rank(&mut self, picture: &Path, question: &str, candidates: &[String]) -> Result<Vec<f32>, Failure> {
        match self.line(picture, question)? {
            Line::Losses(losses) => {
                assert_eq!(losses.len(), candidates.len());
                Ok(losses.to_vec())
            }
            _ => panic!("'{question}' is not to be ranked"),
        }
    }
}
