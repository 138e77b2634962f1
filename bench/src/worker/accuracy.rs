//! How far the vision file's embeddings are from those of the same weights in F32.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Args;
use tinygptv::gguf::Gguf;
use tinygptv::threads::ThreadPool;
use tinygptv::vision::{Control, Precision, VisionEncoder};

use super::{ours, unable};
use crate::protocol::{Figures, Request};

/// The two files, and threads.
#[derive(Args)]
pub struct Options {
    /// Vision file.
    #[arg(long)]
    vision: PathBuf,
    /// The same in F32.
    #[arg(long)]
    exact: PathBuf,
    /// Threads.
    #[arg(long)]
    threads: usize,
}

/// Pictures that are encoded with both files.
const PICTURES: u32 = 2;

/// Whatever the round, the answer is the same: it is computed once.
pub struct Accuracy<'a> {
    options: &'a Options,
    measured: Option<Figures>,
}

pub fn about(options: &Options) -> Result<BTreeMap<String, String>> {
    let encoder = load(&options.vision, 1, Precision::Auto)?;
    Ok(BTreeMap::from([("vision kernels".to_owned(), encoder.instruction_set())]))
}

fn load(path: &Path, threads: usize, precision: Precision) -> Result<VisionEncoder> {
    Ok(VisionEncoder::load_with(&Gguf::open(path)?, Arc::new(ThreadPool::new(threads)), precision)?)
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

impl<'a> Accuracy<'a> {
    pub fn new(options: &'a Options) -> Accuracy<'a> {
        Accuracy { options, measured: None }
    }

    pub fn perform(&mut self, request: &Request) -> Result<Figures> {
        let Request::Accuracy = request else { return unable(request) };
        if self.measured.is_none() {
            self.measured = Some(self.measure()?);
        }
        self.measured.clone().context("it was just measured")
    }

    /// The smallest cosine between vectors of the two files' embeddings, the rounded one's computed as usual and in f32.
    fn measure(&self) -> Result<Figures> {
        let open = |path: &Path, precision| load(path, self.options.threads, precision);
        let exact = open(&self.options.exact, Precision::Exact)?;
        let width = exact.dims().projection_dim;
        let images = (1..=PICTURES).map(ours::picture).collect::<Result<Vec<_>>>()?;
        let encode = |encoder: &VisionEncoder| -> Result<Vec<f32>> {
            let each = images.iter().map(|image| Ok(encoder.encode(image, Control::default())?));
            Ok(each.collect::<Result<Vec<_>>>()?.concat())
        };
        let wanted = encode(&exact)?;
        let mut all = Figures::new();
        for (name, precision) in [("cosine", Precision::Auto), ("weights", Precision::Exact)] {
            let rounded = encode(&open(&self.options.vision, precision)?)?;
            let vectors = rounded.chunks_exact(width).zip(wanted.chunks_exact(width));
            let least = vectors.map(|(a, b)| cosine(a, b)).min_by(f64::total_cmp);
            all.insert(name.to_owned(), least.context("an embedding has no vectors")?);
        }
        Ok(all)
    }
}
